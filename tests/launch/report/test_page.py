"""The page of an audit, also in a browser."""

import itertools
import re

import numpy as np
import pytest

from helpers.browser import chromium, look
from helpers.comparisons import entry
from jfu.audit import rules
from jfu.audit.measures import LAYERS, TABLE
from launch.report import page, terminal


@pytest.fixture(scope="module")
def planted():
    """A report with every measure, made of numbers drawn at random."""
    draw = np.random.default_rng(2)
    keys = [k for k in TABLE if k not in (*LAYERS, "tpr_01")]
    keys += [f"{k}.{layer}" for k in LAYERS for layer in ("stem", "encoder/block_0/mlp")]
    names = [*page.REFERENCES, "finetune", "none", "not", "federaser", "a_method_of_long_name"]

    verdicts_of_all = ("yes", "no", "inconclusive", "not shown")

    def measure():
        low, value, high = sorted(draw.uniform(0, 100, 3))
        return entry(value, low, high, draw.choice([None, 5.0]))

    methods = {
        name: dict(
            measures={k: measure() for k in keys if (name, k) != ("not", "relearn")},
            not_shown=dict(relearn="a reason of its own") if name == "not" else {},
            verdicts=dict(zip(rules.RULES, itertools.cycle(verdicts_of_all))),
            reasons=dict.fromkeys(rules.RULES, "Inside the floor: accuracy <on> data."),
        )
        for name in names
    }
    curve = {name: [[r, float(draw.uniform(0, 100))] for r in range(9)] for name in names}
    return dict(
        audited="2025-01-01",
        asked=dict(
            request="client:0",
            examples=144,
            retained=1293,
            clients=10,
            dataset="digits",
            model="small",
            backdoor=True,
            backdoor_named=True,
        ),
        done=dict(
            rounds=80,
            recovery_rounds=40,
            retrained=["retrain", "retrain_again", "retrain_third"],
        ),
        controls=dict(old=["no", "It can be detected."], third=["inconclusive", rules.WIDE]),
        clients={name: {str(c): 90.0 - c / 3 for c in range(1, 30)} for name in names},
        seeds=[0, 1, 2, 3, 4],
        by_seeds={"5": dict(ga="inconclusive"), "6": dict(ga="yes")},
        notes=["A note."],
        questions=rules.RULES,
        methods=methods,
        not_shown=dict(tpr_01="144 examples are too few"),
        curves=dict.fromkeys(("retain", "forget", "asr"), curve)
        | dict(loss_gap={k: v for k, v in curve.items() if k != "finetune"}),
        reproduce=dict(
            command="python -m launch.compare " + "--methods=" + "x" * 300,
            audit="python -m launch.audit",
            layout={},
            versions=dict(run=dict(jax="1"), audit=dict(jax="2")),
            python="3.11.0",
            hashes={f"cells/{name}.safetensors": "0f" * 32 for name in names},
        ),
    )


@pytest.mark.slow
@pytest.mark.parametrize("width", [1280, 390])
def test_the_page_in_a_browser(planted, tmp_path, width):
    if chromium() is None:
        pytest.skip("there is no Chromium here")
    path = tmp_path / "audit.html"
    path.write_text(page.html(planted))
    seen = look(path, width)
    assert not seen.errors and not seen.requests and not seen.sideways
    assert seen.scroll_width == seen.client_width == width
    assert not seen.without_alternative and seen.plots > 200
    assert seen.title == "Audit: forget client:0"


def test_the_page_says_what_was_not_shown_and_never_passed(planted):
    found = planted
    text = page.html(found)
    assert "passed" not in text.replace("passed off", "")
    assert text.count("not shown") >= len(found["not_shown"])
    named = re.sub(r"<metadata>.*?</metadata>|<svg [^>]*>", "", text, flags=re.S)
    assert "http" not in named  # but for the names of XML's own spaces
    for digest in found["reproduce"]["hashes"].values():
        assert digest in text
    # Of a measure or a curve that is there for others too.
    assert "not shown (a reason of its own)" in text and "Not shown: finetune." in text
    assert "test accuracy, %: not shown" in text
    for words in (
        "80 rounds of training",
        "with at most 40 rounds of recovery",
        "three times a seed",
    ):
        assert words in text
    for words in ("run: jax 1", "audit: jax 2", "Python 3.11.0", "interval over seeds"):
        assert words in text
    assert "retrained models end at" in text and "floor at the last round" in text
    assert "must be a no" in text and "must be yes or too small to tell" in text
    foreign = {**found, "notes": ["<script>alert(1)</script>"]}
    assert "<script>" not in page.html(foreign)


def test_the_page_says_whether_the_request_named_the_backdoor(planted):
    asked = planted["asked"]
    sentence = "The data to forget had a backdoor"
    assert sentence in page.html(planted)
    other = page.html({**planted, "asked": {**asked, "backdoor_named": False}})
    assert sentence not in other and "does not name every image with the trigger" in other


def test_the_page_and_the_terminal_say_what_fewer_seeds_would_have_given(planted):
    assert 'aria-label="inconclusive">?</span></td><td>' in page.html(planted)
    assert terminal.by_number(planted).splitlines()[-1].split() == [
        "|",
        "ga",
        "|",
        "inconclusive",
        "|",
        "yes",
        "|",
    ]
    once = planted | dict(by_seeds={"5": dict(ga="yes")})
    assert terminal.by_number(once) == "" and page.fewer(once) == []
    assert page.fewer({}) == []  # a report of an earlier version
