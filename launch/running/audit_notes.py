"""An audit's notes: what it cannot show, and why; and how to reproduce it."""

import dataclasses
import pathlib
import platform
import shlex
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from launch.shell.config import Config
from launch.workdir.runs import Run


class Options(NamedTuple):
    """The options of an audit: the flags of launch.audit."""

    shadows: int = 0
    shadows_chunk: int | None = None
    shadows_part: str | None = None  # such as 2/4: only these shadows, and no verdict
    relearn_rounds: int = 20
    resurfacing_rounds: int = 10
    control: bool | None = None  # None means only with shadows
    draws: int = 1000
    model: str | None = None
    data_dir: str | None = None
    dataset: str | None = None
    compilation_cache: str | None = None


def other_shadows(run: Run) -> list[str]:
    """Sentences on how shadows differ from the audited models."""
    notes = []
    if run.config.init_params:
        notes.append(
            "The audited model came from a file. Shadow federations are trained with this work "
            "directory's recipe, which may differ from that model's."
        )
    if run.more.get("stop") == "regained":
        notes.append(
            f"Shadow federations use all {run.config.recovery_rounds} rounds of recovery. "
            "launch.unlearn stopped once retained accuracy was regained, perhaps earlier."
        )
    return notes


def partial(names: Sequence[str], config: Config, seeds: Sequence[int], controls: Any) -> list[str]:
    """Sentences on what this report cannot say."""
    from jfu.audit import rules, verdicts

    notes, enough = [], len(seeds) >= rules.FEWEST
    if controls.mistaken:
        notes.append(
            f"A control failed: by {verdicts.titles(controls.mistaken)} a third retraining did not "
            "forget, though it was never trained on the data. So this measure says no to no model "
            "here, and there is no yes: compare on more seeds."
        )
    elif controls.there and controls.there[0] == rules.NO:
        notes.append(
            "There was nothing to forget beyond the margins: the old model is within them of "
            "retrained ones. So no model is said to have forgotten."
        )
    elif controls.old and not controls.detecting and "retrain" in names and enough:
        notes.append(
            f"{rules.TOO_SMALL}: by its own rule it cannot distinguish the old model, which "
            "forgot nothing, from retrained ones. So no other model gets a yes."
        )
    if "retrain" not in names:
        notes.append(
            "There is no retrained model to compare with: run launch.compare with retrain among "
            "--methods and audit that."
        )
    if not config.forget:
        notes.append(
            "No request was made, so nothing was to be forgotten: answer one with launch.unlearn "
            "or launch.compare and audit that."
        )
    if len(seeds) == 1:
        notes.append("There is one seed, and one seed decides nothing: compare on five seeds.")
    elif len(seeds) < 5:
        notes.append(f"There are {len(seeds)} seeds; below five nothing is decided.")
    return notes


def negated(names: Sequence[str]) -> list[str]:
    """Methods that negate the layers of ``--layers``; who knows that can negate them again.

    >>> negated(["finetune", "not", "not_last", "not_blend", "anchored"])
    ['not', 'not_blend', 'anchored']
    """
    from jfu.unlearn import UNLEARNERS, traits_of

    of = {name: traits_of(name) for name in names if name in UNLEARNERS}
    return [name for name, one in of.items() if one.perturbs and one.negates and one.selects]


def not_shown(
    shown: Mapping[str, Any],
    missing: Mapping[str, str],
    names: Sequence[str],
    config: Config,
    options: Options,
) -> dict[str, str]:
    """The reasons why a method's measures are missing, by measure.

    Args:
      shown: the measures that are there.
      missing: reasons that are known already.
      names: all methods that are audited.
    """
    from jfu.audit.measures import GROUPS, TABLE, kind_of

    kinds = {kind_of(key) for key in shown}
    undone = bool(negated(names))
    out = dict(missing)
    for key, measure in TABLE.items():
        if key in kinds or key in missing:
            continue
        in_pairs = measure.pair or key.startswith("rmia")
        by_shadows = key in GROUPS["Attacks with shadow federations"]
        out[key] = _why(key, in_pairs, by_shadows, undone, config, options)
    return out


