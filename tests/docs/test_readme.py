"""The documents' code runs, their tables are those of the recorded results, their links lead on."""

import json
import re

import numpy as np
import pytest

from helpers.scripts import ROOT
from launch.studies import documents

RESULTS = ROOT / "launch" / "results"
README = (ROOT / "README.md").read_text()
TEXTS = {path.relative_to(ROOT).as_posix(): path.read_text() for path in documents.documents(ROOT)}
TEXT = "\n".join(TEXTS.values())


def lines_of(name):
    return [json.loads(line) for line in (RESULTS / name).read_text().splitlines()]


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


# ---------------------------------------------------------------- tables


@pytest.mark.parametrize("path", [path for path, text in TEXTS.items() if documents.blocks(text)])
def test_tables_are_those_of_the_recorded_results(path):
    """``python -m launch.studies.documents --write`` makes them so."""
    assert documents.rewritten(TEXTS[path], RESULTS) == TEXTS[path]


def test_every_table_stands_in_a_document():
    shown = [name for text in TEXTS.values() for name in documents.blocks(text)]
    assert {name: shown.count(name) for name in documents.BLOCKS} == dict.fromkeys(
        documents.BLOCKS, 1
    )


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("<!-- rows -->\n| a |\n", "<!-- rows --> one has no partner"),
        ("<!-- rows -->\n| a |\n<!-- /row -->\n", "<!-- rows -->, <!-- /row --> one has no"),
        ("<!-- none -->\n| a |\n<!-- /none -->\n", "there is no table none; the tables are front"),
    ],
)
def test_a_planted_block_is_found(text, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        documents.rewritten(text, RESULTS)


def test_a_changed_figure_is_found_and_written_anew(tmp_path, monkeypatch, capsys):
    (tmp_path / "launch").mkdir()
    (tmp_path / "launch" / "results").symlink_to(RESULTS)
    text = "\n<!-- aims -->\n" + documents.aims(RESULTS) + "<!-- /aims -->\nend\n"
    (tmp_path / "README.md").write_text(text.replace("20.6", "20.7"))
    monkeypatch.setattr(documents, "ROOT", tmp_path)
    assert documents.main([]) == 1 and "20.7" in (tmp_path / "README.md").read_text()
    assert documents.main(["--write"]) == 0 and (tmp_path / "README.md").read_text() == text
    assert documents.main([]) == 0
    assert capsys.readouterr().out == "README.md: aims\n" * 2
    assert documents.main(["--wrong"]) == 2


SEEDS = {"fashion-iid": 3, "fashion-dirichlet": 3, "digits-deepest": 5, "digits-bf16": 5}


@pytest.mark.parametrize("name", SEEDS)
def test_recorded_summaries_are_whole(name):
    summary = json.loads((RESULTS / f"{name}-cpu.json").read_text())
    assert summary["seeds"] == list(range(SEEDS[name]))
    assert None not in summary["methods"].values()


def test_every_recorded_file_is_linked_to():
    """From its own folder or any other."""
    files = {path.name for path in RESULTS.iterdir() if path.suffix in (".json", ".jsonl", ".png")}
    linked = {target.rpartition("/")[2] for target in re.findall(r"\]\(([^)#\s]+)", TEXT)}
    assert files <= linked, files - linked


def test_the_index_has_every_recorded_file():
    index = TEXTS["launch/results/README.md"].split("## Index\n")[1].split("\n## ")[0]
    files = {path.name for path in RESULTS.iterdir() if path.suffix in (".json", ".jsonl")}
    assert {name for name in files if f"[`{name}`]({name})" not in index} == set()


# ---------------------------------------------------------------- commands


NAMES = json.loads((ROOT / "tests" / "launch" / "shell" / "flag_names.json").read_text())


TRAINING = ("train", "unlearn", "compare", "rounds", "tune", "pays")  # these have the shared ones


def known(script):
    """The names of a script's flags, and absl's own that commands use."""
    return {*NAMES[script], "flagfile", "help", *(NAMES["shared"] if script in TRAINING else ())}


def unknown(text):
    """Scripts and flags of the commands in a text that there are not."""
    bad = []
    text = re.sub(r" *\\\n[ #]*", " ", text)
    for name, said in re.findall(r"python -m launch\.(\w+)((?: +[-$\"']\S+)*)", text):
        if name not in NAMES:
            bad += [name] * (not (ROOT / "launch" / name).is_dir())
            continue
        for flag in re.findall(r"(?<!\S)--(\w+)", said):
            bad += [f"{name} --{flag}"] * ({flag, flag.removeprefix("no")}.isdisjoint(known(name)))
    return bad


def test_no_command_names_a_script_or_a_flag_that_is_not_there():
    presets = {p.name: p.read_text() for p in (ROOT / "launch" / "presets").glob("*.flags")}
    assert {path: bad for path, text in (TEXTS | presets).items() if (bad := unknown(text))} == {}
    planted = "python -m launch.trian; `python -m launch.train --round=1 --nobackdoor` launch.shell"
    assert unknown(planted) == ["trian", "train --round"]


@pytest.mark.parametrize("path", ["README.md", "launch/README.md"])
def test_every_method_is_named(path):
    from jfu.unlearn import UNLEARNERS

    part = TEXTS[path].split("## Methods\n")[1].split("\n## ")[0]
    assert [name for name in UNLEARNERS if f"`{name}`" not in part] == []


def test_every_script_is_named():
    part = TEXTS["launch/README.md"].split("## Scripts\n")[1].split("\n## ")[0]
    named = set(re.findall(r"^\|[^|]*\| `python -m launch\.(\w+)", part, re.MULTILINE))
    assert named == {path.stem for path in (ROOT / "launch").glob("[a-z]*.py")}


# ---------------------------------------------------------------- links


def slug(heading):
    """The anchor that GitHub gives a heading."""
    plain = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading)
    return re.sub(r"[^\w\- ]", "", plain.strip().lower()).replace(" ", "-")


