"""The programs of a method's run."""

from helpers.scripts import fresh

KEPT = """
import json, os, jax, jax.numpy as jnp, numpy as np
jax.config.update("jax_compilation_cache_dir", {folder!r})
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
from launch.running.programs import Programs
images = np.random.default_rng(0).integers(0, 255, (16, 8, 8), np.uint8)
def without(x): return 2 * x
def holding(x): return x * jnp.asarray(images).sum()
def after(x): return 3 * x
for fn in (without, holding, after): Programs()(fn, jnp.ones(3))
print(json.dumps(sorted(name.partition("-")[0] for name in os.listdir({folder!r}))))
"""


def test_a_program_that_holds_images_is_not_kept(tmp_path):
    found = fresh(KEPT.format(folder=str(tmp_path)))
    assert {"jit_without", "jit_after"} <= set(found)
    assert "jit_holding" not in found
