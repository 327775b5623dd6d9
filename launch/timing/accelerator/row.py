"""Steps 5 and 6: comparisons and audits as steps, each with the command that a user would give.

``calibrate`` retrains once at one rate, on a seed that is not reported. ``seed`` adds the runs of
one seed to the row ``cifar10_cnn_iid``, at the best of these rates, and records the row so far.
``paper`` does the same for another row. ``shadows`` audits the quickstart's comparison.

A comparison that is stopped in time, or killed, goes on at the next start. The exit status is then
``UNFINISHED``.
"""

import json
import pathlib
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Any

from launch.timing.accelerator import files, processes

UNFINISHED = 75  # EX_TEMPFAIL of sysexits.h: try again
NOT_REPORTED = 1000  # the seed of calibration
RATES = (0.03, 0.05, 0.1)  # of the packed part; cpu.flags has the first
WHOLE_RATES = (0.01, 0.02, 0.05)  # of the whole set; the preset has the first
METHODS = "retrain,not,finetune"  # then a second retraining, which is the floor

# A rehearsal's federation: a perceptron on made-up images, two rounds.
SMALL = [
    *("--dataset=synthetic", "--model=mlp1", "--train_size=100", "--test_size=40"),
    *("--clients=6", "--rounds=2", "--recovery_rounds=1", "--batch_size=16", "--augment=none"),
    *("--eval_every=1", "--attack_every=1", "--proxy=0", "--devices=1"),
    *("--warmup_rounds=0", "--recovery_warmup_rounds=0", "--drop_labels=", "--image_size=8"),
]
NORMED = ["--model=small", "--norm=group"]  # for presets whose networks have normalisation


def main(asked: dict[str, Any]) -> int:
    """Does one step and returns its exit status."""
    out = pathlib.Path(asked["out"])
    does: dict[str, Callable[[pathlib.Path, dict[str, Any]], int]]
    does = dict(calibrate=calibrate, seed=seed, paper=paper, quickstart=quickstart, shadows=shadows)
    return does[asked["do"]](out, asked)


def recipe(asked: dict[str, Any], preset: str = "cifar10_cnn_iid") -> list[str]:
    """A row's flags, with those of two cores if only a packed part of its data set is here."""
    flags = [f"--flagfile=launch/presets/{preset}.flags"]
    if asked["packed"]:
        flags.append("--flagfile=launch/presets/cpu.flags")
    if asked["rehearse"]:
        normed = "resnet18" in preset
        return [*flags, *SMALL, *NORMED * normed]
    return [*flags, f"--data_dir={asked['data_dir']}"] if asked["data_dir"] else flags


def compare(out: pathlib.Path, work: str, flags: Sequence[str], asked: dict[str, Any]) -> int:
    """``launch.compare`` in a folder of ``work``, for at most ``asked["minutes"]``."""
    where = [f"--workdir={out / 'work' / work}", f"--compilation_cache={out / 'cache'}"]
    minutes = f"--max_minutes={max(asked['minutes'], 0.05):.3f}"
    return script("compare", *flags, *where, minutes, fork=asked["rehearse"])


