"""The audit's README: its example runs and finds what was planted, and no measure is missing."""

import re

from helpers.scripts import ROOT
from jfu.audit.measures import TABLE
from jfu.audit.rules import QUESTIONS, TITLES

README = (ROOT / "jfu" / "audit" / "README.md").read_text()


def test_the_example_audits_two_models(capsys):
    """Without a work directory: memory of planted labels is detected."""
    (block,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    scope: dict = {}
    exec(block, scope)
    assert capsys.readouterr().out.split() == ["no", "inconclusive"]
    promised = re.findall(r"^print\(.*#(.*)$", block, re.MULTILINE)
    assert [words.strip() for words in promised] == ["no", "inconclusive"]
    verdicts, measures = scope["verdicts"], scope["estimates"].measures
    assert "accuracy on forgotten data" in verdicts["unchanged"]["forgotten"][1]
    assert verdicts["original"]["forgotten"][0] == "no"
    # The planted labels: what trained on them knows them, others cannot.
    assert measures["unchanged"]["forget"]["value"] > 95
    assert 40 < measures["anew"]["forget"]["value"] < 75
    assert abs(measures["retrain"]["auc_matched"]["value"] - 0.5) < 0.1
    # Costs are not known of models that came from nowhere.
    assert verdicts["unchanged"]["cheaper_than_retraining"][0] == "not shown"


def test_every_measure_and_question_is_named():
    assert set(TABLE) <= set(re.findall(r"`([\w.]+)`", README))
    assert all(TITLES[question] in README for question in QUESTIONS)
    assert README.count("\n") <= 150
