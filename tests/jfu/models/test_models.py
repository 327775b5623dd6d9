"""Networks as pure functions: the table of models, and any Linen module."""

import functools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from helpers.networks import Mixed, images_of, quick_jit, same_bits, started
from jfu import models
from jfu.fedavg import fedavg
from jfu.local import classification, local_sgd
from jfu.models import MODELS, NORMS, build, from_linen, own
from jfu.models.layers import pixels
from jfu.models.resnet import ResNet18
from jfu.models.vit import ViT
from jfu.stacking import stack

COUNTS = [
    ("mlp", 10, (28, 28, 1), None, 199_210),
    ("cnn", 10, (32, 32, 3), None, 797_962),
    ("cnn", 100, (32, 32, 3), "none", 815_332),
    ("cnn", 10, (32, 32, 3), "group", 797_962 + 2 * 2 * 64),
    ("resnet18", 10, (32, 32, 3), "group", 11_173_962),
    ("resnet18", 10, (32, 32, 3), "batch", 11_173_962),
    ("resnet18", 100, (32, 32, 3), None, 11_220_132),
    ("resnet18", 100, (32, 32, 3), "batch", 11_220_132),
    ("resnet18_narrow", 10, (32, 32, 3), None, 701_466),
    ("vit_base", 101, (224, 224, 3), None, 85_876_325),
]


@functools.cache
def _tiny_resnet(widths=(4, 6)):
    """A ResNet with batch norm, a projected shortcut if there are two widths, and its start."""
    module = ResNet18(3, norm="batch", widths=widths)
    model = from_linen(module, jax.ShapeDtypeStruct((1, 8, 8, 3), jnp.uint8))
    return model, started(model)


@pytest.mark.parametrize("name, classes, shape, norm, count", COUNTS)
def test_parameter_counts(name, classes, shape, norm, count):
    model = build(name, classes=classes, image_shape=shape, norm=norm)
    params = jax.eval_shape(model.init, jax.random.key(0))["params"]
    assert sum(math.prod(a.shape) for a in jax.tree.leaves(params)) == count
    plain = dict(convolution=jax.lax.conv_general_dilated)
    stock = build(name, classes=classes, image_shape=shape, norm=norm, **plain)
    assert jax.eval_shape(stock.init, jax.random.key(0))["params"] == params


@pytest.mark.parametrize("name", MODELS)
def test_every_model_starts_at_its_stem_and_ends_at_its_head(name):
    texts = name == "lm_tiny"
    shape = (9,) if texts else (8, 8, 1) if name == "small" else (32, 32, 3)
    model = build(name, classes=7, image_shape=shape)
    assert model.layers[0] == ("embed" if texts else "stem") and model.layers[-1] == "head"
    variables = jax.eval_shape(model.init, jax.random.key(0))
    assert type(variables) is dict and type(variables["params"]) is dict
    logits, changed = jax.eval_shape(
        model.apply, variables, jax.ShapeDtypeStruct((2, *shape), jnp.int32 if texts else jnp.uint8)
    )
    assert (
        logits.shape == ((2, 9, 7) if texts else (2, 7))
        and logits.dtype == jnp.float32
        and changed == {}
    )


def test_stock_convolution_gives_the_same_logits():
    x = images_of(0, 3, 8, 8, 1)
    ours = build("small", classes=10, image_shape=(8, 8, 1))
    plain = dict(convolution=jax.lax.conv_general_dilated)
    stock = build("small", classes=10, image_shape=(8, 8, 1), **plain)
    variables = started(ours)
    same_bits(variables, started(stock))
    read = lambda model: quick_jit(model.apply)(variables, x)[0]
    np.testing.assert_allclose(read(ours), read(stock), rtol=1e-5)


def test_bytes_equal_floats():
    every = np.arange(256, dtype=np.uint8)
    np.testing.assert_array_max_ulp(pixels(jnp.asarray(every)), every.astype(np.float32) / 255)
    x = images_of(0, 3, 8, 8, 1)
    vit = from_linen(ViT(3, width=8, depth=1, heads=2), x)
    resnet = from_linen(ResNet18(3, widths=(4,)), x)
    for model in (
        vit,
        resnet,
        *(build(n, classes=3, image_shape=(8, 8, 1)) for n in ("mlp", "small")),
    ):
        variables = started(model)
        read = quick_jit(model.apply)
        logits = [read(variables, x)[0] for x in (x, pixels(jnp.asarray(x)))]
        same_bits(*logits)


def test_errors_say_what_is_possible():
    with pytest.raises(ValueError, match="no model 'resnet'; choose one of .*'resnet18'"):
        build("resnet", classes=2, image_shape=(8, 8, 1))
    with pytest.raises(ValueError, match=r"no norm 'layer'; choose one of \['group', 'batch'\]"):
        build("resnet18", classes=2, image_shape=(8, 8, 1), norm="layer")
    with pytest.raises(ValueError, match="no norm 'batch'; leave it out"):
        build("mlp", classes=2, image_shape=(8, 8, 1), norm="batch")
    with pytest.raises(ValueError, match="pass .height, width, channels."):
        build("small", classes=2, image_shape=(8, 8))
    with pytest.raises(ValueError, match="at least 16x16"):
        build("cnn", classes=2, image_shape=(8, 8, 1))
    with pytest.raises(ValueError, match="multiples of 4"):
        build("vit_tiny", classes=2, image_shape=(30, 32, 3))
    assert set(NORMS) <= set(MODELS)


