"""Which files of a work directory depend on forgotten data, and the removal of these files.

``holdings`` knows every file that the scripts write, by its place and its content. A file is free
only if the ledger names its digest, or if it can be rewritten from what the ledger names.

* A model, a checkpoint or a history depends on all clients whose data trained it, or trained a
  model before it.
* An unlearned model is free, because a method made it; how well is for an audit to judge. But a
  model that equals the one before the request was not unlearned.
* Settings, measures and the ledger have no parameters.
* Any other file may contain anything. So may the name of a folder that is not jfu's, and the target
  of a link, which is not followed.

Without these rules a model could pass as a picture, a table, a lock or a checkpoint of retraining.
Checkpoints of all methods except retraining are removed, because their states may contain the old
model too. A run that begins from a model says so in the ledger of that model. So a proof also looks
at runs that were begun from it. ``--erase`` names these runs and leaves them, because they belong
to other answers. The old model is removed last, so that a removal that was killed can continue.
"""

import contextlib
import dataclasses
import os
import pathlib
import re
from collections.abc import Collection, Iterator, Sequence
from typing import Any, NamedTuple

import jfu.ledger
from jfu.files import read_bytes, shown
from jfu.io import check_state, load_notes, load_seal
from launch.records import ledgers, lineage, records
from launch.records.lineage import Step
from launch.report import report
from launch.setup.identity import DRAWS
from launch.setup.requests import identify, in_force
from launch.shell.config import Config
from launch.shell.outputs import OUTPUTS, holds_digests
from launch.shell.say import say
from launch.workdir import secret
from launch.workdir.checkpoints import is_of
from launch.workdir.locks import HELD, LOCK, WHO, take
from launch.workdir.outcome import read_results
from launch.workdir.places import CONFIG, HISTORY, MODEL, PLAN, RESULTS, WorkDir


class Holding(NamedTuple):
    path: pathlib.Path
    folder: pathlib.Path | None  # the work directory; None for what jfu did not write there
    what: str  # in words
    depends: bool  # whether it depends, or may depend, on the forgotten data
    lost: bool = False  # whether it is missing, and the user did not say that it was removed


UNKNOWN = "unknown: not a file that jfu writes"

CHANGED = "not the file that jfu wrote, by its ledger; remove it, and let jfu write it again"

# Files without parameters, by their places in a work directory.
MEASURES = (RESULTS, "table.md", "table.json", "stopping.md", "curves.png", "costs.png")
MEASURES += ("rounds.jsonl", "rounds.md", "rounds.png", "audit.html", "audit.json")
SETTINGS = (CONFIG, PLAN)
FOLDERS = ("cells", "shadows", DRAWS, secret.FOLDER)
# Fields that the scripts write into a line of a ledger, beside those that all lines have.
FIELDS = dict(
    trained="from history dataset clients past rounds seed model results cells draws "
    "outside_epsilon",
    asked="request method from subject_request_ids",
    answered="request method from model history weights rounds before after costs results cells "
    "draws wrote outside_epsilon subject_request_ids",
    audited="request seeds verdicts subject_request_ids wrote since of named head",
    exported="request lines subject_request_ids",
    received="subject_request_id subject_request_type regulation request requester submitted_time "
    "received_time expected_completion_time status",
    due="subject_request_id request reason expected_completion_time",
    refused="subject_request_id request reason status",
    compared="request methods seeds results cells wrote draws",
    begun="run path from beside",
    wrote="wrote since",
    missing="missing since",
    key="",
    erased="request files",
)

# Methods that start again: their models were never trained on the forgotten data.
ANEW = ("retrain", "retrain_again", "retrain_third")


