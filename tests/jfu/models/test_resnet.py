"""The residual network's norms."""

import jax

from jfu.models import build


def test_every_batch_norm_of_the_resnet_follows_its_convolution():
    model = build("resnet18", classes=10, image_shape=(32, 32, 3), norm="batch")
    follows = dict(model.follows)
    assert len(follows) == len(model.follows) == 20
    assert set(follows.values()) == set(model.layers) - {"head"}
    for mean, layer in model.follows:
        norm = mean.removesuffix("/mean")
        pair = {"stem_norm": "stem", "shortcut_norm": "shortcut", "norm1": "conv1"}
        block, _, last = norm.rpartition("/")
        assert layer == "/".join(filter(None, [block, pair.get(last, "conv2")]))
    statistics = jax.eval_shape(model.init, jax.random.key(0))["batch_stats"]
    flat = jax.tree_util.tree_flatten_with_path(statistics)[0]
    paths = {"/".join(k.key for k in path) for path, _ in flat}
    assert {name for name in paths if name.endswith("/mean")} == set(follows)
    assert build("resnet18", classes=10, image_shape=(32, 32, 3)).follows == ()