def without_code(text):
    return re.sub(r"^ *```.*?^ *```|`[^`\n]*`", "", text, flags=re.DOTALL | re.MULTILINE)


def anchors(text):
    headings = re.findall(
        r"^#+ +(.*)$", re.sub(r"^```.*?^```", "", text, flags=re.S | re.M), re.MULTILINE
    )
    found = [slug(heading) for heading in headings]
    assert len(found) == len(set(found)), found
    return set(found)


def astray(root, path, text):
    """Links of a document at ``path`` below ``root`` that lead nowhere."""
    bad = []
    for target in re.findall(r"\]\(([^)\s]+)\)", without_code(text)):
        if re.match(r"https?://", target):
            continue
        name, _, anchor = target.partition("#")
        place = (root / path).parent / name if name else root / path
        inside = place.resolve().is_relative_to(root.resolve())
        there = anchors(place.read_text() if name else text) if anchor and place.exists() else ()
        if not (inside and place.exists()) or (anchor and anchor not in there):
            bad.append(target)
    return bad


@pytest.mark.parametrize("path", TEXTS)
def test_every_link_leads_somewhere(path):
    assert astray(ROOT, path, TEXTS[path]) == []


def test_a_planted_link_is_found():
    text = "# One\n[a](#one) [b](#two) [c](README.md#jfu) [d](no.md) [e](../x) [f](README.md#no)"
    assert astray(ROOT, "README.md", text) == ["#two", "no.md", "../x", "README.md#no"]
    assert slug("The rows, `as` they are: NoT's") == "the-rows-as-they-are-nots"


def test_the_documents_are_short():
    most = {"README.md": 150, "launch/README.md": 300, "launch/timing/README.md": 170}
    most |= {"BUILD.md": 200, "launch/results/README.md": 420, "jfu/README.md": 180}
    most |= {"jfu/unlearn/README.md": 150, "jfu/audit/README.md": 150, "tests/README.md": 50}
    assert {path: n for path in most if (n := TEXTS[path].count("\n")) > most[path]} == {}


# ---------------------------------------------------------------- what is said beside them


def test_what_clipping_does_is_what_was_measured():
    rows = lines_of("cnn-iid-clip-cpu.jsonl")
    of = lambda clip, warm: [
        r for r in rows if (r["max_grad_norm"], r["recovery_warmup_rounds"]) == (clip, warm)
    ]
    runs = [of(None, 0), of(1.0, 0), of(None, 3), of(1.0, 3)]
    retain, test = ([f"{run[-1][name]:.1f}" for run in runs] for name in ("retain", "test"))
    back = next(r["round"] for r in runs[2] if r["round"] and r["retain"] >= 99.5)
    (said,) = re.findall(r"- \*\*Clipping gradients.*?jsonl\)", TEXT, re.DOTALL)
    shown = r"ends at (\S+) % .*?at (\S+) %\..*?at (\S+) %, and is back after (\d+) .*?at (\S+) %\."
    ((plain, clipped, warm, rounds, both),) = re.findall(shown, said, re.DOTALL)
    assert [plain, clipped, warm, both] == retain and int(rounds) == back
    assert "at {}, {}, {} and {} %".format(*test) in " ".join(said.split())


def test_the_time_of_a_start_is_that_of_the_recorded_results():
    none, warm = (f"{row['seconds_median']:.1f}" for row in lines_of("startup-cpu.jsonl"))
    (shown,) = re.findall(r"takes (\S+) s from the command to its\s+end, and (\S+) s with", TEXT)
    assert shown == (none, warm)


def test_what_is_said_of_recovery_without_warming_up_was_recorded():
    from launch.report import recorded

    kept = recorded.read(RESULTS / "cnn-iid-nowarm-cpu.jsonl")
    ends = {name: kept["methods"][name]["retain"]["mean"] for name in ("not", "not_deepest")}
    (shown,) = re.findall(r"NoT is at (\S+) % after 40 rounds, `not_deepest` at (\S+) %", TEXT)
    assert shown == (f"{ends['not']:.1f}", f"{ends['not_deepest']:.1f}")


def test_what_is_said_of_attacks_was_measured():
    from launch.studies import robustness

    rows = lines_of("robustness-digits-cpu.jsonl")
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
