"""Recorded results: the rows that documents cite, and the list of the paper's rows."""

import dataclasses
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jfu.io
from jfu import results, tables
from jfu.files import read_lines
from jfu.metrics import GAP_MEASURES
from launch.report import paper, report
from launch.shell.config import Config


def write(
    path: pathlib.Path, config: Config, names: Sequence[str], rows: Sequence[Mapping[str, Any]]
) -> None:
    """Writes the configuration and the methods' names in one line, then one line for each row."""
    values = dataclasses.asdict(config) | dict(data_dir=None)  # a path on one machine
    values["model"] = values["model"].rpartition("/")[2]  # one's own: the name of its file
    lines = [dict(config=values, cells=names), *rows]
    jfu.io.write_bytes(path, "".join(json.dumps(line) + "\n" for line in lines).encode())


def read(path: pathlib.Path) -> dict[str, Any]:
    """The summary of a recorded file, for ``launch.table.markdown``; all of its runs are finished.

    Raises:
      ValueError: it is not such a file.
    """
    try:
        first, *rows = read_lines(path)
        return _summary(first["config"], list(first["cells"]), rows)
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise ValueError(
            f"{path} is not a recorded table ({error!r:.200}); launch.table --record writes them"
        ) from None


def _summary(config: Mapping[str, Any], names: Sequence[str], rows: Sequence[Mapping]) -> dict:
    summary, whole = report.summarise(rows, config), dict(round=1, of=1)
    done = {(row["method"], row["seed"]) for row in rows}
    state = lambda name, seed: whole if (name, seed) in done else None
    cells = {n: {str(s): state(n, s) for s in summary["seeds"]} for n in names}
    methods = {n: summary["methods"].get(n) for n in cells if n != results.AGAIN}
    return summary | dict(methods=methods, cells=cells, paper=paper.known(config))


def overview(results: pathlib.Path) -> str:
    """The list of the paper's rows: the paper's values, and the measured ones.

    Args:
      results: the folder of recorded files, ``<row>-<device>.jsonl``. A row may have several files;
        without a file its places stay empty. Ablations may stand in the file of another row.

    Raises:
      ValueError: a file has another row's configuration than its name says.
    """
    header = ["row", "preset", "retrain: paper", "NoT's gap: paper", "device", "scale", "seeds"]
    header += ["retrain", "floor", "NoT's gap", "`not_blend`", "fine-tuning"]
    header += ["rounds: retrain", "NoT", "`not_blend`", "in a sentence"]
    lines = [header]
    for name, row in paper.ROWS.items():
        theirs = [row.known.get("retrain"), row.known.get("not", {}).get("gap")]
        begin = [row.title, f"`{name}`", accuracies(theirs[0]), number(theirs[1], 2)]
        found = [(path, read(path)) for path in sorted(results.glob(f"{name}-*.jsonl"))]
        for path, summary in found:
            if differing := paper.differing(name, summary["config"]):
                has = ", ".join(f"{field}={summary['config'][field]}" for field in differing)
                raise ValueError(f"{path} has {has}, which is not the row {name}; rename it")
        if row.within:
            others = [(path, read(path)) for path in sorted(results.glob(f"{row.within}-*.jsonl"))]
            found += [(p, s) for p, s in others if set(row.methods) <= set(s["methods"])]
        for path, summary in found:
            device = path.stem.partition("-")[2]
            lines.append([*begin, device, *measured(summary), sentence(summary, row.methods)])
        if not found:
            lines.append([*begin, *[""] * (len(header) - len(begin))])
    return tables.aligned(lines)


def measured(summary: Mapping[str, Any]) -> list[str]:
    """Scale, seeds, retrain, gaps per seed and rounds to recover of a summary."""
    config, methods = summary["config"], summary["methods"]
    mean = lambda name, key: ((methods.get(name) or {}).get(key) or {}).get("mean")
    retrain = {m: mean("retrain", m) for m in GAP_MEASURES}
    rounds = lambda name: number(mean(name, "rounds_to_recover"), 1, "-" * bool(methods.get(name)))
    scale, seeds = reduced(config) or "all images", len(summary["seeds"])
    if config.get("precision") not in (None, "float32"):
        scale += f", {config['precision']}"
    compared = (methods.get("not") or {}).get("compared", 0)
    return [
        f"{scale}, {config['rounds']} + {config['recovery_rounds']} rounds",
        f"{compared} of {seeds}" if compared < seeds else str(seeds),
        accuracies(retrain),
        number(floor_of(summary), 2),
        *(number(mean(name, "gap_per_seed"), 2) for name in ("not", "not_blend", "finetune")),
        *(rounds(name) for name in ("retrain", "not", "not_blend")),  # "-": a seed never recovered
    ]


