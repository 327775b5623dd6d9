"""The tables in the documents: their sources, whether they are up to date, and how to rewrite them.

A table in a document stands between two comments, ``<!-- name -->`` and ``<!-- /name -->``.
``BLOCKS`` says from which recorded results it is made, and how.

  python -m launch.studies.documents            # lists tables that differ from launch/results
  python -m launch.studies.documents --write    # rewrites them

This needs a checkout: neither the documents nor the recorded results are installed.
"""

import json
import pathlib
import re
import sys
from collections.abc import Callable, Iterator, Sequence

from jfu import tables
from launch.report import recorded, report, terminal
from launch.running import table, targets
from launch.studies import (
    apart,
    pays_report,
    power,
    rates,
    recoveries,
    robustness,
    tasks,
    theory,
    uneven,
)
from launch.timing import bench, live, streaming, whole
from launch.timing.accelerator import expected
from launch.timing.accelerator import tables as accelerator

ROOT = pathlib.Path(__file__).parents[2]
TOPS = ("jfu", "launch", "tests")  # in addition to the documents at the root

Results = pathlib.Path  # the folder launch/results


def _lines(path: pathlib.Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def _whole(results: Results, name: str) -> dict:
    return json.loads((results / f"{name}.json").read_text())


def _summary(name: str) -> Callable[[Results], str]:
    """The table of a recorded summary."""
    return lambda results: report.markdown(_whole(results, name))


def _recorded(name: str) -> Callable[[Results], str]:
    """The table of rows that ``launch.table --record`` wrote, beside the paper's if it has one."""
    return lambda results: table.markdown(recorded.read(results / f"{name}.jsonl"))


def _of_lines(name: str, shown: Callable[[Sequence[dict]], str]) -> Callable[[Results], str]:
    return lambda results: shown(_lines(results / f"{name}.jsonl"))


def _audit(name: str) -> Callable[[Results], str]:
    """The tables of a recorded audit, without its notes."""
    return lambda results: terminal.text({**_whole(results, name), "notes": []}).strip() + "\n"


def verdicts_of(name: str) -> Callable[[Results], str]:
    """The first table of a recorded audit: its verdicts."""
    return lambda results: _audit(name)(results).split("\n\n")[0].strip() + "\n"


def by_number_of(**names: str) -> Callable[[Results], str]:
    """The first question's verdicts by the number of seeds, of recorded audits by data set."""

    def shown(results):
        found = {title: _whole(results, name)["by_seeds"] for title, name in names.items()}
        numbers = list(dict.fromkeys(many for each in found.values() for many in each))
        lines = [["data", "forgotten? With so many seeds", *numbers]]
        for title, each in found.items():
            models = list(dict.fromkeys(name for given in each.values() for name in given))
            for name in models:
                given = [each.get(many, {}).get(name, "-") for many in numbers]
                lines.append([title, terminal.title_of(name), *given])
        return tables.aligned(lines)

    return shown


FRONT = {
    "original": "before the request",
    "finetune": "fine-tuned without the client",
    "retrain": "retrained without the client: the reference",
    "not": "NoT: first layer negated, then fine-tuned",
}


def front(results: Results) -> str:
    """The quickstart's four columns that matter most, NoT's row in bold."""
    summary = report.summarise(_lines(results / "quickstart-cpu.jsonl"))
    methods = summary["methods"]
    put = lambda value, unit=" %": "-" if value is None else f"{value['mean']:.1f}{unit}"

    def line(name: str) -> list[str]:
        entry = methods[name]
        gap = None if name == "retrain" else entry["gap_per_seed"]
        rounds = None if name == "original" else entry["rounds_to_recover"]
        return [put(entry["asr"]), put(entry["forget"]), put(gap, ""), put(rounds, "")]

    lines = [["", "backdoor", "forget", "gap", "rounds"]]
    lines += [[words, *line(name)] for name, words in FRONT.items()]
    lines[-1] = [f"**{text}**" for text in lines[-1]]
    return tables.aligned(lines)


def aims(results: Results) -> str:
    """The aims of the timed jobs, and the measured values."""
    of = {
        job: {row["name"]: row for row in reversed(_lines(results / f"bench-{job}-cpu.jsonl"))}
        for job in ("mlp", "cnn")
    }
    mlp, cnn = of["mlp"], of["cnn"]
    rate = lambda rows: rows["jfu"]["gflop_per_second"] / rows["matmul"]["gflop_per_second"]
    faster = [f"{mlp[peer]['ratio']:.2f}" for peer in ("torch", "fedjax", "drjax")]
    cold = mlp["jfu"]["cold_seconds"] / mlp["torch"]["cold_seconds"]
    fastest = min(cnn[peer]["ratio"] for peer in ("torch", "fedjax", "flower"))
    both = lambda shown: ", ".join(shown(rows) for rows in of.values())
    lines = [
        ["", "aim", "here"],
        ["`mlp`: faster than PyTorch, FedJAX, DrJAX by", "3, 3, 2", ", ".join(faster)],
        ["`mlp`: than Flower by", "15", f"{mlp['flower']['ratio']:.1f}"],
        ["`mlp`: cold start to 20 rounds, over PyTorch's", "0.6", f"{cold:.2f}"],
        ["`mlp`, `cnn`: MB", "350, 850", both(lambda rows: f"{rows['jfu']['peak_mb']:.0f}")],
        ["`cnn`: faster than the fastest other by", "1 to 1.3", f"{fastest:.2f}"],
        [
            "`mlp`, `cnn`: share of the machine's rate for products",
            "0.7",
            both(lambda rows: f"{rate(rows):.2f}"),
        ],
        [
            "`mlp`, `cnn`: the same, with the optimizer's steps (*bound*)",
            "",
            both(lambda rows: f"{rows['jfu']['bound']:.2f}"),
        ],
    ]
    return tables.aligned(lines)


def tuning(rows: Sequence[dict], shown: Sequence[str]) -> str:
    """The settings tried for each method, on one line; the chosen one is bold.

    Measures follow each setting after a colon.

    >>> row = dict(method="pgd", option="lr=0.1", gap=5.75, retain=99.0, asr=16.94, chosen=True)
    >>> print(tuning([row, row | dict(option="lr=0.01", gap=6.79, chosen=False)], ["asr"]))
    | method |                  tried |                     |
    |--------|-----------------------:|--------------------:|
    | pgd    | **lr=0.1: 5.75, 16.9** | lr=0.01: 6.79, 16.9 |
    <BLANKLINE>
    """
    found: dict[str, list[str]] = {}
    for row in rows:
        values = ", ".join([f"{row['gap']:.2f}", *(f"{row[name]:.1f}" for name in shown)])
        bold = "**" * row["chosen"]
        found.setdefault(row["method"], []).append(f"{bold}{row['option']}: {values}{bold}")
    width = max(map(len, found.values()))
    lines = [["method", "tried", *[""] * (width - 1)]]
    return tables.aligned(lines + [[name, *cells] for name, cells in found.items()])


BLOCKS: dict[str, Callable[[Results], str]] = {
    "front": front,
    "quickstart": _of_lines("quickstart-cpu", lambda rows: report.markdown(report.summarise(rows))),
    "digits-all": _summary("digits-all-cpu"),
    "stopping": lambda results: tables.stopping(_whole(results, "digits-all-cpu")),
    "rounds": _of_lines("digits-all-cpu-rounds", targets.markdown),
    "digits-tuning": _of_lines("digits-tuning-cpu", lambda rows: tuning(rows, ["asr"])),
    "fashion-iid": _summary("fashion-iid-cpu"),
    "fashion-dirichlet": _summary("fashion-dirichlet-cpu"),
    "fashion-iid-warm-cpu": _recorded("fashion-iid-warm-cpu"),
    "fashion-tuning": _of_lines("fashion-tuning-cpu", lambda rows: tuning(rows, ["retain", "asr"])),
    "pays": _of_lines("pays-digits-cpu", pays_report.groups),
    "pays-fashion": _of_lines("pays-fashion-cpu", pays_report.markdown),
    "pays-fashion-clean": _of_lines("pays-fashion-clean-cpu", pays_report.markdown),
    "rows": recorded.overview,
    "cifar10_cnn_iid-cpu": _recorded("cifar10_cnn_iid-cpu"),
    "resnet-narrow-cpu": _recorded("resnet-narrow-cpu"),
    "resnet-narrow-cpu-gaps": lambda results: recorded.gaps(
        results / "resnet-narrow-cpu.jsonl", (20, 30)
    ),
    "digits-deepest": _summary("digits-deepest-cpu"),
    "digits-readings": _recorded("digits-readings-cpu"),
    "digits-blend-cpu": _recorded("digits-blend-cpu"),
    "fashion-iid-blend-cpu": _recorded("fashion-iid-blend-cpu"),
    "fashion-dirichlet-blend-cpu": _recorded("fashion-dirichlet-blend-cpu"),
    "cifar10_cnn_iid-cpu-2000": _recorded("cifar10_cnn_iid-cpu-2000"),
    "cifar10_resnet18_batch-cpu-2000": _recorded("cifar10_resnet18_batch-cpu-2000"),
    "cifar10_resnet18_group-cpu-2000": _recorded("cifar10_resnet18_group-cpu-2000"),
    "cifar10_cnn_iid-cpu-3000": _recorded("cifar10_cnn_iid-cpu-3000"),
    "digits-vit-cpu": _recorded("digits-vit-cpu"),
    "digits-rivals-cpu": _recorded("digits-rivals-cpu"),
    "fashion-iid-small-cpu": _recorded("fashion-iid-small-cpu"),
    "fashion-dirichlet-small-cpu": _recorded("fashion-dirichlet-small-cpu"),
    "digits-later-cpu": _recorded("digits-later-cpu"),
    "digits-class-cpu": _recorded("digits-class-cpu"),
    "diabetes-cpu": _recorded("diabetes-cpu"),
    "recoveries": lambda results: recoveries.markdown(results / "recovery"),
    "digits-bf16": _summary("digits-bf16-cpu"),
    "tasks": tasks.markdown,
    "uneven": uneven.markdown,
    "audit-rates": lambda results: rates.markdown(_whole(results, "audit-rates")),
    "audit": _audit("audit-digits-cpu"),
    "audit-fashion": _audit("audit-fashion-cpu"),
    "audit-ridge": verdicts_of("audit-ridge-cpu"),
    "audit-ridge-fashion": verdicts_of("audit-ridge-fashion-cpu"),
    "audit-ridge-seeds": by_number_of(
        digits="audit-ridge-cpu", fashion_mnist="audit-ridge-fashion-cpu"
    ),
    "power": _of_lines("power-digits-cpu", power.markdown),
    "apart": _of_lines("apart-digits-cpu", apart.markdown),
    "theory": _of_lines("theory-cpu", lambda rows: theory.markdown(rows).split("\n\n")[1]),
    "robustness": _of_lines("robustness-digits-cpu", robustness.markdown),
    "bench-mlp": _of_lines("bench-mlp-cpu", bench.markdown),
    "bench-cnn": _of_lines("bench-cnn-cpu", bench.markdown),
    "bench-whole": _of_lines("bench-whole-cpu", whole.markdown),
    "aims": aims,
    "accelerator": accelerator.overview,
    "expected-steps": _of_lines("lowered-cpu", expected.steps),
    "expected": _of_lines("lowered-cpu", expected.markdown),
    "lowered": _of_lines("lowered-cpu", expected.programs),
    "streaming": _of_lines("streaming-cpu", streaming.markdown),
    "live": _of_lines("flower-cpu", live.markdown),
}

BLOCK = re.compile(
    r"^<!-- (?P<name>[^\s/]\S*) -->\n(?P<text>.*?)^<!-- /(?P=name) -->$", re.S | re.M
)
MARK = re.compile(r"^<!-- /?\S+ -->$", re.M)


def documents(root: pathlib.Path) -> Iterator[pathlib.Path]:
    """All Markdown files of a checkout, without tests/scripts/older, which has work directories."""
    yield from sorted(root.glob("*.md"))
    for top in TOPS:
        yield from sorted(p for p in (root / top).rglob("*.md") if "older" not in p.parts)


def blocks(text: str) -> dict[str, str]:
    """The blocks of a document, by name.

    >>> blocks("<!-- a -->\\n| 1 |\\n<!-- /a -->\\n")
    {'a': '| 1 |\\n'}

    Raises:
      ValueError: a block begins or ends without the other, or its name is not in ``BLOCKS``.
    """
    found = [(match["name"], match["text"]) for match in BLOCK.finditer(text)]
    if len(marks := MARK.findall(text)) != 2 * len(found):
        raise ValueError(f"among {', '.join(marks)} one has no partner")
    return dict(found)


def rewritten(text: str, results: Results) -> str:
    """A document with every block rewritten from the recorded results.

    Raises:
      ValueError: a block begins or ends without the other, or its name is not in ``BLOCKS``.
    """
    if unknown := [name for name in blocks(text) if name not in BLOCKS]:
        raise ValueError(f"there is no table {unknown[0]}; the tables are {', '.join(BLOCKS)}")
    anew = lambda match: f"<!-- {match['name']} -->\n{BLOCKS[match['name']](results)}"
    return BLOCK.sub(lambda match: f"{anew(match)}<!-- /{match['name']} -->", text)


def main(arguments: Sequence[str]) -> int:
    """Checks the documents, or rewrites their tables; returns the exit status."""
    if list(arguments) not in ([], ["--write"]):
        print(__doc__, file=sys.stderr)
        return 2
    status = 0
    for path in documents(ROOT):
        text = path.read_text()
        after = rewritten(text, ROOT / "launch" / "results")
        if after == text:
            continue
        old, new = blocks(text), blocks(after)
        names = ", ".join(name for name in new if old[name] != new[name])
        print(f"{path.relative_to(ROOT)}: {names}")
        if arguments:
            path.write_text(after)
        else:
            status = 1
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