def holdings(
    path: pathlib.Path, wanted: str, gone: Sequence[str] = ()
) -> tuple[list[Holding], list[str]]:
    """Every file of a work directory, and of those that its model came from.

    Args:
      wanted: the request, such as ``client:0``.
      gone: work directories or models that the user says were removed.

    Returns:
      ``(files, unused)``; the entries of ``gone`` that are not missing are unused.

    Raises:
      ValueError: a ledger is not valid, or its files are not those that it names.
    """
    known, found = lineage.trace(path, wanted), []
    within(known)
    inner = {os.path.realpath(step.folder) for step in known.steps}
    inner |= {os.path.realpath(folder) for folder, _ in known.broken}
    for step in known.steps:
        for file in walk(step.folder, inner):
            what, depends, ours = _judged(step, file, wanted)
            found.append(Holding(file, step.folder if ours else None, what, depends))
    for model in known.elsewhere:
        found.append(Holding(model, None, "the original model", True))
    for folder, error in known.broken:
        what = f"a work directory that was begun from these or lies in one, with an error: {error}"
        found.append(Holding(folder, None, what, True))
    said = {os.path.abspath(place): place for place in gone}
    for missing in known.missing:
        place = missing.place.parent if missing.place.name == MODEL else missing.place
        removed = said.pop(str(place), None)
        came = "was begun in it" if missing.since else "was begun from it"
        of = f"a run from {missing.folder}" if missing.since else missing.folder
        what = f"{of} {came}, and you said that it was removed"
        if not removed:
            state = "something else is there now" if place.exists() else "it is missing"
            what = f"{of} {came}, and {state}, so it was not checked; put it back; "
            others = "all runs begun from it" if missing.since else "all its sources"
            what += f"or, if you removed it and {others}, add --gone={place}"
        found.append(Holding(place, None, what, not removed, lost=not removed))
    return found, list(said.values())


def within(known: lineage.Lineage) -> None:
    """Adds the work directories that lie in others."""
    seen = {os.path.realpath(step.folder) for step in known.steps}
    waiting = list(known.steps)
    while waiting:
        step = waiting.pop(0)
        for here, folders, files in os.walk(step.folder):
            place = os.path.realpath(here)
            if CONFIG in files and place not in seen:
                seen.add(place)
                if (more := lineage.later(pathlib.Path(here), step, known)) is not None:
                    waiting.append(more)
                folders.clear()


def requested(wanted: str, lines: Sequence[dict[str, Any]]) -> bool:
    """Whether the requests of a work directory's ledger name all that ``wanted`` does."""
    kinds = ("answered", "compared", "erased")
    answers = [f"-{line.get('request')}" for line in lines if line["event"] in kinds]
    return identify(wanted, answers) <= in_force(answers)


def walk(folder: pathlib.Path, others: Collection[str] = ()) -> Iterator[pathlib.Path]:
    """Everything in a folder: files, links, and empty folders. Links are not followed.

    Args:
      others: real paths of folders in it that are checked by themselves.

    Raises:
      OSError: a folder that cannot be read.
    """

    def refuse(error: OSError) -> None:
        raise error

    own = os.path.realpath(folder)
    for here, folders, files in os.walk(folder, onerror=refuse):
        if os.path.realpath(here) in others and os.path.realpath(here) != own:
            folders.clear()
            continue
        empty = not (folders or files) and here not in [str(folder / name) for name in FOLDERS]
        folders.sort()
        links = [name for name in folders if os.path.islink(os.path.join(here, name))]
        yield from (pathlib.Path(here, name) for name in sorted([*files, *links]))
        if empty and here != str(folder):
            yield pathlib.Path(here)


