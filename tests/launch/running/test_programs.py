"""Compiled programs that are kept contain no data."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax._src.compilation_cache import decompress_executable
from jax.experimental.compilation_cache import compilation_cache

import jfu
from jfu import models
from jfu.unlearn import fukd
from launch.running.programs import Programs

SETTINGS = dict(
    jax_persistent_cache_min_compile_time_secs=0, jax_persistent_cache_min_entry_size_bytes=-1
)


@pytest.fixture
def cache(tmp_path):
    """A function that gives what the programs compiled since are kept as."""
    before = {name: getattr(jax.config, name) for name in (*SETTINGS, "jax_compilation_cache_dir")}
    for name, value in SETTINGS.items() | {("jax_compilation_cache_dir", str(tmp_path))}:
        jax.config.update(name, value)
    compilation_cache.reset_cache()
    files = lambda: [p for p in tmp_path.iterdir() if not p.name.endswith("-atime")]
    yield lambda: [decompress_executable(path.read_bytes()) for path in files()]
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()


def test_images_that_a_method_holds_are_not_in_the_cache(cache):
    """FUKD's images at the server become constants of its program, and would lie in the cache."""
    rng = np.random.default_rng(0)
    draw = lambda many: rng.integers(1, 255, (many, 8, 8, 1)).astype(np.uint8)
    images, key = draw(64), jax.random.key(0)
    model = models.build("mlp1", classes=3, image_shape=(8, 8, 1))
    fed = jfu.fedavg(jfu.local_sgd(jfu.classification(model.apply), jfu.fedadam(0.1)))
    method = fukd(fed, model, images, epochs=1, batch_size=32)
    data = jfu.stack(draw(4), [0, 1, 2, 0], [[0, 1], [2, 3]])
    request, variables = jfu.split(data, jfu.forget_client(data, [0])), model.init(key)
    sums = jax.tree.map(lambda p: jnp.zeros((2, *p.shape)), variables["params"])
    given = jfu.Trained(variables, dict(sums=sums)), request, key
    copies = lambda: sum(images.tobytes() in entry for entry in cache())
    Programs()(method.perturb, *given)
    assert copies() == 0
    jax.clear_caches()
    jax.jit(method.perturb).lower(*given).compile()  # as anybody else would
    assert copies() == 1
