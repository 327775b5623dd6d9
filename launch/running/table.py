"""The table of what has been run, beside the paper's numbers."""

import dataclasses
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from absl import flags

from jfu import results, tables
from jfu.metrics import GAP_MEASURES
from launch.records import records, verification
from launch.report import paper, recorded, report
from launch.setup.methods import budget as rounds_of
from launch.shell.config import Config
from launch.shell.printing import show
from launch.shell.say import open_up, say
from launch.workdir import checkpoints, fingerprint, locks, outcome, places, runs

FLAGS = flags.FLAGS

# Columns that differ between two equal runs.
CHANCE = ("seconds",)


class Stored(NamedTuple):
    """The checkpoints of work directories with one configuration."""

    config: Config
    names: list[str]  # in the order of the table: original, methods, retrain_again
    seeds: list[int]
    notes: dict[tuple[int, str], dict[str, Any]]  # of the checkpoints, by seed and name


def table() -> None:
    if not FLAGS.workdir:
        raise ValueError(
            "--workdir is missing; give --workdir=W, or W,W2 for several work directories"
        )
    if FLAGS.record and pathlib.Path(FLAGS.record).exists():
        raise FileExistsError(f"{FLAGS.record} exists already; remove it, or choose another name")
    paths = [pathlib.Path(path) for path in FLAGS.workdir]
    found = read(paths)
    for path in paths:
        verification.believe(path)
    summary, text = write(paths[0], found)
    note_in_ledger(paths[0], report.contents(summary, text))
    if FLAGS.record:
        recorded.write(pathlib.Path(FLAGS.record), found.config, found.names, rows(found))
        open_up(FLAGS.record)
    show(f"{text}\n{tables.legend(summary)}")
    show(f"table.md and table.json are in {paths[0]}/")


def note_in_ledger(path: pathlib.Path, names: Iterable[str]) -> None:
    """Writes the table's digest into the ledger, unless a run is going on, which does it itself."""
    try:
        with locks.hold(path) as lock:
            records.wrote(places.WorkDir(path, None, lock=lock), names)
    except ValueError as error:
        say(f"note: the table is not in the ledger: {error}")


def read(paths: Sequence[pathlib.Path]) -> Stored:
    """Reads the checkpoints, finished or not, of one or several work directories of launch.compare.

    If two have a checkpoint of the same method and seed, the later one counts. A note says if their
    rows differ in more than seconds.

    Raises:
      FileNotFoundError: a path is not a work directory.
      ValueError: one is of another script or configuration, or unreadable.
    """
    known_runs = [runs.read_run(str(path)) for path in paths]
    for path, run in zip(paths, known_runs, strict=True):
        check(paths[0], known_runs[0], path, run)
    planned: dict[str, None] = {}
    seeds: set[int] = set()
    notes: dict[tuple[int, str], dict[str, Any]] = {}
    origin: dict[tuple[int, str], pathlib.Path] = {}
    for path, run in zip(paths, known_runs, strict=True):
        methods, numbers = outcome.read_plan(path)
        planned |= dict.fromkeys(methods)
        seeds |= set(numbers)
        for key, mine in checkpoints.read_cells(path, run.fingerprint).items():
            other = notes.get(key)
            if other is not None and differ(mine["rows"], other["rows"]):
                say(
                    f"note: {origin[key]} and {path} have different rows of seed {key[0]}, "
                    f"{key[1]}; the table has those of "
                    f"{path if mine['round'] > other['round'] else origin[key]}"
                )
            if other is None or mine["round"] > other["round"]:
                notes[key], origin[key] = mine, path
    planned |= dict.fromkeys(name for _, name in notes)
    known = ["original", *planned, results.AGAIN]
    names = [n for n in dict.fromkeys(known) if n in planned and n != results.AGAIN]
    names += [results.AGAIN] if results.AGAIN in planned else []
    return Stored(known_runs[0].config, names, sorted(seeds | {seed for seed, _ in notes}), notes)


