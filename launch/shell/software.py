"""The software of a run: packages, jfu's own files, and settings of JAX that change bits."""

import hashlib
import importlib.metadata
import pathlib
import platform
from typing import Any

import jax

import jfu

# Settings of JAX that change the bits of a run's results.
NUMERICS = (
    "jax_enable_x64",
    "jax_default_prng_impl",
    "jax_threefry_partitionable",
    "jax_default_matmul_precision",
    "jax_random_seed_offset",
    "jax_disable_most_optimizations",
)


def numerics() -> dict[str, Any]:
    """The current settings of JAX that change bits."""
    kept = jax.config.values  # of some there is no attribute
    return {name: getattr(jax.config, name, kept.get(name)) for name in NUMERICS}


def packages() -> dict[str, str]:
    """The versions of the packages that a run's results depend on."""
    names = ("jax", "jaxlib", "flax", "optax", "numpy", "scikit-learn")
    return {name: importlib.metadata.version(name) for name in names}


def versions() -> dict[str, str]:
    """What a work directory writes down: packages, and Python, whose help is a data set."""
    return packages() | dict(python=platform.python_version())


def own() -> dict[str, Any]:
    """The software of this host: packages, jfu's own files, and settings of JAX."""
    code = hashlib.sha256()
    folders = (pathlib.Path(jfu.__file__).parent, pathlib.Path(__file__).parents[1])
    for path in sorted(path for folder in folders for path in folder.rglob("*.py")):
        code.update(path.read_bytes())
    mine = dict(jfu=f"{jfu.__version__} ({code.hexdigest()[:8]})")
    return mine | packages() | numerics()