def floor_of(summary: Mapping[str, Any]) -> float | None:
    """The mean gap per seed between two retrainings."""
    return ((summary["floor"] or {}).get("gap_per_seed") or {}).get("mean")


def sentence(summary: Mapping[str, Any], methods: Sequence[str]) -> str:
    """Which methods of a row are inside the floor; empty if there is none.

    A method is inside if its gap per seed is at most the floor's.

    >>> gap = lambda value: dict(gap_per_seed=dict(mean=value))
    >>> sentence(dict(floor=gap(1.0), methods={"not": gap(0.9), "not_all": gap(3.5)}), ["not"])
    'NoT is inside the floor.'
    >>> sentence(dict(floor=gap(1.0), methods={"not": gap(0.9), "not_all": gap(3.5)}),
    ...          ["not", "not_all"])
    'NoT is inside the floor, `not_all` 2.5 points outside.'
    """
    floor, said = floor_of(summary), []
    for name in methods if floor is not None else ():
        entry = summary["methods"].get(name) or {}
        value = (entry.get("gap_per_seed") or {}).get("mean")
        if value is not None:
            away = round(value - floor, 1)
            where = "inside" if away <= 0 else f"{away} points outside"
            verb, end = ("", "") if said else ("is ", " the floor")
            said.append(f"{'NoT' if name == 'not' else f'`{name}`'} {verb}{where}{end}")
    return f"{', '.join(said)}." if said else ""


def reduced(config: Mapping[str, Any]) -> str:
    """The part of the data that was used, in words; empty if all of it was.

    >>> reduced(dict(train_size=5000, test_size=None, proxy=0.1))
    '5,000 training images and 90 % of the test images'
    >>> reduced(dict(train_size=5000, test_size=2000, proxy=0.1))
    '5,000 training images and 1,800 test images'
    >>> small = dict(dataset="cifar10", image_size=16, model="resnet18_narrow")
    >>> reduced(dict(train_size=2000, test_size=2000, proxy=0) | small)
    '2,000 training images and 2,000 test images in 16x16, a network a quarter as wide'
    """
    train, test, proxy = (config[name] for name in ("train_size", "test_size", "proxy"))
    words = [f"{train:,} training images"] if train else []
    if test:
        words.append(f"{test - int(test * proxy):,} test images")
    elif proxy:
        words.append(f"{1 - proxy:.0%} of the test images".replace("%", " %"))
    size, narrow = config.get("image_size"), config.get("model", "").endswith("_narrow")
    smaller = size and not config["dataset"].startswith("caltech")  # whose images have no one size
    return (
        (" and ".join(words) or "all images" * bool(smaller))
        + f" in {size}x{size}" * bool(smaller)
        + ", a network a quarter as wide" * narrow
    )


def accuracies(values: Mapping[str, float] | None) -> str:
    """Retain, forget and test in percent, as in the paper's rows.

    >>> accuracies(dict(retain=91.66, forget=83.05, test=82.32))
    '91.66 / 83.05 / 82.32'
    """
    shown = [(values or {}).get(m) for m in ("retain", "forget", "test")]
    return "" if None in shown else " / ".join(f"{value:.2f}" for value in shown)


def number(value: float | None, digits: int, none: str = "") -> str:
    return none if value is None else f"{value:.{digits}f}"


def gaps(path: pathlib.Path, rounds: Sequence[int]) -> str:
    """A recorded file's gaps to the end of retraining, after given numbers of rounds; Markdown.

    They are means over the seeds that retraining has too. A dash means that a seed has no row of
    that round, or no attack in it. For a second retraining only the last round is known.
    """
    runs: dict[str, dict[int, dict[int, Mapping]]] = {}
    for row in read_lines(path)[1:]:
        runs.setdefault(row["method"], {}).setdefault(row["seed"], {})[row["round"]] = row
    ends = {seed: run[max(run)] for seed, run in runs.get("retrain", {}).items()}

    def gap_of(rows: Mapping[int, Mapping | None]) -> str:
        pairs = [(row, ends[seed]) for seed, row in rows.items() if seed in ends]
        if not pairs or any(row is None for row, _ in pairs):
            return "-"
        found = results.mean_std(jfu.gap_per_seed(*zip(*pairs, strict=True)) or [None])
        return "-" if found is None else f"{found['mean']:.2f} ± {found['std']:.2f}"

    lines = [["method", *(f"{number} rounds" for number in rounds), "its last"]]
    for name, seeds in runs.items():
        if name in ("original", "retrain"):
            continue
        after = [gap_of({s: run.get(number) for s, run in seeds.items()}) for number in rounds]
        end = gap_of({s: run[max(run)] for s, run in seeds.items()})
        lines.append(["retrain again" if name == results.AGAIN else name, *after, end])
    return tables.aligned(lines)
