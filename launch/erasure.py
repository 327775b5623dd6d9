"""What the files of a work directory hold of forgotten data, and their removal.

``holdings`` knows every file that the scripts write, by its place. A model, a checkpoint or a
history depends on everyone whose data trained it or a model before it; an unlearned model is what
a method made of such a model, and what that is worth is for an audit to tell; settings, measures
and the ledger hold no parameters. A file at another place may hold anything, and so may what a
link leads to, which is not followed.
"""

import contextlib
import os
import pathlib
import re
import stat
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jfu.ledger
from jfu.io import load_notes
from launch import lineage, records
from launch.flags import Config
from launch.lineage import Step
from launch.locks import LOCK, take
from launch.main import say
from launch.requests import in_force, meant
from launch.workdir import CONFIG, HISTORY, MODEL, RESULTS, WorkDir, is_of


class Holding(NamedTuple):
    path: pathlib.Path
    folder: pathlib.Path | None  # the work directory; None for what jfu did not write there
    what: str  # in words
    holds: bool  # whether the forgotten data's influence is, or may be, in it
    lost: bool = False  # whether it is not there, and nobody knows of its removal


UNKNOWN = "unknown: no file that jfu writes"

# Files without parameters, by their places in a work directory.
MEASURES = (RESULTS, "table.md", "table.json", "stopping.md", "curves.png", "costs.png")
MEASURES += ("rounds.jsonl", "rounds.md", "rounds.png", "audit.html", "audit.json")
SETTINGS = (CONFIG, LOCK, "plan.json", records.LEDGER)

# Methods that begin anew: what they make never met the forgotten data.
ANEW = ("retrain", "retrain_again")


def holdings(
    path: pathlib.Path, wanted: str, gone: Sequence[str] = ()
) -> tuple[list[Holding], list[str]]:
    """Every file of a work directory, and of those that its model came from.

    Args:
      wanted: the request, such as ``client:0``.
      gone: work directories or models that somebody says were removed.

    Returns:
      ``(files, unused)``: what of ``gone`` is not missing is unused.

    Raises:
      ValueError: a ledger does not hold, or its files are not those that it names.
    """
    known, found = lineage.trace(path, wanted), []
    for step in known.steps:
        for file in walk(step.folder):
            what, holds, ours = _held(step, file, wanted)
            found.append(Holding(file, step.folder if ours else None, what, holds))
    for model in known.elsewhere:
        found.append(Holding(model, None, "the model that the request met", True))
    said = {os.path.abspath(place): place for place in gone}
    for folder, model in known.missing:
        place = model.parent if model.name == MODEL else model
        told = said.pop(str(place), None)
        what = f"{folder} came from it, and it was removed by your word"
        if not told:
            state = "what lies there now is another" if place.exists() else "it is not there"
            what = (
                f"{folder} came from it, and {state}, so that it was not looked at; put it back, "
            )
            what += f"or, if you removed it with all that it came from, say so: --gone={place}"
        found.append(Holding(place, None, what, not told, lost=not told))
    return found, list(said.values())


def asked(wanted: str, lines: Sequence[dict[str, Any]]) -> bool:
    """Whether the requests of a work directory's ledger name all that ``wanted`` does."""
    kinds = ("answered", "compared", "erased")
    answers = [f"-{line.get('request')}" for line in lines if line["event"] in kinds]
    return meant(wanted, answers) <= in_force(answers)


def walk(folder: pathlib.Path) -> Iterator[pathlib.Path]:
    """Everything in a folder that is no folder, and links to folders, which are not followed.

    Raises:
      OSError: a folder that cannot be looked into.
    """

    def refuse(error: OSError) -> None:
        raise error

    for here, folders, files in os.walk(folder, onerror=refuse):
        folders.sort()
        links = [name for name in folders if os.path.islink(os.path.join(here, name))]
        yield from (pathlib.Path(here, name) for name in sorted([*files, *links]))