def _judged(step: Step, path: pathlib.Path, wanted: str) -> tuple[str, bool, bool]:
    """A file's description, whether it depends on ``wanted``, and whether jfu wrote it."""
    name = path.relative_to(step.folder).as_posix()
    if path.is_symlink():
        return f"a link to {os.readlink(path)}, which jfu does not follow", True, False
    if path.is_dir():
        return "an empty folder, which jfu did not make", True, False
    if not path.is_file():
        return "not a plain file", True, False
    if name in MEASURES + SETTINGS or name.startswith(f"{DRAWS}/"):
        if not (_named(step, path, name) or _anew(step, path, name)):
            return CHANGED, True, False
        what = "measures" if name in MEASURES else "settings and records"
        return "rows that requests took out, by number" if DRAWS in name else what, False, True
    if name == OUTPUTS:
        plain = holds_digests(path)
        return ("settings and records", False, True) if plain else (CHANGED, True, False)
    if name in (LOCK, HELD):
        plain = WHO.fullmatch(read_bytes(path).decode(errors="replace").strip())
        short = plain and path.stat().st_size < 300
        return ("settings and records", False, True) if short else (CHANGED, True, False)
    if name == ledgers.LEDGER:
        odd = [line["number"] for line in jfu.ledger.read(path) if not _is_plain(line)]
        what = f"a ledger whose line {odd[0]} has more than jfu writes" if odd else "records"
        return what, bool(odd), not odd
    return _model(step, path, name, wanted)


def _named(step: Step, path: pathlib.Path, name: str) -> bool:
    """Whether the ledger has this file's digest."""
    return ledgers.vouched(step.lines).get(name) == jfu.ledger.digest(path)


def _anew(step: Step, path: pathlib.Path, name: str) -> bool:
    """Whether a table is what the results give, which the ledger names."""
    if step.run.script != "unlearn" or name not in ("table.md", "table.json", "stopping.md"):
        return False
    try:
        rows = read_results(WorkDir(step.folder, None))
        summary = report.summarise(rows, dataclasses.asdict(step.run.config))
        made = report.contents(summary, report.markdown(summary))
    except (ValueError, KeyError, TypeError, IndexError):  # an older work directory
        return False
    return made.get(name) == read_bytes(path)


def _is_plain(line: dict[str, Any]) -> bool:
    """Whether a line of a ledger has what jfu writes, and nothing that could contain a model."""
    fields = set(FIELDS.get(line["event"], "").split()) | {"event", "config", *jfu.ledger.CHAIN}
    return line["event"] in FIELDS and line.keys() <= fields and _is_short(line)


def _is_short(value: Any) -> bool:
    """Whether all texts in a value are short as paths, and all lists short as measures."""
    if isinstance(value, dict):
        most = 10_000 if all(isinstance(one, str) for one in value.values()) else 50
        return len(value) < most and all(map(_is_short, [*value, *value.values()]))
    if isinstance(value, list):
        return len(value) < 1000 and all(map(_is_short, value))
    return not isinstance(value, str) or len(value) <= 4096


def _unchanged(step: Step) -> bool:
    """Whether an answer of a work directory equals the original model."""
    answers = [line for line in step.lines if line["event"] == "answered"]
    weights = [line["weights"] for line in answers if isinstance(line.get("weights"), dict)]
    same = any(line.get("from") == line.get("model") for line in answers)
    return same or any(pair.get("met") == pair.get("made") for pair in weights)


def _model(step: Step, path: pathlib.Path, name: str, wanted: str) -> tuple[str, bool, bool]:
    """As ``_judged``, for files that may contain parameters."""
    run = step.run
    past = run.config.past
    # Whether the original model was trained on the data.
    met = not step.wanted <= in_force(past) and not step.other
    answers = step.wanted <= in_force([*past, f"-{run.config.forget}"])
    method = run.more.get("method")
    if name in (MODEL, HISTORY) and not _named(step, path, name):
        return "a model or a history that its ledger does not name", True, True
    if name == MODEL and run.script == "unlearn":
        if met and method != "none" and _unchanged(step):
            return "the original model: nothing was unlearned", True, True
        if method in ANEW and answers:
            return f"a model that was never trained on {wanted}", False, True
        if met and answers and method != "none":
            return f"the model after {wanted} was unlearned by {method}", False, True
        return "a model", met, True
    if re.fullmatch(rf"{secret.FOLDER}/\d+-.+", name) and secret.is_one(path):
        return "the secret for the noise of a run that is not finished", False, True
    if name in (MODEL, HISTORY) and run.script == "train":
        return "a model" if name == MODEL else "a history of clients' updates", met, True
    if name == HISTORY and run.script == "unlearn":  # of a ridge federation
        return "statistics of the clients that stay", met and not answers, True
    cell = re.fullmatch(r"(?:controls/)?cells/(\d+)-(.+)\.safetensors", name)
    if cell and _is_of(path, dict(run=run.fingerprint, method=cell[2], seed=int(cell[1]))):
        if not (
            _is_sealed(step, path) or _named(step, path, name)
        ):  # an audit names its own checkpoints as files
            return "a checkpoint that its ledger does not name", True, True
        if cell[2] in ANEW and answers:
            return f"a checkpoint of a model that was never trained on {wanted}", False, True
        # A method's state may contain the old model too.
        return "a checkpoint", met, True
    block = re.fullmatch(r"shadows/(\d+)-\d+-\d+-\d+\.safetensors", name)
    if block and _is_of(path, dict(run=run.fingerprint, seed=int(block[1]))):
        return "shadow models' answers, with and without the examples to forget", met, True
    return UNKNOWN, True, False