class Deep(nn.Module):
    """A user's own module: no train, no mask, layers with automatic names."""

    @nn.compact
    def __call__(self, tokens):
        x = nn.Embed(11, 4)(tokens).mean(1)
        for _ in range(12):
            x = nn.LayerNorm()(nn.tanh(nn.Dense(4)(x)))
        shared = nn.Dense(4, name="a_last_but_one")
        return nn.Dense(3, name="a_last")(shared(shared(x)))


def test_layers_come_in_call_order():
    model = from_linen(Deep(), jnp.zeros((2, 5), jnp.int32))
    dense = tuple(f"Dense_{i}" for i in range(12))
    assert model.layers == ("Embed_0", *dense, "a_last_but_one", "a_last")
    assert model.follows == ()
    again = from_linen(Deep(), jax.ShapeDtypeStruct((2, 5), jnp.int32))
    assert again.layers == model.layers
    variables = started(model)
    tokens = jnp.arange(10).reshape(2, 5)
    logits, changed = model.apply(variables, tokens, train=True, mask=jnp.ones(2))
    same_bits(logits, Deep().apply(variables, tokens))
    assert changed == {}


def test_attention_and_blocks_come_in_call_order():
    model = build("vit_tiny", classes=10, image_shape=(32, 32, 3))
    parts = "attention/query", "attention/key", "attention/value", "attention/out", "mlp1", "mlp2"
    blocks = [f"block{i}/{part}" for i in range(1, 13) for part in parts]
    assert model.layers == ("stem", *blocks, "head")


def test_only_the_norm_right_after_a_layer_follows_it():
    model = from_linen(Mixed(), jnp.zeros((2, 3)))
    assert model.follows == (("BatchNorm_0/mean", "Dense_0"),)
    variables, x = started(model), jnp.arange(12.0).reshape(4, 3) ** 2
    runs = [model.apply(variables, x, train=True, key=jax.random.key(k))[0] for k in (0, 0, 1)]
    same_bits(runs[0], runs[1])
    assert (runs[0] != runs[2]).any()
    same_bits(model.apply(variables, x)[0], Mixed().apply(variables, x))


def test_features_of_a_training_pass_come_with_its_logits_and_statistics():
    """Of the same dropout and the same batch: the last layer makes the logits of them."""
    model = from_linen(Mixed(), jnp.zeros((2, 3)))
    variables, x = started(model), jnp.arange(12.0).reshape(4, 3) ** 2
    how = dict(train=True, mask=jnp.array([1.0, 1, 0, 1]), key=jax.random.key(0))
    logits, features, changed = jax.jit(functools.partial(model.apply_features, **how))(
        variables, x
    )
    same_bits((logits, changed), jax.jit(functools.partial(model.apply, **how))(variables, x))
    assert features.shape == (4, 4) and (features == 0).any()  # dropout
    head = variables["params"][model.layers[-1]]
    np.testing.assert_allclose(logits, features @ head["kernel"] + head["bias"][None], rtol=1e-5)
    still = model.apply_features(variables, x)
    same_bits(still[1], model.features(variables, x))
    assert still[2] == {} and (still[1] != features).any()


def test_batch_statistics_without_a_mask_are_refused():
    class Plain(nn.Module):
        @nn.compact
        def __call__(self, x, train=False):
            return nn.BatchNorm(use_running_average=not train)(nn.Dense(2)(x))

    with pytest.raises(ValueError, match="Plain keeps batch statistics, .* add mask=None"):
        from_linen(Plain(), jnp.zeros((1, 3)))


