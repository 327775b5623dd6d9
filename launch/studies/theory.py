"""Tests of the theorems behind NoT: claims, checks, tables."""

import concurrent.futures
import functools
import json
import multiprocessing
import os
import pathlib
from collections.abc import Sequence

import numpy as np
from absl import flags

import jfu.io
from jfu import theory
from jfu.files import read_json
from launch.report import figures
from launch.shell import interrupt
from launch.shell.folders import make_folder
from launch.shell.printing import listed, show
from launch.shell.say import say
from launch.studies import theorems, theory_figure
from launch.workdir.locks import take
from launch.workdir.workdir import untouched

FLAGS = flags.FLAGS
NOT_SHOWN = "not shown"


def try_theorems() -> None:
    text, names = run(FLAGS.workdir, FLAGS.seeds, FLAGS.processes)
    show(f"\n{text}\n{listed(names)} are in {FLAGS.workdir}/")


def run(path: str, seeds: int, processes: int = 1) -> tuple[str, list[str]]:
    """Runs the four experiments in a work directory; returns the tables' text and the files' names.

    Args:
      processes: activations that run at once; most of their time is compiling on one core.

    Raises:
      ValueError: the directory has anything else than such a run with as many seeds.
    """
    folder = claim(path, seeds)
    lock = take(folder)
    say(f"{', '.join(theory.ACTIVATIONS)}: {seeds} seeds each, {processes} at once")
    of = functools.partial(theorems.study, seeds=seeds)
    if processes == 1:
        found = list(map(of, theory.ACTIVATIONS))
    else:
        fresh = multiprocessing.get_context(
            "spawn"
        )  # a fork of a process with JAX's threads would hang
        with concurrent.futures.ProcessPoolExecutor(processes, fresh, interrupt.follow) as pool:
            found = list(pool.map(of, theory.ACTIVATIONS))
    rows = [row for some in found for row in some]
    text = markdown(rows)
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    jfu.io.write_bytes(folder / "theory.jsonl", lines.encode())
    jfu.io.write_bytes(folder / "theory.md", text.encode())
    plotted = figures.drawn(theory_figure.draw, rows, str(folder / "theory.png"))
    if lock:
        lock.close()
    return text, ["theory.jsonl", "theory.md", *["theory.png"] * plotted]


def claim(path: str, seeds: int) -> pathlib.Path:
    """Makes the work directory, or reuses one that was made with the same flags.

    Raises:
      ValueError: it has anything else; nothing is changed.
    """
    folder, wanted = pathlib.Path(path), dict(script="theory", seeds=seeds)
    notes = folder / "config.json"
    if os.path.lexists(notes):
        try:
            kept = dict(read_json(notes))
        except (ValueError, TypeError) as error:
            raise ValueError(
                f"{notes} is unreadable ({error!r}); restore it or choose another --workdir"
            ) from None
        if kept.get("script") != "theory":
            raise ValueError(
                f"{folder} has a run of launch.{kept.get('script')}; choose another --workdir"
            )
        if kept != wanted:
            raise ValueError(
                f"{folder} has a run with seeds={kept.get('seeds')}, and the flags say "
                f"seeds={seeds}; use the same flags to replace it, or another --workdir"
            )
        return folder
    if not untouched(folder):
        raise ValueError(
            f"{folder} exists and was not made by launch.theory; choose another --workdir; "
            "nothing was changed"
        )
    make_folder(folder)
    jfu.io.write_bytes(notes, (json.dumps(wanted) + "\n").encode())
    return folder


def markdown(rows: Sequence[dict]) -> str:
    """Two tables: the verdict of every check over all seeds, and how many each theorem passed."""
    from jfu import tables

    names = list(dict.fromkeys(row["activation"] for row in rows))
    of = lambda what, name: [r for r in rows if (r["what"], r["activation"]) == (what, name)]
    checks = [["theorem", "consistent if", *names]]
    for what, (number, words) in theorems.CHECKS.items():
        checks.append([str(number), words, *(verdict(of(what, name)) for name in names)])
    totals = [["reconstruction of", *names]]
    for number in sorted({number for number, _ in theorems.CHECKS.values()}):
        totals.append([f"Theorem {number}"])
        for name in names:
            mine = [of(what, name) for what, (n, _) in theorems.CHECKS.items() if n == number]
            totals[-1].append(total([judged(some) for some in mine]))
    return f"{tables.aligned(checks)}\n{tables.aligned(totals)}"


def judged(rows: Sequence[dict]) -> bool | None:
    """Whether a check is consistent in every row that can be compared; None without such a row."""
    known = [row["consistent"] for row in rows if row["consistent"] is not None]
    return all(known) if known else None


def total(checks: Sequence[bool | None]) -> str:
    """The result of a theorem's checks, in words.

    >>> total([True, True, None]), total([True, False]), total([None])
    ('consistent: 2 of 2 checks, 1 not shown', 'not consistent: 1 of 2 checks', 'not shown')
    """
    known = [check for check in checks if check is not None]
    if not known:
        return NOT_SHOWN
    word = "consistent" if all(known) else "not consistent"
    rest = f", {len(checks) - len(known)} {NOT_SHOWN}" if len(known) < len(checks) else ""
    return f"{word}: {sum(known)} of {len(known)} checks{rest}"


def verdict(rows: Sequence[dict]) -> str:
    """The rows of one check, in words; one inconsistent row makes the check inconsistent.

    A mean with ≥ has rows that did not reach the target; for these the end of the run counts.

    >>> rows = [dict(value=v, bound=2.0, consistent=v <= 2) for v in (1.0, 4.0)]
    >>> verdict(rows), verdict(rows[:1])
    ('not consistent in 1 of 2 (2.5, 2)', 'consistent (1, 2)')
    >>> verdict([dict(rows[0], reached=False)]), verdict([dict(rows[0], consistent=None)])
    ('consistent (≥ 1, 2)', 'not shown: nothing to compare (1, 2)')
    """
    against = sum(row["consistent"] is False for row in rows)
    means = ", ".join(f"{np.mean([row[k] for row in rows]):.3g}" for k in ("value", "bound"))
    means = means if all(row.get("reached", True) for row in rows) else f"≥ {means}"
    if judged(rows) is None:
        return f"{NOT_SHOWN}: nothing to compare ({means})"
    part = f" in {against} of {len(rows)}" if against < len(rows) else ""
    return f"not consistent{part} ({means})" if against else f"consistent ({means})"
