"""Eight CPU devices for every test, one process to start scripts off, one small federation."""

import gc
import os
import shutil
import signal
import tempfile

import jax
import numpy as np
import optax
import pytest

import jfu
from helpers.crashes import CHECKPOINT, TRAIN
from helpers.federation import ROWS, network
from helpers.forks import server
from helpers.scripts import CHEAP, ROOT, compiled
from jfu.data import Dataset

LONG = ("tests/slow", "tests/scripts", "tests/launch", "tests/helpers")  # they start processes
# Flags that somebody gives come last and win.
os.environ["XLA_FLAGS"] = f"{CHEAP} {os.environ.get('XLA_FLAGS', '')}"
jfu.cpu_devices(8)
# What is started in the background ignores these, and so would all that it starts.
USUAL = {signal.SIGINT: signal.default_int_handler, signal.SIGHUP: signal.SIG_DFL}
for number, handler in USUAL.items():
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, handler)
jax.config.update("jax_numpy_rank_promotion", "raise")


def pytest_configure(config):
    """The conformance job asks besides whether any random key is used twice."""
    if config.option.markexpr.startswith("conformance"):
        jax.config.update("jax_debug_key_reuse", True)
    if "JFU_TEST_CACHE" not in os.environ:  # the processes of tests inherit this one's
        folder = os.environ["JFU_TEST_CACHE"] = tempfile.mkdtemp(prefix="jfu-tests-")
        config.add_cleanup(lambda: shutil.rmtree(folder, ignore_errors=True))
    cached = compiled("tests")
    jax.config.update("jax_compilation_cache_dir", cached["JAX_COMPILATION_CACHE_DIR"])
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def pytest_collection_modifyitems(items):
    """Files whose tests take long first, so that neither process waits for the other at the end."""
    place = lambda item: str(item.path.relative_to(ROOT))
    items.sort(key=lambda item: [not place(item).startswith(folder) for folder in LONG])


def pytest_collection_finish(session):
    """Tracing makes so many objects that looking through them took a fifth of the tests' time."""
    gc.collect()
    gc.freeze()  # what is imported and collected is no garbage
    gc.set_threshold(1_000_000, 20, 100)


@pytest.fixture
def keys_unchecked():
    """Of loops under vmap, which select whole carries, JAX says that a key was used before."""
    with jax.debug_key_reuse(False):
        yield


# ---------------------------------------------------------------- the scripts


@pytest.fixture(scope="session", autouse=True)
def _scripts():
    """Scripts are forked off one process that has imported."""
    yield
    if server.cache_info().currsize:
        server().end()


@pytest.fixture(scope="module")
def forks():
    """Starts scripts off one process that has imported them all."""
    server().written()  # what other files' runs wrote
    return server()


@pytest.fixture(scope="module")
def small_training(forks, tmp_path_factory):
    """The work directory of a training that nothing happened to."""
    folder = tmp_path_factory.mktemp("whole") / "A"
    done = forks.run(*TRAIN, f"--workdir={folder}")
    assert done.status == 0, done.said
    assert forks.written() == [(CHECKPOINT, 1), (CHECKPOINT, 2), (CHECKPOINT, 3)]
    return folder


@pytest.fixture
def dataset():
    """Ninety small images of three classes."""
    rng = np.random.default_rng(0)
    x = rng.integers(0, 200, (90, 8, 8, 1)).astype(np.uint8)
    y = (np.arange(90) % 3).astype(np.int32)
    return Dataset(x[:60], y[:60], x[60:], y[60:], ("a", "b", "c"))


# ---------------------------------------------------------------- a small federation


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
