"""Runs the suite's steps within given minutes, and goes on from what an earlier start has left.

``steps.jsonl`` has one line for each step, in order, with its state:

=======  ==============================================================================
done     it ended by itself; it is not run again
cut      it was ended at its limit, or with the suite; what it has measured is kept
failed   it ended with an error, which ``why`` has
left     too little time was left; ``seconds`` is what it is expected to take
lacks    a package or a data set is not here, which ``why`` names
=======  ==============================================================================

Every file is replaced atomically, so a kill at any moment leaves whole files.
"""

import importlib.metadata
import importlib.util
import os
import pathlib
import time
from collections.abc import Callable, Mapping
from typing import Any

from absl import flags

from jfu.data import packed, tfds
from jfu.io import write_bytes
from launch.shell.folders import make_folder
from launch.shell.printing import show
from launch.shell.say import say
from launch.timing.accelerator import files, processes, report, steps
from launch.timing.accelerator.row import UNFINISHED
from launch.timing.accelerator.steps import Setting, Step

FLAGS = flags.FLAGS
RESERVE = 5.0  # seconds at the end, to write what was found


def suite() -> None:
    """``launch.bench --suite=accelerator``."""
    out = pathlib.Path(FLAGS.out or "accelerator")
    setting = Setting(out.absolute(), FLAGS.rehearse, FLAGS.data_dir)
    for folder in (out, out / "rows", out / "logs"):
        make_folder(folder)
    refuse_other(setting)
    env = os.environ | environment(setting)
    forks = processes.Forks(env, str(steps.ROOT)) if setting.rehearse else None
    try:
        run(steps.all_steps(setting), setting, 60 * FLAGS.minutes, forks=forks)
    finally:
        if forks:
            forks.close()
    show((out / "report.md").read_text())


def refuse_other(setting: Setting) -> None:
    """Rehearsed rows and measured ones never come into one folder.

    Raises:
      ValueError: the folder has the other kind.
    """
    for row in files.read(setting.out / "steps.jsonl"):
        if row.get("rehearsed") != setting.rehearse:
            kind = "a rehearsal" if row.get("rehearsed") else "measurements"
            raise ValueError(f"{setting.out} has {kind}; choose another folder with --out")


def run(
    every: list[Step],
    setting: Setting,
    seconds: float,
    clock: Callable[[], float] = time.monotonic,
    forks: processes.Forks | None = None,
) -> dict[str, dict[str, Any]]:
    """Runs what is not done yet, in order, and returns the state of every step."""
    until = clock() + seconds - RESERVE
    path = setting.out / "steps.jsonl"
    known = {row["step"]: row for row in files.read(path)}
    states = {step.name: state(step, setting, known.get(step.name)) for step in every}
    files.write(path, states.values())
    collect(setting, every, list(states.values()))
    for step in every:
        mine = states[step.name]
        if mine["state"] == "done":
            continue
        left = until - clock()
        if why := lacking(step, setting):
            mine |= dict(state="lacks", why=why)
        elif left < expected(step, mine, setting):
            mine |= dict(state="left", why=f"{max(left, 0):.0f} s were left")
        else:
            say(f"{step.name}: {step.about}")
            mine |= once(step, setting, min(step.limit, left), forks)
        files.write(path, states.values())
        collect(setting, every, list(states.values()))
    return states


def state(step: Step, setting: Setting, known: Mapping[str, Any] | None) -> dict[str, Any]:
    """A step's line: what is known of it, or that it was not begun."""
    fresh = dict(step=step.name, state="left", why="not begun", took=None, cpu=None)
    fresh |= dict(seconds=step.seconds, limit=step.limit, command=steps.shown(step))
    fresh |= dict(rehearsed=setting.rehearse)
    kept = known or {}
    return fresh | {name: kept[name] for name in ("state", "why", "took", "cpu") if name in kept}


def expected(step: Step, mine: Mapping[str, Any], setting: Setting) -> float:
    """Seconds that a step needs. A rehearsal's steps are small, and all alike."""
    return 1.0 if setting.rehearse else step.seconds


def lacking(step: Step, setting: Setting) -> str | None:
    """What a step needs and is not here, in a sentence."""
    missing = [name for name in step.needs if importlib.util.find_spec(name) is None]
    if missing:
        return f"Python's {', '.join(missing)} is not installed here"
    return None if setting.rehearse or not step.data else without(step.data, setting)


def without(data: str, setting: Setting) -> str | None:
    """What keeps a data set from being read here, in a sentence."""
    where = tfds.folder(setting.data_dir)
    if packed.find(data, where):
        return None
    if not os.path.isdir(os.path.join(where, data)):
        return f"{data} is not in {where}; give --data_dir, packed or prepared by launch.prepare"
    if importlib.util.find_spec("tensorflow_datasets") is None:
        return f"tensorflow_datasets is not installed here; pack {data} with launch.prepare --pack"
    return None


def once(
    step: Step, setting: Setting, limit: float, forks: processes.Forks | None = None
) -> dict[str, Any]:
    """Runs a step for at most ``limit`` seconds; its output goes into the folder ``logs``."""
    began, log = time.monotonic(), str(setting.out / "logs" / f"{step.name}.txt")
    first, *rest = steps.argv(step, limit)
    if forks and first == "-m":
        running = forks.start(rest[0], rest[1:], log)
    else:
        env = os.environ | environment(setting)
        running = processes.fresh([first, *rest], log, env, str(steps.ROOT))
    ended = None
    try:
        ended = running.wait(limit)
    finally:
        last = ended or processes.end(running)
    took = round(time.monotonic() - began, 1)
    costs = dict(took=took, cpu=round(last[1], 1))
    if ended is None:
        return costs | dict(state="cut", why=f"it was ended after {took:.0f} s")
    if ended[0] == UNFINISHED:
        return costs | dict(state="cut", why="it stopped in time; the same command goes on")
    if ended[0]:
        return costs | dict(state="failed", why=last_line(setting, step))
    return costs | dict(state="done", why=None)


def environment(setting: Setting) -> dict[str, str]:
    """A rehearsal runs on CPU, compiles without trouble, and no program twice."""
    own = dict(PYTHONPATH=os.pathsep.join(filter(None, (str(steps.ROOT), os.getenv("PYTHONPATH")))))
    if not setting.rehearse:
        return own
    cheap = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
    cheap += " --xla_cpu_parallel_codegen_split_count=1"
    if tuple(map(int, importlib.metadata.version("jax").split(".")[:2])) < (0, 11):
        cheap += " --xla_cpu_use_fusion_emitters=false"  # later ones have no others
    return own | dict(
        JAX_PLATFORMS="cpu",
        XLA_FLAGS=f"{os.environ.get('XLA_FLAGS', '')} {cheap}".strip(),
        JAX_COMPILATION_CACHE_DIR=str(setting.out / "cache"),
        JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS="0",
    )


def last_line(setting: Setting, step: Step) -> str:
    text = (setting.out / "logs" / f"{step.name}.txt").read_text(errors="replace")
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:300] if lines else "it said nothing"


def collect(setting: Setting, every: list[Step], states: list[dict[str, Any]]) -> None:
    """Writes the rows of all steps into ``accelerator.jsonl``, and ``report.md`` from them."""
    found = []
    for step in every:
        if step.file:
            path = steps.rows_of(setting, step.file)
            found += [dict(step=step.name) | row for row in files.read(path)]
    files.write(setting.out / "accelerator.jsonl", found)
    write_bytes(setting.out / "report.md", report.markdown(found, states).encode())