def _is_sealed(step: Step, path: pathlib.Path) -> bool:
    """Whether the ledger names the content of a checkpoint."""
    named = ledgers.named_cells(step.lines).get(path.stem)
    try:
        check_state(path)
        return named is not None and named[1] == load_seal(path)
    except (ValueError, OSError):
        return False


def _is_of(path: pathlib.Path, mine: dict[str, Any]) -> bool:
    """Whether a checkpoint says that it belongs to this run, at its own place."""
    try:
        notes = load_notes(path)
    except (ValueError, OSError):
        return False
    return isinstance(notes, dict) and is_of(notes.get("of") or {}, mine)


def erase(work: WorkDir, config: Config, method: str) -> None:
    """Removes the files that depend on the request's data; the ledgers list them first.

    The original model is removed last, so that a removal that was stopped can continue.

    Raises:
      ValueError: the request has no answer yet, or a ledger is not valid; nothing was removed.
    """
    if not records.is_answered(work, config, method):
        raise ValueError(
            f"{work.path} has no answer to {config.forget} by {method} yet; nothing was removed"
        )
    steps = lineage.trace(work.path, config.forget).steps
    if _unchanged(steps[0]):
        raise ValueError(
            f"the model in {work.path} is the original model up to signs: {config.forget} was not "
            "unlearned, and nothing was removed; answer the request again"
        )
    # Runs begun from it since belong to others: they are named, not removed.
    folders = [step.folder for step in steps if step.since is None]
    with contextlib.ExitStack() as locks:
        for folder in folders:
            if folder != work.path and (lock := take(folder)):
                locks.enter_context(lock)
        found = [file for file in holdings(work.path, config.forget)[0] if file.depends]
        met = config.init_params and os.path.realpath(config.init_params)
        ours = [file for file in found if file.folder in folders]
        ours.sort(key=lambda file: os.path.realpath(file.path) == met)
        for folder in folders:
            _record(folder, config.forget, [file.path for file in ours if file.folder == folder])
        for file in ours:
            others = file.path.stat().st_nlink - 1
            file.path.unlink()
            say(f"erased: {shown(file.path)}, {file.what}")
            if others:
                say(f"note: it still exists under {others} other names (hard links) elsewhere")
        for file in found:
            if file.folder not in folders:
                path, what = shown(file.path), shown(file.what)
                say(f"note: {path} was not removed and may depend on {config.forget}: {what}")


def _record(folder: pathlib.Path, request: str, paths: Sequence[pathlib.Path]) -> None:
    """Lists in a work directory's ledger the files that will be removed, unless it does already."""
    files = {str(path.relative_to(folder)): jfu.ledger.digest(path) for path in paths}
    known = ledgers.erased(folder, ledgers.check(folder))
    if any(known.get(name) != digest for name, digest in files.items()):
        records.write(WorkDir(folder, None), "erased", request=request, files=files)
