"""Work that a run will need, done in a thread while the main one compiles its rounds.

Compilers and imports leave a core idle for part of their time. What is done ahead changes no
number. An error here is silent: it comes again where the work is needed.
"""

import contextlib
import importlib
import os
import threading
from collections.abc import Callable, Sequence
from typing import Any

import jax

from launch.setup import keys
from launch.setup.study import Study
from launch.setup.trial import Trial
from launch.shell import hosts

ATTACKS = ("sklearn.linear_model", "sklearn.model_selection")
FEWEST = 10  # examples on each side of an attack, as in jfu.metrics.mia
FIGURES = ("matplotlib.figure", "matplotlib.backends.backend_agg")


def attacking(trial: Trial) -> None:
    """Imports what membership attacks need, if enough examples are to be forgotten."""
    if trial.evaluation.forget.sum() >= FEWEST:
        imported(ATTACKS)


def imported(modules: Sequence[str]) -> None:
    """Imports modules that are slow to import."""
    if "MPLBACKEND" in os.environ:  # a backend that does not exist here is an error of the import
        modules = [name for name in modules if name not in FIGURES]
    _begun(lambda: [importlib.import_module(name) for name in modules])


def drawing() -> None:
    """Compiles what draws a run's keys, while the data are read."""
    mesh = jax.sharding.get_mesh()

    def work():
        with contextlib.nullcontext() if mesh.empty else jax.set_mesh(mesh):
            keys.pair(keys.run(jax.random.key(0), "retrain"))

    if not hosts.several():
        _begun(work)


def judging(study: Study, trial: Trial) -> Study:
    """The study, whose ``judge`` is being compiled for a trial. A call waits until it is compiled.

    On several hosts it is the same study: they compile in the same order.
    """
    if hosts.several():
        return study
    mesh = jax.sharding.get_mesh()
    whole = None if mesh.empty else jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    put = lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=whole)
    sides = [trial.pool, trial.evaluation] if trial.pool else [trial.evaluation]
    arrays = [(side.x, side.y) for side in sides]

    def work():
        with contextlib.nullcontext() if mesh.empty else jax.set_mesh(mesh):
            variables = jax.tree.map(put, jax.eval_shape(study.model.init, jax.random.key(0)))
            for x, y in arrays:
                study.judge.lower(variables, x, y).compile()

    thread = _begun(work)

    def judge(*args):
        thread.join()
        return study.judge(*args)

    return study._replace(judge=judge)


def _begun(work: Callable[[], Any]) -> threading.Thread:
    def quietly():
        with contextlib.suppress(Exception):
            work()

    thread = threading.Thread(target=quietly)
    thread.start()
    return thread