def _why(
    key: str, in_pairs: bool, by_shadows: bool, negated: bool, config: Config, options: Options
) -> str:
    """The reason why a measure is missing."""
    from jfu.audit.measures import CLASSES
    from jfu.tasks import TASKS
    from launch.setup import private

    if not config.forget:
        return "nothing was to be forgotten"
    if key in ("exposure", "extracted"):
        return "no canary was planted"
    if (key in CLASSES or key.startswith("memorised")) and not TASKS[config.task].classes:
        return f"it is for classes, and --task={config.task} has none"
    if by_shadows and options.shadows:
        return "too few examples, or a shadow federation diverged"
    if by_shadows:
        return "not run; --shadows=64 runs it"
    if key.startswith("resurfacing") and not options.resurfacing_rounds:
        return "not run; --resurfacing_rounds=10 runs it"
    if key in ("asr", "resurfacing.asr", "probe_poison") and not config.backdoor:
        return "no backdoor was planted"
    if key.startswith("memorised"):
        return "the original or two retrained models are missing, or not every answer is finite"
    if key == "update_gradient_auc_matched":
        return "the original model is missing, or too few examples"
    if key in ("worst_client", "client_spread", "client_loss"):
        return private.hides_clients(config) or (
            "there is no retrained model" if key == "client_loss" else "no client stays"
        )
    if key.startswith("undo"):
        return "nothing was negated" if negated else "no method negates"
    if key in ("relearn", "anamnesis") and not options.relearn_rounds:
        return "not run; --relearn_rounds=20 runs it"
    if key == "anamnesis":
        return "there is no retrained model that relearnt in so many rounds"
    if key == "relearn":
        return "the original model is missing"
    if in_pairs:
        return "there is no retrained model, or not every answer is finite"
    return "too few examples, or not evaluated"


def audit_command(where: pathlib.Path, options: Options) -> str:
    """The command that audits a work directory with these options."""
    words = [f"--workdir={where}"]
    if options.control is not None:
        words.append("--control" if options.control else "--nocontrol")
    numbers = ("shadows", "relearn_rounds", "resurfacing_rounds", "draws", "shadows_chunk")
    for name in (*numbers, "data_dir"):
        if (value := getattr(options, name)) is not None:
            words.append(f"--{name}={value}")
    return "python -m launch.audit " + " ".join(map(shlex.quote, words))


def curves(rows: Sequence[dict]) -> dict[str, dict[str, list]]:
    """Means over seeds by method and round: accuracies, backdoor success, loss gap."""
    import numpy as np

    out: dict[str, dict[str, list]] = {}
    at: dict[tuple, list] = {}
    for row in rows:
        at.setdefault((row["method"], row["round"]), []).append(row)
    for (method, number), here in sorted(at.items(), key=lambda item: item[0][1]):
        for key in ("retain", "forget", "test", "asr", "loss_gap"):
            values: list[Any] = [row.get(key) for row in here]
            if key == "loss_gap":
                losses = [(row.get("loss_retain"), row.get("loss_forget")) for row in here]
                values = [None if None in pair else abs(pair[0] - pair[1]) for pair in losses]
            if None not in values:
                series = out.setdefault(key, {}).setdefault(method, [])
                series.append([number, float(np.mean(values))])
    return out


def again(where, run, seeds, names, files, options: Options) -> dict[str, Any]:
    """How to reproduce the report, and digests of the audited files."""
    import jfu
    import jfu.ledger
    from launch.report import reproduce
    from launch.shell.software import versions

    kept = {name: jfu.ledger.digest(where / name) for name in ("config.json", "results.jsonl")}
    return dict(
        command=reproduce.command(run, seeds, names),
        audit=audit_command(where, options),
        config=dataclasses.asdict(run.config),
        layout=run.layout._asdict(),
        versions=dict(run=run.versions, audit=versions() | dict(jfu=jfu.__version__)),
        python=platform.python_version(),
        hashes=kept | files,
    )