def script(name: str, *flags: str, fork: bool) -> int:
    """Runs a script, prints what it prints, and says whether it has finished.

    Args:
      fork: whether it is forked off this process, which has no device yet. A rehearsal does so,
        since its processes have imported what the script needs.
    """
    if fork:
        code, text = processes.run(f"launch.{name}", flags)
    else:
        words = processes.below(["-m", f"launch.{name}", *flags])
        command = [sys.executable, "-W", "ignore", *words]
        pipes: dict[str, Any] = dict(stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        done = subprocess.run(command, check=False, **pipes)
        code, text = done.returncode, done.stdout
    print(text, flush=True)
    return UNFINISHED if not code and "the same command continues" in text else code


def calibrate(out: pathlib.Path, asked: dict[str, Any]) -> int:
    flags = [
        f"--first_seed={NOT_REPORTED}",
        "--seeds=1",
        "--methods=retrain",
        f"--lr={asked['lr']}",
    ]
    return compare(out, f"calibrate-{asked['lr']}", [*recipe(asked), *flags], asked)


def calibrated(out: pathlib.Path) -> list[dict[str, float]]:
    """Test accuracy of retraining after its last round, for each rate that was finished."""
    found = []
    for path in sorted((out / "work").glob("calibrate-*/results.jsonl")):
        rows = [row for row in files.read(path) if row["method"] == "retrain"]
        if rows:
            last = max(rows, key=lambda row: row["round"])
            rate = float(path.parent.name.partition("-")[2])
            found.append(dict(lr=rate, round=last["round"], test=last["test"]))
    return found


def best_rate(found: Sequence[dict[str, float]]) -> float | None:
    """The rate with the highest test accuracy, of those that ran the most rounds.

    >>> best_rate([dict(lr=0.1, round=80, test=47.0), dict(lr=0.2, round=40, test=60.0)])
    0.1
    """
    most = max((row["round"] for row in found), default=0)
    whole = [row for row in found if row["round"] == most]
    return max(whole, key=lambda row: row["test"])["lr"] if whole else None


def seed(out: pathlib.Path, asked: dict[str, Any]) -> int:
    rates = calibrated(out)
    rate = best_rate(rates)
    for row in rates:
        chosen = dict(what="calibration", precision=f"lr={row['lr']}", chosen=row["lr"] == rate)
        files.add(out / "rows" / "row.jsonl", row | chosen, ["what", "precision"])
    flags = [*recipe(asked), f"--methods={METHODS}", f"--seeds={asked['seed'] + 1}"]
    flags += [] if rate is None else [f"--lr={rate}"]
    return recorded(out, "cifar10_cnn_iid", flags, asked)


def paper(out: pathlib.Path, asked: dict[str, Any]) -> int:
    """A row of the paper, or with other flags a run beside it, in a folder ``name``."""
    flags = recipe(asked, asked["row"]) + asked["more"]
    flags += ["--seeds=1", "--methods=retrain"] * asked["rehearse"]
    return recorded(out, asked["name"], flags, asked)


def recorded(out: pathlib.Path, row: str, flags: Sequence[str], asked: dict[str, Any]) -> int:
    """A comparison, and the rows of its finished runs in ``<row>-<device>.jsonl``."""
    code = compare(out, row, flags, asked)
    if code not in (0, UNFINISHED):
        return code
    path = out / f"{row}-{device(out)}.jsonl"
    half = path.with_suffix(".half")
    half.unlink(missing_ok=True)
    made = [f"--workdir={out / 'work' / row}", f"--record={half}"]
    if script("table", *made, fork=asked["rehearse"]) == 0:
        half.replace(path)
    return code


def device(out: pathlib.Path) -> str:
    """The device's name for names of files: the last word of what JAX calls it."""
    rows = files.read(out / "rows" / "device.jsonl")
    names = [row["device"] for row in rows if row["what"] == "facts"]
    word = names[0].split()[-1].lower() if names else "unknown"
    return "".join(c for c in word if c.isalnum()) or "unknown"


def quickstart(out: pathlib.Path, asked: dict[str, Any]) -> int:
    flags = ["--methods=retrain,finetune,none,not", f"--seeds={2 if asked['rehearse'] else 5}"]
    return compare(out, "quickstart", [*flags, *SMALL * asked["rehearse"]], asked)


def shadows(out: pathlib.Path, asked: dict[str, Any]) -> int:
    work = out / "work" / "quickstart"
    many = 8 if asked["rehearse"] else 64
    flags = [f"--workdir={work}", f"--shadows={many}", f"--compilation_cache={out / 'cache'}"]
    code = script("audit", *flags, fork=asked["rehearse"])
    if code == 0:
        shutil.copyfile(work / "audit.json", out / "audit.json")
    return code


if __name__ == "__main__":
    sys.exit(main(json.loads(sys.argv[1])))
