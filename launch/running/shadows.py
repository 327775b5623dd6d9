"""Shadow federations of an audit: run in blocks, which are kept, and then used for attacks."""

import contextlib
import os
import pathlib
import re
import time
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jfu
import jfu.history
import jfu.io
from jfu import attacks, shadows
from jfu.costs import entries
from jfu.tasks import TASKS
from launch.running.programs import looked_at, not_kept
from launch.setup import keys, private
from launch.setup.methods import budget
from launch.setup.study import Study
from launch.setup.trial import Trial
from launch.shell.devices import place
from launch.shell.folders import make_folder
from launch.shell.say import say
from launch.workdir import locks
from launch.workdir.checkpoints import check_own
from launch.workdir.places import WorkDir

RETRAIN = "retrain"


class TooFew(ValueError):
    """There are too few examples to forget."""


def run(
    work: WorkDir,
    study: Study,
    trial: Trial,
    methods: dict[str, Any],
    many: int,
    chunk: int | None,
    part: tuple[int, int] = (1, 1),
) -> tuple[dict[str, np.ndarray], float | None, list[pathlib.Path]]:
    """Runs the shadows that are not finished.

    The work directory keeps them in blocks. A run that was stopped continues with the next block.

    Args:
      part: ``(2, 4)`` runs the second of four parts, and returns only the shadows of that part.

    Returns:
      ``phi`` of every candidate under every shadow's models, ``[S, n]`` by method (besides the
      methods ``original``, ``retrain``, and ``held``, which shadow was trained on what). The
      seconds of a shadow in the median block, without the first block and its compilation. The
      blocks' files.
    """
    request = trial.request
    rows = shadows.candidates(request)
    if len(rows) < attacks.LEAST:
        raise TooFew(
            f"{len(rows)} examples were to be forgotten, too few for attacks with shadow "
            f"federations, which need at least {attacks.LEAST}: audit a larger request."
        )
    key = jax.random.fold_in(trial.key, keys.SHADOW)
    held = shadows.halves(request, jax.random.fold_in(key, keys.SHADOW_HALVES), many)
    chunk = at_once(study, trial, many) if chunk is None else chunk
    size = 2 * study.layout.devices * chunk
    folder, own = work.path / "shadows", dict(run=work.run, seed=trial.seed)
    if trial.seed in work.drawn:
        own |= dict(draws=work.drawn[trial.seed])
    make_folder(folder)
    programs = Programs(study, methods, rows, chunk)
    shared = place((request, key))
    out: dict[str, list] = {name: [] for name in ("original", RETRAIN, *methods)}
    began, fresh, paths = time.perf_counter(), 0, []
    blocks = blocks_of(many, size, part)
    for done, numbers in enumerate(blocks, 1):
        path = folder / f"{trial.seed}-{many}-{numbers[0]}-{numbers[-1]}.safetensors"
        paths.append(path)
        known = {}
        if os.path.lexists(path):
            known = block(path, own, (len(numbers), len(rows)))
        wanted = [name for name in out if name not in known]
        if wanted:
            spent = jfu.io.load_notes(path)["seconds"] if known else {}
            mine = place((jnp.asarray(numbers), held[numbers]))
            if not fresh:
                programs.look(shared, mine)
            answers, took = programs(shared, mine, wanted)
            known |= answers
            fresh += len(numbers)
            # If methods are added to a block later, it keeps the time of its training.
            spent = {name: t / len(numbers) for name, t in took.items()} | spent
            notes = dict(shadows=numbers.tolist(), seconds=spent, of=own)
            if note := private.page_note(study.config):
                notes["outside_epsilon"] = note
            write_block(work, path, known, notes)
            left = sum(map(len, blocks[done:])) * (time.perf_counter() - began) / fresh
            say(f"  shadow federations {numbers[-1] + 1}/{many}, {left:.0f} s left")
        for name in out:
            out[name].append(np.asarray(known[name], np.float64))
    found = {name: np.concatenate(parts) for name, parts in out.items()}
    spent = [jfu.io.load_notes(path)["seconds"] for path in paths[1:]]
    seconds = float(np.median([sum(block[n] for n in out) for block in spent])) if spent else None
    there = np.concatenate(blocks)
    return found | dict(held=holdings(request, rows, np.asarray(held)[there])), seconds, paths


def part_of(text: str) -> tuple[int, int]:
    """The number of a part, and how many there are.

    >>> part_of("2/4")
    (2, 4)
    """
    match = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text)
    number, parts = map(int, match.groups()) if match else (0, 0)
    if not 1 <= number <= parts:
        raise ValueError(f"--shadows_part={text} is no part; the second of four parts is 2/4")
    return number, parts


def blocks_of(many: int, size: int, part: tuple[int, int] = (1, 1)) -> list[np.ndarray]:
    """The numbers of the shadows in each block of a part; parts take blocks in turns.

    >>> [block.tolist() for block in blocks_of(10, 4, (1, 2))]
    [[0, 1, 2, 3], [8, 9]]
    """
    every = [np.arange(start, min(many, start + size)) for start in range(0, many, size)]
    number, parts = part
    if parts > len(every):
        raise ValueError(
            f"--shadows_part={number}/{parts} has nothing to do: {many} shadow federations are "
            f"{len(every)} blocks of at most {size}, which cannot be {parts} parts"
        )
    return every[number - 1 :: parts]