def _held(step: Step, path: pathlib.Path, wanted: str) -> tuple[str, bool, bool]:
    """What a file is, whether it depends on what ``wanted`` means, and whether jfu wrote it."""
    if path.is_symlink():
        return f"a link to {os.readlink(path)}, which jfu does not follow", True, False
    run, name = step.run, path.relative_to(step.folder).as_posix()
    if name in step.draws:
        return "rows that requests took out, by number", False, True
    if name in MEASURES + SETTINGS and plain(path):
        return "measures" if name in MEASURES else "settings and records", False, True
    past = run.config.past
    met = not step.wanted <= in_force(past)  # whether the model that a request met knew it
    answers = step.wanted <= in_force([*past, f"-{run.config.forget}"])
    method = run.more.get("method")
    if name == MODEL and run.script == "unlearn":
        if method in ANEW and answers:
            return f"a model that never met {wanted}", False, True
        if met and answers and method != "none":
            return f"the model after {wanted} was unlearned by {method}", False, True
        return "a model", met, True
    if name in (MODEL, HISTORY) and run.script == "train":
        return "a model" if name == MODEL else "a history of clients' updates", met, True
    cell = re.fullmatch(r"cells/(\d+)-(.+)\.safetensors", name)
    if cell and _is_of(path, dict(run=run.fingerprint, method=cell[2], seed=int(cell[1]))):
        if cell[2] in ANEW and answers:
            return f"a checkpoint of a model that never met {wanted}", False, True
        # A method's state may hold the old model beside the new one.
        return "a checkpoint", met, True
    block = re.fullmatch(r"shadows/(\d+)-\d+-\d+-\d+\.safetensors", name)
    if block and _is_of(path, dict(run=run.fingerprint, seed=int(block[1]))):
        return "shadow models' answers, with and without the examples to forget", met, True
    return UNKNOWN, True, False


def plain(path: pathlib.Path) -> bool:
    """Whether a file is text or a picture: a model that was given such a name is neither."""
    if not stat.S_ISREG(os.lstat(path).st_mode):
        return False
    content = path.read_bytes()
    if path.suffix == ".png":
        return content[:8] == b"\x89PNG\r\n\x1a\n" and content[-8:] == b"IEND\xaeB`\x82"
    try:
        return "\0" not in content.decode()
    except UnicodeDecodeError:
        return False


def _is_of(path: pathlib.Path, mine: dict[str, Any]) -> bool:
    """Whether a checkpoint says that it is this run's, at its own place."""
    try:
        notes = load_notes(path)
    except (ValueError, OSError):
        return False
    return isinstance(notes, dict) and is_of(notes.get("of") or {}, mine)


def erase(work: WorkDir, config: Config, method: str) -> None:
    """Removes what holds the data that the request names; the ledgers list it before.

    The model that the request met goes last, so that a removal that was stopped can go on.

    Raises:
      ValueError: the request has no answer yet, or a ledger does not hold; nothing was removed.
    """
    if not records.is_answered(work, config, method):
        raise ValueError(
            f"{work.path} holds no answer to {config.forget} by {method} yet; nothing was removed"
        )
    folders = [step.folder for step in lineage.trace(work.path, config.forget).steps]
    with contextlib.ExitStack() as locks:
        for folder in folders:
            if folder != work.path and (lock := take(folder)):
                locks.enter_context(lock)
        found = [held for held in holdings(work.path, config.forget)[0] if held.holds]
        met = os.path.realpath(config.init_params)
        ours = [held for held in found if held.folder]
        ours.sort(key=lambda held: os.path.realpath(held.path) == met)
        for folder in folders:
            _record(folder, config.forget, [h.path for h in ours if h.folder == folder])
        for held in ours:
            others = held.path.stat().st_nlink - 1
            held.path.unlink()
            say(f"erased: {held.path}, {held.what}")
            if others:
                say(f"note: it has {others} other names (hard links) elsewhere, and is still there")
        for held in found:
            if not held.folder:
                say(f"note: {held.path} was not removed and may hold {config.forget}: {held.what}")


def _record(folder: pathlib.Path, request: str, paths: Sequence[pathlib.Path]) -> None:
    """Says in a work directory's ledger what is about to be removed, unless it says so already."""
    files = {str(path.relative_to(folder)): jfu.ledger.digest(path) for path in paths}
    known = records.erased(folder, records.check(folder))
    if any(known.get(name) != digest for name, digest in files.items()):
        records.write(WorkDir(folder, None), "erased", request=request, files=files)
