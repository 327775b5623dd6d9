"""The README's code runs, and its table is that of the recorded results."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def test_the_twenty_lines_run_and_forget():
    (block,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    code = [line for line in block.splitlines() if line.strip()]
    assert len(code) <= 22
    scope: dict = {}
    exec(block, scope)
    import jax

    state, data, net = scope["state"], scope["data"], scope["net"]
    assert int(state.round) == 10
    logits = net.apply(state.variables, data.x_test)
    assert (np.asarray(logits).argmax(-1) == data.y_test).mean() > 0.8
    assert jax.tree.all(jax.tree.map(lambda a: bool(np.isfinite(a).all()), state.params))


def test_the_line_of_negate_runs():
    (line,) = re.findall(r"`(params = jfu\.negate\(.*?)`", README)
    import jfu

    scope = {"jfu": jfu, "params": {"stem": {"kernel": np.ones(2)}, "head": np.ones(1)}}
    exec(line, scope)
    assert scope["params"]["stem"]["kernel"].tolist() == [-1, -1]


def test_the_table_is_made_of_the_recorded_results():
    from launch.report import report

    recorded = ROOT / "launch" / "results" / "quickstart-cpu.jsonl"
    rows = [json.loads(line) for line in recorded.read_text().splitlines()]
    table = report.markdown(report.table(rows))
    shown = README.split("<!-- quickstart -->\n")[1].split("<!-- /quickstart -->")[0]
    assert table in shown


def test_the_list_of_the_papers_rows_is_that_of_the_recorded_results():
    """A row without recorded results is empty; a block of a recorded file is its table."""
    from launch.report import paper, recorded
    from launch.running import table

    results = ROOT / "launch" / "results"
    shown = lambda name: README.split(f"<!-- {name} -->\n")[1].split(f"<!-- /{name} -->")[0]
    assert shown("rows") == recorded.overview(results)
    for path in results.glob("*.jsonl"):
        if path.stem.partition("-")[0] in paper.ROWS and f"<!-- {path.stem} -->" in README:
            assert shown(path.stem) == table.markdown(recorded.read(path))


@pytest.mark.parametrize(
    "name", ["resnet-narrow-cpu", "fashion-iid-warm-cpu", "cifar10_cnn_iid-cpu"]
)
def test_tables_are_those_of_the_recorded_rows(name):
    from launch.report import recorded
    from launch.running import table

    path = ROOT / "launch" / "results" / f"{name}.jsonl"
    shown = lambda name: README.split(f"<!-- {name} -->\n")[1].split(f"<!-- /{name} -->")[0]
    assert shown(name) == table.markdown(recorded.read(path))
    if f"<!-- {name}-gaps -->" in README:
        assert shown(f"{name}-gaps") == recorded.gaps(path, (20, 30))


@pytest.mark.parametrize("job", ["mlp", "cnn"])
def test_the_tables_of_speed_are_those_of_the_recorded_results(job):
    from launch.timing import bench

    lines = (ROOT / "launch" / "results" / f"bench-{job}-cpu.jsonl").read_text().splitlines()
    shown = README.split(f"<!-- bench-{job} -->\n")[1].split(f"<!-- /bench-{job} -->")[0]
    assert shown == bench.markdown([json.loads(line) for line in lines])


def test_what_is_reached_of_the_aims_is_what_was_measured():
    read = lambda job: (ROOT / "launch" / "results" / f"bench-{job}-cpu.jsonl").read_text()
    rows = {job: list(map(json.loads, read(job).splitlines())) for job in ("mlp", "cnn")}
    of = {job: {row["name"]: row for row in reversed(rows[job])} for job in rows}
    mlp, cnn = of["mlp"], of["cnn"]
    reached = lambda aim: next(x for x in README.splitlines() if x.startswith(f"| {aim}"))
    faster = ", ".join(f"{mlp[peer]['ratio']:.2f}" for peer in ("torch", "fedjax", "drjax"))
    cold = mlp["jfu"]["cold_seconds"] / mlp["torch"]["cold_seconds"]
    share = [
        f"{x['jfu']['gflop_per_second'] / x['matmul']['gflop_per_second']:.2f}" for x in of.values()
    ]
    for aim, value in {
        "`mlp`: faster": faster,
        "`mlp`: than Flower": f"{mlp['flower']['ratio']:.1f}",
        "`mlp`: cold": f"{cold:.2f}",
        "`mlp`, `cnn`: MB": f"{mlp['jfu']['peak_mb']:.0f}, {cnn['jfu']['peak_mb']:.0f}",
        "`cnn`: faster": f"{min(cnn[peer]['ratio'] for peer in ('torch', 'fedjax', 'flower')):.2f}",
        "`mlp`, `cnn`: share": ", ".join(share),
        "`mlp`, `cnn`: the same": ", ".join(f"{x['jfu']['bound']:.2f}" for x in of.values()),
    }.items():
        assert reached(aim).endswith(f"| {value} |")


def test_what_clipping_does_is_what_was_measured():
    lines = (ROOT / "launch" / "results" / "cnn-iid-clip-cpu.jsonl").read_text().splitlines()
    rows = list(map(json.loads, lines))
    of = lambda clip, warm: [
        r for r in rows if (r["max_grad_norm"], r["recovery_warmup_rounds"]) == (clip, warm)
    ]
    runs = [of(None, 0), of(1.0, 0), of(None, 3), of(1.0, 3)]
    retain, test = ([f"{run[-1][name]:.1f}" for run in runs] for name in ("retain", "test"))
    back = next(r["round"] for r in runs[2] if r["round"] and r["retain"] >= 99.5)
    (said,) = re.findall(r"\* \*\*Clipping gradients.*?jsonl\)", README, re.DOTALL)
    shown = r"ends at (\S+) % .*?at (\S+) %, .*?at (\S+) % and back after (\d+) .*?at (\S+) %;"
    ((plain, clipped, warm, rounds, both),) = re.findall(shown, said, re.DOTALL)
    assert [plain, clipped, warm, both] == retain and int(rounds) == back
    assert "at {}, {}, {} and {} %".format(*test) in " ".join(said.split())


def test_the_time_of_a_start_is_that_of_the_recorded_results():
    lines = (ROOT / "launch" / "results" / "startup-cpu.jsonl").read_text().splitlines()
    none, warm = (f"{json.loads(line)['seconds_median']:.1f}" for line in lines)
    (shown,) = re.findall(r"takes (\S+) s from the command to its\s+end, and (\S+) s with", README)
    assert shown == (none, warm)


def test_what_is_said_of_recovery_without_warming_up_was_recorded():
    from launch.report import recorded

    kept = recorded.read(ROOT / "launch" / "results" / "cnn-iid-nowarm-cpu.jsonl")
    ends = {name: kept["methods"][name]["retain"]["mean"] for name in ("not", "not_deepest")}
    (shown,) = re.findall(r"NoT is at (\S+) % after 40 rounds, `not_deepest` at (\S+) %", README)
    assert shown == (f"{ends['not']:.1f}", f"{ends['not_deepest']:.1f}")


def test_the_table_of_when_negation_pays_is_that_of_the_recorded_results():
    from launch.studies import pays_report

    lines = (ROOT / "launch" / "results" / "pays-digits-cpu.jsonl").read_text().splitlines()
    shown = README.split("<!-- pays -->\n")[1].split("<!-- /pays -->")[0]
    assert shown == pays_report.groups([json.loads(line) for line in lines])


def test_the_points_on_fashion_mnist_are_those_of_the_recorded_results():
    from launch.studies import pays_report

    read = lambda name: (ROOT / "launch" / "results" / f"pays-{name}-cpu.jsonl").read_text()
    rows = lambda name: [json.loads(line) for line in read(name).splitlines()]
    shown = README.split("<!-- pays-fashion -->\n")[1].split("<!-- /pays-fashion -->")[0]
    tables = [pays_report.markdown(rows(name)) for name in ("fashion", "fashion-clean")]
    assert shown == "\n".join(tables)


def test_the_table_of_streaming_is_that_of_the_recorded_results():
    from launch.timing import streaming

    lines = (ROOT / "launch" / "results" / "streaming-cpu.jsonl").read_text().splitlines()
    shown = README.split("<!-- streaming -->\n")[1].split("<!-- /streaming -->")[0]
    assert shown == streaming.markdown([json.loads(line) for line in lines])


def test_the_table_of_attacks_is_that_of_the_recorded_results():
    """And what is said below it."""
    from launch.studies import robustness

    lines = (ROOT / "launch" / "results" / "robustness-digits-cpu.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    shown = README.split("<!-- robustness -->\n")[1].split("<!-- /robustness -->")[0]
    assert shown == robustness.markdown(rows)
    worst = lambda part, name, attack, bad: min(
        np.mean(row["accuracy"])
        for row in rows
        if (row["partition"], row["aggregator"]) == (part, name)
        and (row["attack"], row["bad"]) == (attack, bad)
    )
    iid, skewed = robustness.PARTS
    best = {part: worst(part, "mean", "none", 1) for part in robustness.PARTS}
    lost = lambda part, name: best[part] - worst(part, name, "sign", 3)
    of = lambda part: [round(lost(part, name)) for name in ("limited", "clipped")]
    assert (of(iid), of(skewed)) == ([16, 18], [26, 36])
    tried = [attack for attack in robustness.ATTACKS if attack != "none"]
    least = lambda part, name, bad: min(worst(part, name, attack, bad) for attack in tried)
    for name in ("median", "trimmed", "multi-krum", "geometric", "mixed"):
        assert min(least(iid, name, bad) for bad in robustness.BAD) > best[iid] - 5
    ends = {name: least(skewed, name, 3) for name in robustness.AGGREGATORS}
    assert max(ends, key=ends.get) == "mixed" and int(ends["mixed"]) == 52
    one = {name: least(skewed, name, 1) for name in robustness.AGGREGATORS}
    assert max(one, key=one.get) == "limited" and round(best[skewed] - one["limited"]) == 4
    krum = worst(skewed, "krum", "none", 1), worst(skewed, "krum", "inner", 1)
    assert [round(value) for value in (*krum, worst(iid, "krum", "inner", 3))] == [64, 22, 83]


def test_the_tables_of_all_methods_are_those_of_the_recorded_results():
    from launch.report import report
    from launch.running import targets as rounds

    results = ROOT / "launch" / "results"
    summary = json.loads((results / "digits-all-cpu.json").read_text())
    lines = (results / "digits-all-cpu-rounds.jsonl").read_text().splitlines()
    shown = lambda name: README.split(f"<!-- {name} -->\n")[1].split(f"<!-- /{name} -->")[0]
    assert shown("digits-all") == report.markdown(summary)
    assert shown("stopping") == report.stopping(summary)
    assert shown("rounds") == rounds.markdown([json.loads(line) for line in lines])


TABLES = {"fashion-iid": 3, "fashion-dirichlet": 3, "digits-deepest": 5, "digits-bf16": 5}


@pytest.mark.parametrize("name", TABLES)
def test_tables_are_those_of_the_recorded_summaries(name):
    from launch.report import report

    summary = json.loads((ROOT / "launch" / "results" / f"{name}-cpu.json").read_text())
    shown = README.split(f"<!-- {name} -->\n")[1].split(f"<!-- /{name} -->")[0]
    assert shown == report.markdown(summary)
    assert summary["seeds"] == list(range(TABLES[name]))
    assert None not in summary["methods"].values()


def test_the_tables_of_the_audit_are_those_of_the_recorded_report():
    from launch.report import page

    report = json.loads((ROOT / "launch" / "results" / "audit-digits-cpu.json").read_text())
    shown = README.split("<!-- audit -->\n")[1].split("<!-- /audit -->")[0]
    assert shown == page.text({**report, "notes": []}).strip() + "\n"


def test_the_table_of_the_theorems_is_that_of_the_recorded_lines():
    from launch.studies import theory

    lines = (ROOT / "launch" / "results" / "theory-cpu.jsonl").read_text().splitlines()
    shown = README.split("<!-- theory -->\n")[1].split("<!-- /theory -->")[0]
    assert shown == theory.markdown([json.loads(line) for line in lines]).split("\n\n")[1]


def test_the_rates_of_the_audit_are_the_recorded_ones():
    from launch.studies import rates

    lines = json.loads((ROOT / "launch" / "results" / "audit-rates.json").read_text())
    shown = README.split("<!-- audit-rates -->\n")[1].split("<!-- /audit-rates -->")[0]
    assert shown == rates.markdown(lines)
