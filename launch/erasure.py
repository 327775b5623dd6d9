"""What the files of a work directory hold of forgotten data, and their removal.

``holdings`` knows every file that the scripts write, by its place. A model, a checkpoint or a
history depends on everyone whose data trained it or a model before it; an unlearned model is what
a method made of such a model, and what that is worth is for an audit to tell; settings, measures
and the ledger hold no parameters. A file of another name may hold anything.
"""

import pathlib
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import jfu.ledger
from launch import records
from launch.flags import Config
from launch.locks import LOCK, take
from launch.main import say
from launch.requests import forgotten
from launch.workdir import CONFIG, MODEL, Run, WorkDir, read_run


class Holding(NamedTuple):
    path: pathlib.Path
    folder: pathlib.Path | None  # the work directory; None for a file from elsewhere
    what: str  # in words
    holds: bool  # whether the forgotten data's influence is, or may be, in it


UNKNOWN = "unknown: no file that jfu writes"

# Files without parameters, wherever they lie in a work directory.
MEASURES = ("results.jsonl", "rounds.jsonl", "tuning.jsonl", "stopping.md", "*.png", "table.*")
MEASURES += ("rounds.md", "tuning.md", "audit.html", "audit.json")
SETTINGS = (CONFIG, LOCK, "plan.json", records.LEDGER, "options.flags")

# Methods that begin anew: what they make never met the forgotten data.
ANEW = ("retrain", "retrain_again")


def holdings(path: pathlib.Path, wanted: str) -> list[Holding]:
    """Every file of a work directory, and of those that its model came from.

    Args:
      wanted: the request, such as ``client:0``.
    """
    run, found = read_run(str(path)), []
    for file in sorted(p for p in path.rglob("*") if not p.is_dir()):
        found.append(Holding(file, path, *_held(run, file.relative_to(path), wanted)))
    if before := source(run.config):
        if (before.parent / CONFIG).is_file():
            found += holdings(before.parent, wanted)
        elif before.is_file():
            found.append(Holding(before, None, "the model that the request met", True))
    return found


def asked(path: pathlib.Path, wanted: str, lines: Sequence[dict[str, Any]]) -> bool:
    """Whether the requests of a work directory's ledger name all that ``wanted`` does."""
    answers = [line for line in lines if line["event"] in ("answered", "compared", "erased")]
    return covered(wanted, [f"-{line['request']}" for line in answers])


def source(config: Config) -> pathlib.Path | None:
    return pathlib.Path(config.init_params) if config.init_params else None


def _held(run: Run, file: pathlib.Path, wanted: str) -> tuple[str, bool]:
    """What a file is, and whether it depends on what ``wanted`` names."""
    if any(file.match(pattern) for pattern in MEASURES):
        return "measures", False
    if any(file.match(pattern) for pattern in SETTINGS):
        return "settings and records", False
    met = not covered(wanted, run.config.past)  # whether the model that a request met knew it
    answers = covered(wanted, [*run.config.past, f"-{run.config.forget}"])
    method = run.more.get("method")
    if str(file) == MODEL and run.script == "unlearn":
        if method in ANEW and answers:
            return f"a model that never met {wanted}", False
        if met and answers and method != "none":
            return f"the model after {wanted} was unlearned by {method}", False
        return "a model", met
    cell = re.fullmatch(r"\d+-(.+)\.safetensors", file.name)
    if file.parts[0] == "cells" and cell:
        if cell[1] in ANEW and answers:
            return f"a checkpoint of a model that never met {wanted}", False
        # A method's state may hold the old model beside the new one.
        return "a checkpoint", met
    if file.parts[0] == "shadows":
        return "shadow models' answers, with and without the examples to forget", met
    if run.script == "train" and file.name in (MODEL, "history.safetensors"):
        return "a model" if file.name == MODEL else "a history of clients' updates", met
    return UNKNOWN, True


def covered(wanted: str, past: Sequence[str]) -> bool:
    """Whether all that ``wanted`` names is forgotten after ``past``."""
    return forgotten([f"-{wanted}"]) <= forgotten(past)


def erase(work: WorkDir, config: Config) -> None:
    """Removes what holds the data that the request names; the ledgers list it before.

    The model that the request met goes last, so that a removal that was stopped can go on.
    """
    found = [held for held in holdings(work.path, config.forget) if held.holds]
    ours = [held for held in found if held.folder and held.what != UNKNOWN]
    ours.sort(key=lambda held: held.path == source(config))
    folders = list(dict.fromkeys(held.folder for held in ours))
    locks = [take(folder) for folder in folders if folder != work.path]
    for folder in folders:
        records.check(folder)
    for folder in folders:
        files = {
            str(held.path.relative_to(folder)): jfu.ledger.digest(held.path)
            for held in ours
            if held.folder == folder
        }
        records.write(WorkDir(folder, None), "erased", request=config.forget, files=files)
    for held in ours:
        held.path.unlink()
        say(f"erased: {held.path}, {held.what}")
    for held in found:
        if held not in ours:
            say(f"note: {held.path} is not jfu's to remove and may hold {config.forget}")
    for lock in filter(None, locks):
        lock.close()