def test_batch_statistics_are_those_of_the_live_rows():
    model, variables = _tiny_resnet()
    x, mask = images_of(0, 6, 8, 8, 3), jnp.array([1.0, 0, 1, 1, 0, 0])
    live = np.flatnonzero(mask)
    apply = quick_jit(functools.partial(model.apply, train=True))
    logits, changed = apply(variables, x, mask=mask)
    alone, exact = apply(variables, x[live])
    np.testing.assert_allclose(logits[live], alone, rtol=1e-4, atol=1e-5)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), changed, exact
    )

    first = variables["params"]["stem"]["kernel"]
    y = jax.lax.conv_general_dilated(
        x[live] / np.float32(255), first, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    stem = changed["batch_stats"]["stem_norm"]
    np.testing.assert_allclose(stem["mean"], 0.1 * y.mean((0, 1, 2)), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(stem["var"], 0.9 + 0.1 * y.var((0, 1, 2)), rtol=1e-4)


def test_rows_that_are_not_live_change_no_bit():
    model, variables = _tiny_resnet()
    x, mask = images_of(0, 6, 8, 8, 3), jnp.array([1.0, 0, 1, 1, 0, 0])
    garbage = np.where(np.asarray(mask)[:, None, None, None] > 0, x, images_of(1, *x.shape))

    @jax.jit
    def step(x):
        def loss(params):
            logits, changed = model.apply({**variables, "params": params}, x, train=True, mask=mask)
            return (logits**2 * mask[:, None]).sum(), (logits * mask[:, None], changed)

        return jax.grad(loss, has_aux=True)(variables["params"])

    same_bits(step(x), step(garbage))


def test_a_batch_without_live_rows_keeps_the_statistics():
    model, variables = _tiny_resnet()
    x = images_of(0, 4, 8, 8, 3)

    def step(params, mask):
        logits, changed = model.apply({**variables, "params": params}, x, train=True, mask=mask)
        return (logits * mask[:, None]).sum(), changed

    slope, changed = quick_jit(jax.grad(step, has_aux=True))(variables["params"], jnp.zeros(4))
    same_bits(changed, {"batch_stats": variables["batch_stats"]})
    same_bits(slope, jax.tree.map(jnp.zeros_like, slope))


def test_a_federated_round_with_batch_statistics():
    """Neither padding slots, nor what the pool holds there, nor an absent client change a bit."""
    model, variables = _tiny_resnet((4,))
    work = local_sgd(classification(model.apply), optax.sgd(0.05), batch_size=4)
    fed = fedavg(work)
    x, y = images_of(0, 16, 8, 8, 3), np.arange(16) % 3
    data = stack(x, y, [range(6), range(6, 9), range(9, 14)])
    start = fed.init(variables)
    run = jax.jit(fed.round)
    state, info = run(start, data, jax.random.key(1))
    assert all(
        (a != b).any()
        for a, b in zip(
            jax.tree.leaves(state.variables["batch_stats"]),
            jax.tree.leaves(start.variables["batch_stats"]),
            strict=True,
        )
    )

    # Dead slots point at other rows, which hold other images; rows 14 and 15 are nobody's.
    other = data._replace(
        x=data.x.at[14:].set(255 - data.x[14:]), index=jnp.where(data.mask, data.index, 15)
    )
    same_bits(run(start, other, jax.random.key(1))[0], state)

    absent = jax.tree.map(lambda a: jnp.concatenate([a, a[:1]]), (data.index, data.mask, data.id))
    more = data._replace(
        index=absent[0] + 9, mask=absent[1].at[3].set(False), id=absent[2].at[3].set(7)
    )
    more = more._replace(index=more.index.at[:3].set(data.index))
    after, info = jax.jit(fed.round)(start, more, jax.random.key(1))
    assert info.clients.weight.tolist() == [6, 3, 5, 0]
    same_bits(after, state)


@pytest.mark.parametrize("name", ["small", "cnn", "resnet18", "vit_tiny"])
@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 28, 28), (4, 20, 24)])
def test_images_with_channels_first_are_refused(name, shape):
    with pytest.raises(ValueError, match=r"transpose the images: x.transpose\(0, 2, 3, 1\)"):
        build(name, classes=3, image_shape=shape)


def test_what_only_looks_like_channels_is_taken():
    assert build("mlp1", classes=3, image_shape=(3, 32, 32)).layers
    assert build("resnet18_narrow", classes=3, image_shape=(32, 4, 64)).layers


@pytest.mark.parametrize(
    ("name", "shape", "words"),
    [
        ("small", (2, 8, 8), "the images are 2x8 and the network 'small' needs at least 4x4"),
        ("small", (3, 3, 1), "the images are 3x3 and the network 'small' needs at least 4x4"),
        ("small", (64,), "or choose mlp, mlp1 or mlp4, which take any shape"),
        ("mlp", (8, 8, 0), "no side of it may be 0"),
        ("resnet18", (0, 8, 1), "no side of it may be 0"),
        ("vit_tiny", (8, 8, 0), "no side of it may be 0"),
    ],
)
def test_images_that_a_network_cannot_take(name, shape, words):
    with pytest.raises(ValueError, match=words):
        models.build(name, classes=3, image_shape=shape)


def test_the_language_model_sees_no_token_after_the_one_that_it_reads():
    model, ids = build("lm_tiny", classes=7, image_shape=(6,)), jnp.arange(6)[None]
    variables, read = started(model), quick_jit(model.apply)
    one, two = (read(variables, x)[0] for x in (ids, ids.at[0, 4].set(0)))
    np.testing.assert_array_equal(one[:, :4], two[:, :4])
    assert (np.abs(one - two)[:, 4:].max(-1) > 1e-3).all()
    own.check_causal(model, jax.ShapeDtypeStruct((2, 6), jnp.int32), 7, "lm_tiny")
    with pytest.raises(ValueError, match="lm_tiny reads token ids"):
        build("lm_tiny", classes=7, image_shape=(8, 8, 1))
    with pytest.raises(ValueError, match="no norm 'group'"):
        build("lm_tiny", classes=7, image_shape=(8,), norm="group")
