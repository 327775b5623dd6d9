"""Examples in docstrings run, public functions have docstrings, and importing stays light."""

import doctest
import importlib
import inspect
import json
import pkgutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jfu
from jfu.models import build


def _modules(package):
    """Names of a package and everything below it; none where it is not installed."""
    try:
        root = importlib.import_module(package)
    except ImportError:
        return []
    below = pkgutil.walk_packages(root.__path__, f"{package}.")
    return [package, *(m.name for m in below if not m.name.endswith("__main__"))]


def _federation():
    """What the examples of unlearning methods are built from."""
    model = build("mlp", classes=3, image_shape=(4, 4, 1))

    def local(loss=None, optimizer=None, epochs=1):
        loss, optimizer = loss or jfu.classification(model.apply), optimizer or optax.sgd(0.1)
        return jfu.local_sgd(loss, optimizer, epochs=epochs, batch_size=32)

    return dict(model=model, local=local, fed=jfu.fedavg(local()))


@pytest.mark.parametrize("name", _modules("jfu") + _modules("launch"))
def test_examples(name):
    """With jax, jnp, np, optax and a federation at hand, and what the module itself knows."""
    module = importlib.import_module(name)
    given = {"jax": jax, "jnp": jnp, "np": np, "optax": optax}
    given |= _federation() if name.startswith("jfu.unlearn.") else {}
    result = doctest.testmod(module, globs={**given, **vars(module)}, report=True)
    assert result.failed == 0


def test_the_examples_are_found():
    """At least the ones of the modules that every user starts from."""
    finder = doctest.DocTestFinder(exclude_empty=True)
    for name in ("stacking", "clients", "local", "fedavg", "select", "metrics"):
        found = finder.find(importlib.import_module(f"jfu.{name}"))
        assert any(test.examples for test in found), name


PUBLIC = sorted(name for name in jfu.__all__ if inspect.isfunction(getattr(jfu, name)))


def test_the_public_functions_are_listed():
    known = {"stack", "split", "fedavg", "local_sgd", "select", "negation", "rounds", "mia", "wire"}
    assert known <= set(PUBLIC)


@pytest.mark.parametrize("name", PUBLIC)
def test_public_functions_have_docstrings(name):
    assert inspect.getdoc(getattr(jfu, name))


HEAVY = "flax orbax sklearn matplotlib tensorflow_datasets tensorflow PIL safetensors scipy.stats"


def test_import_is_light():
    """Optional packages and what is named last stay out; JAX's devices can still be configured."""
    code = f"""
import json, sys
import jfu, jax
loaded = [m for m in {HEAVY.split()!r} + sorted(jfu._LATER.values()) if m in sys.modules]
assert set(jfu.__all__) <= set(dir(jfu)), "names that dir does not list"
for name in jfu.__all__:
    getattr(jfu, name)
jax.config.update("jax_num_cpu_devices", 3)  # refused once a backend is up
print(json.dumps([loaded, jax.device_count("cpu")]))
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert json.loads(run.stdout) == [[], 3]