def check(first: pathlib.Path, known: runs.Run, path: pathlib.Path, run: runs.Run) -> None:
    """Refuses a work directory that does not fit into the first one's table."""
    if run.script != "compare":
        raise ValueError(
            f"{path} has a run of launch.{run.script}; a table needs runs of launch.compare"
        )
    mine, theirs = dataclasses.asdict(run.config), dataclasses.asdict(known.config)
    named = [
        fingerprint.named_by_content(dict(config=each, files=of.files, data=of.data))
        for each, of in ((mine, run), (theirs, known))
    ]
    differing = [n for n in mine if n != "data_dir" and named[0][n] != named[1][n]]
    if differing:
        had = ", ".join(f"{n}={theirs[n]}" for n in differing)
        has = ", ".join(f"{n}={mine[n]}" for n in differing)
        raise ValueError(
            f"{first} has a run with {had}, and {path} one with {has}; a table has one "
            "configuration, so read them one by one"
        )
    if run.data is None and run.files != known.files:
        changed = [n for n, digest in run.files.items() if known.files.get(n) != digest]
        raise ValueError(
            f"{first} and {path} were run with different files {', '.join(changed)}; read them one "
            "by one"
        )
    if run.data and known.data and run.data != known.data:
        raise ValueError(f"{first} and {path} were run on different data; read them one by one")
    if run.numerics and known.numerics and run.numerics != known.numerics:
        raise ValueError(
            f"{first} and {path} were run with different settings of JAX, which change bits; read "
            "them one by one"
        )
    for what in ("layout", "versions"):
        if getattr(run, what) != getattr(known, what):
            say(
                f"note: {first} and {path} were run with different {what}, so results differ by "
                "chance"
            )


def differ(some: Iterable[Mapping], others: Iterable[Mapping]) -> bool:
    """Whether two lists of rows differ in a round that both have.

    >>> differ([dict(round=1, test=9, seconds=1)], [dict(round=1, test=9, seconds=2)])
    False
    >>> differ([dict(round=1, test=9)], [dict(round=1, test=8), dict(round=2, test=9)])
    True
    """
    plain = lambda rows: {
        row["round"]: {k: v for k, v in row.items() if k not in CHANCE} for row in rows
    }
    mine, theirs = plain(some), plain(others)
    return any(mine[r] != theirs[r] for r in mine.keys() & theirs.keys())


def state(stored: Stored, seed: int, name: str) -> dict[str, int] | None:
    """A run's progress: ``{"round", "of"}``, equal if it is finished; None without a checkpoint."""
    notes = stored.notes.get((seed, name))
    if notes is None:
        return None
    of = rounds_of(stored.config, name)
    return dict(round=of if notes.get("finished") else notes["round"], of=of)


def rows(stored: Stored) -> list[dict[str, Any]]:
    """The rows of all finished runs, in the order of results.jsonl."""
    found = []
    for seed in stored.seeds:
        for name in stored.names:
            if tables.state(state(stored, seed, name)) == "done":
                mine = stored.notes[seed, name]["rows"]
                found += [results.as_original(mine[-1])] if name == "original" else mine
    return found


def left(stored: Stored, names: Sequence[str], seeds: Sequence[int]) -> tuple[int, int]:
    """How many of the planned methods and seeds are not finished, and how many rounds are left."""
    known = [(name, state(stored, seed, name)) for seed in seeds for name in names]
    open_ = [(name, cell) for name, cell in known if tables.state(cell) != "done"]
    return len(open_), sum(
        rounds_of(stored.config, name) - (cell or dict(round=0))["round"] for name, cell in open_
    )