def at_once(study: Study, trial: Trial, many: int) -> int:
    """How many of these shadows a device runs at once, by the size of their models."""
    share = -(-many // study.layout.devices)
    size = entries(jax.eval_shape(study.model.init, trial.key))
    size *= study.layout.chunk or len(trial.request.retain.id)
    return jfu.clients_at_once(study.layout.backend, share, size)


def holdings(request: jfu.Split, rows: np.ndarray, held: np.ndarray) -> np.ndarray:
    """Which shadow was trained with which candidate, ``[S, n]`` bool.

    Args:
      rows: the candidates' rows of the pool ``[n]``, ascending.
      held: the slots to be forgotten that each shadow has, ``[S, K, N]``.
    """
    forgotten = np.asarray(request.forget.index)
    holds = np.zeros((len(held), len(rows)), bool)
    asked = np.asarray(request.forget.mask) & np.isin(forgotten, rows)
    for k, n in zip(*np.nonzero(asked), strict=True):
        holds[:, np.searchsorted(rows, forgotten[k, n])] |= held[:, k, n]
    return holds


def write_block(
    work: WorkDir, path: pathlib.Path, known: dict[str, Any], notes: dict[str, Any]
) -> None:
    locks.check(work.path, work.lock)
    jfu.io.save_state(path, known, notes)


def block(path: pathlib.Path, own: dict[str, Any], shape: tuple[int, int]) -> dict[str, Any]:
    """The content of a block of this run and seed: ``[shadows, candidates]`` by method."""
    notes, known = jfu.io.load_notes(path), jfu.io.load_arrays(path)
    spent = notes.get("seconds") if isinstance(notes, dict) else None
    if not (isinstance(spent, dict) and all(isinstance(t, float) for t in spent.values())):
        raise ValueError(f"{path} is not a block of shadow federations of jfu; remove it")
    check_own(path, notes.get("of"), own)
    if wrong := [name for name, phi in known.items() if phi.shape != shape or name not in spent]:
        raise ValueError(f"{path} has {wrong[0]}, whose shape is not {list(shape)}; remove it")
    return known


def one_by_one(
    work: WorkDir, rows: Sequence[dict], seed: int, methods: Sequence[str]
) -> tuple[float, bool] | None:
    """Seconds that a comparison took for training, retraining and every method's answer.

    Returns:
      ``(seconds, measured)``. If training was done elsewhere, its seconds are estimated by those of
      retraining. None if a method was not run.
    """
    last = {r["method"]: r["seconds"] for r in rows if r["seed"] == seed}
    if not last.keys() >= {RETRAIN, *methods}:
        return None
    path = work.cell(seed, "original")
    trained = jfu.io.load_notes(path)["spent"]["seconds"] if path.exists() else 0.0
    answers = sum(last[name] for name in (RETRAIN, *methods))
    return (trained or last[RETRAIN]) + answers, trained > 0


class Programs:
    """One compiled program to train shadows, and one for each method's answer."""

    def __init__(self, study: Study, methods: dict[str, Any], rows: np.ndarray, chunk: int):
        config = study.config
        train = shadows.answer(study.train, config.rounds)
        answers = {RETRAIN: shadows.answer(study.fresh, config.rounds)}
        statistic = TASKS[config.task].statistic
        answers |= {
            name: shadows.answer(method, budget(config, name)) for name, method in methods.items()
        }

        def phi(variables, request):
            x, y = request.retain.x[rows], request.retain.y[rows]
            return statistic(study.model.apply(variables, x)[0], y)

        def begin(shared, row):
            (request, key), (number, held) = shared, row
            mine = jax.random.fold_in(jax.random.fold_in(key, keys.SHADOW_TRAIN), number)
            request = shadows.shadow(request, held)
            state = train(jfu.Trained(()), shadows.everything(request), mine)
            return state.variables, getattr(state, "history", ()), phi(state.variables, request)

        def respond(name):
            needs = methods[name].needs.history if name in methods else ()

            def one(shared, row):
                (request, key), (number, held, variables, history) = shared, row
                stream = keys.SHADOW_RETRAIN if name == RETRAIN else keys.SHADOW_ANSWER
                mine = jax.random.fold_in(jax.random.fold_in(key, stream), number)
                request = shadows.shadow(request, held)
                trained = jfu.Trained(variables, jfu.history.needed(history, needs))
                trained = jfu.Trained(()) if name == RETRAIN else trained
                return phi(answers[name](trained, request, mine).variables, request)

            return one

        mapped = lambda fn: jax.jit(shadows.map_federations(fn, chunk=chunk))
        self._begin = mapped(begin)
        self._respond = {name: mapped(respond(name)) for name in answers}
        # Methods whose programs contain images.
        self._apart = {name for name, method in methods.items() if method.needs.proxy_data}

    def look(self, shared: Any, rows: Any) -> None:
        """Prints notes on what is slow on a CPU: shadows side by side are grouped convolutions."""
        looked_at(self._begin.trace(shared, rows))

    def __call__(self, shared: Any, rows: Any, names: list[str]) -> tuple[dict, dict]:
        """``phi`` and seconds by name; training, which is always done, is ``original``."""
        found, seconds, began = {}, {}, time.perf_counter()
        variables, history, found["original"] = jax.block_until_ready(self._begin(shared, rows))
        seconds["original"] = time.perf_counter() - began
        rows = (*rows, variables, history)
        for name in names:
            if name != "original":
                began = time.perf_counter()
                with not_kept() if name in self._apart else contextlib.nullcontext():
                    found[name] = jax.block_until_ready(self._respond[name](shared, rows))
                seconds[name] = time.perf_counter() - began
        return {name: np.asarray(a) for name, a in found.items()}, seconds
