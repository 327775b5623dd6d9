"""Eight CPU devices for every test, and one small federation with a network in plain JAX."""

import functools
import os

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jfu

jfu.cpu_devices(8)
jax.config.update("jax_numpy_rank_promotion", "raise")

# The quick checks that every supported Python and JAX must pass.
CONFORMANCE = ("test_fedavg", "test_local", "test_select", "test_unlearn", "test_metrics")
CONFORMANCE += ("test_clients", "test_conv", "test_devices", "test_dot", "test_layout")


def pytest_collection_modifyitems(items):
    for item in items:
        if item.module.__name__ in CONFORMANCE:
            item.add_marker(pytest.mark.conformance)


ROWS = ([4, 0, 9, 2, 11, 7, 5], [1, 8, 3], [6, 10, 12, 13, 15])  # row 14 and those from 16 are free


# Compiling is most of the time in these tests; this halves it where no bit is compared.
quick_jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def bits(tree):
    """Every leaf as its bytes, so that -0.0 differs from 0.0 and NaN equals itself."""
    return jax.tree.map(lambda a: np.asarray(a).tobytes(), tree)


def network(features=2, width=5, classes=3, activation=jnp.tanh):
    """Two dense layers, called stem then head."""

    def dense(layer, x):
        return x @ layer["kernel"] + layer["bias"][None]

    def init(key):
        stem, head = jax.random.split(key)
        draw = lambda key, n, m: {
            "kernel": jax.random.normal(key, (n, m)) / np.sqrt(n),
            "bias": jax.random.normal(jax.random.fold_in(key, 1), (m,)) / 10,
        }
        return {"params": {"stem": draw(stem, features, width), "head": draw(head, width, classes)}}

    def apply(variables, x, *, train=False, mask=None, key=None):
        params = variables["params"]
        return dense(params["head"], activation(dense(params["stem"], x))), {}

    def hidden(variables, x):
        return activation(dense(variables["params"]["stem"], x))

    return jfu.Model(
        init, apply, ("stem", "head"), features=hidden, cuts=lambda: (("stem",), ("head",))
    )


@pytest.fixture(scope="session", autouse=True)
def _compiled_once(tmp_path_factory):
    """Scripts that run alike share their compiled programs, to save the suite's time."""
    os.environ["JFU_TEST_CACHE"] = str(tmp_path_factory.mktemp("compiled"))


@pytest.fixture(scope="session")
def pool():
    """Twenty examples of two features and three classes."""
    rng = np.random.default_rng(0)
    return rng.normal(size=(20, 2)).astype(np.float32), (np.arange(20) % 3).astype(np.int32)


@pytest.fixture(scope="session")
def data(pool):
    """Three clients with 7, 3 and 5 examples and ids that are not their positions."""
    return jfu.stack(*pool, ROWS, ids=[5, 2, 9])


@pytest.fixture(scope="session")
def model():
    return network()


@pytest.fixture(scope="session")
def variables(model):
    return model.init(jax.random.key(1))


@pytest.fixture(scope="session")
def local(model):
    """Two epochs of batches of three with momentum; the last batch of an epoch is short."""
    loss = jfu.classification(model.apply)
    return jfu.local_sgd(loss, optax.sgd(0.1, momentum=0.9), epochs=2, batch_size=3)


@pytest.fixture(scope="session")
def fed(local):
    return jfu.fedavg(local)


@pytest.fixture(scope="session")
def round_once(fed, variables):
    """One compiled round of ``fed`` from ``variables``: clients -> (state, info)."""
    run = jax.jit(fed.round)
    return lambda clients, key=0: run(fed.init(variables), clients, jax.random.key(key))