def summarise(stored: Stored) -> dict[str, Any]:
    """``report.summarise`` of the finished runs, with the progress of all as ``cells``.

    A missing run is None in ``cells``. A method without a finished run is None in ``methods``.
    ``paper`` has the numbers of the same row, by method.
    """
    config = dataclasses.asdict(stored.config)
    summary = report.summarise(rows(stored), config)
    methods = {n: summary["methods"].get(n) for n in stored.names if n != results.AGAIN}
    found = {n: {str(s): state(stored, s, n) for s in stored.seeds} for n in stored.names}
    return summary | dict(methods=methods, cells=found, paper=paper.known(config))


def markdown(summary: Mapping[str, Any]) -> str:
    """The table; below it the progress, if a run is missing, and the paper's values beside ours."""
    parts = [report.markdown(summary), progress(summary), beside(summary)]
    return "\n".join(part for part in parts if part)


def progress(summary: Mapping[str, Any]) -> str:
    """The progress of every run, as Markdown; empty if all are finished."""
    found = summary["cells"]
    words = {n: {s: tables.state(c) for s, c in by.items()} for n, by in found.items()}
    if all(word == "done" for by in words.values() for word in by.values()):
        return ""
    seeds = list(next(iter(words.values())))
    lines = [["method", *(f"seed {seed}" for seed in seeds)]]
    lines += [[name.replace("_again", " again"), *by.values()] for name, by in words.items()]
    return tables.aligned(lines)


# Columns with numbers of the paper; ``d_`` is the difference to retraining.
COLUMNS = {m: tables.COLUMNS[m].title for m in GAP_MEASURES}
COLUMNS |= {f"d_{m}": f"Δ {tables.COLUMNS[m].title.removesuffix(' %')}" for m in GAP_MEASURES}
COLUMNS |= dict(gap=tables.COLUMNS["gap"].title)
GAPS = ("gap", *(f"d_{m}" for m in GAP_MEASURES))  # over the seeds that retraining has too


def beside(summary: Mapping[str, Any]) -> str:
    """The paper's values beside ours, means over seeds, as Markdown; empty if none is known.

    Δ is the absolute difference to retraining, for rows of which only differences are known.
    """
    known, methods = summary["paper"], summary["methods"]
    config = summary["config"]
    if not known:
        return ""
    shown = [c for c in COLUMNS if any(c in numbers for numbers in known.values())]
    lines = [["method", *(x for c in shown for x in (f"{COLUMNS[c]}: paper", "ours"))]]
    again = summary["floor"] and {results.AGAIN: summary["floor"]}
    entries = dict.fromkeys(known) | methods | (again or {})
    order = [n for n in (*methods, *known, *(again or {})) if n != "original"]
    for name in dict.fromkeys(order):
        theirs = known.get(name, {})
        line = [tables.label(summary, name)]
        for column in shown:
            entry = entries[name] or {}
            mine = ours(entry, column)
            if column == "gap" and name == "retrain":
                mine = None
            mark = "" if mine is None else tables.fewer(entry, "gap" if column in GAPS else column)
            line += [tables.cell(theirs.get(column), 1, 2), tables.cell(mine, 1, 2) + mark]
        lines.append(line)
    scale = recorded.reduced(config)
    rounds = f"{config['rounds']} rounds of training, {config['recovery_rounds']} of recovery"
    whole = ", the paper's with all images" * bool(scale)
    said = " ".join([f"Ours with {scale or 'all images'}, {rounds}{whole}.", *paper.notes(config)])
    return f"{tables.aligned(lines)}\n{said}\n"


def ours(entry: Mapping, column: str) -> float | None:
    """Our value in a column of ``COLUMNS``."""
    if column == "gap":
        return entry.get("gap")
    if column in GAPS:
        return (entry.get("differences") or {}).get(column.removeprefix("d_"))
    return (entry.get(column) or {}).get("mean")


def write(folder: pathlib.Path, stored: Stored) -> tuple[dict[str, Any], str]:
    """Writes table.md and table.json; returns the summary and the text."""
    summary = summarise(stored)
    text = markdown(summary)
    report.write(folder, summary, text)
    return summary, text
