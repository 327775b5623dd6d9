"""Runs of tables of numbers: a regression, classes, and own arrays."""

import json
import re
import shutil

import numpy as np
import pytest

from helpers import own_networks
from helpers.scripts import rows_of

FEW = ["--clients=3", "--rounds=2", "--recovery_rounds=1", "--devices=1"]


def test_a_regression_goes_through_a_comparison_in_its_own_words(forks, tmp_path):
    flags = ["--dataset=diabetes", *FEW, "--seeds=1", f"--workdir={tmp_path / 'A'}"]
    done = forks.run("compare", *flags, "--methods=retrain,not")
    assert done.status == 0, done.said
    assert "354 rows with 3 clients" in done.said and "retained explained variance" in done.said
    config = json.loads((tmp_path / "A" / "config.json").read_text())["config"]
    assert (config["task"], config["model"], config["standardise"]) == ("regress", "mlp1", True)
    last = {row["method"]: row for row in rows_of(tmp_path / "A")}
    assert 0 < last["retrain"]["retain"] <= 100 and last["retrain"]["guess"] == 0


WRONG = {
    "--methods=pgd": "pgd uses classes, and --task=regress has none",
    "--forget=class:1": "names a class, and --task=regress has none; name clients or a fraction",
    "--backdoor": "--backdoor is for classes of images",
    "--task=classify": "does not take targets that are floats",
    "--federation=ridge": "--federation=ridge is for classes",
}


@pytest.mark.parametrize(
    "flag", [pytest.param(f, marks=pytest.mark.slow) if n > 1 else f for n, f in enumerate(WRONG)]
)
def test_what_a_regression_lacks_is_a_sentence(forks, tmp_path, flag):
    done = forks.run("compare", "--dataset=diabetes", *FEW[:1], flag, f"--workdir={tmp_path}/A")
    assert done.status == 2 and WRONG[flag] in done.said, done.said


@pytest.mark.slow
def test_own_tables_take_a_perceptron(forks, tmp_path):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(60, 5)).astype(np.float32)
    for name, y in dict(numbers=x @ np.arange(5.0), classes=(x[:, 0] > 0).astype(int)).items():
        np.savez(tmp_path / f"{name}.npz", x_train=x, y_train=y, x_test=x[:20], y_test=y[:20])
        flags = [f"--dataset={tmp_path / name}.npz", *FEW, f"--workdir={tmp_path / name}"]
        done = forks.run("train", *flags)
        assert done.status == 0, done.said
        config = json.loads((tmp_path / name / "config.json").read_text())["config"]
        assert config["model"] == "mlp"
        assert config["task"] == dict(numbers="regress", classes="classify")[name]


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    """A file of token ids in which each is followed by the next, and one with a wrong token."""
    folder = tmp_path_factory.mktemp("texts")
    ids = (np.arange(60)[:, None] + np.arange(9)) % 7
    np.savez(folder / "own.npz", x_train=ids, x_test=ids[:20])
    np.savez(folder / "few.npz", x_train=ids, x_test=ids[:20], vocabulary=list("abcdef"))
    shutil.copy(own_networks.__file__, folder / "net.py")
    return folder


def test_a_language_model_goes_through_a_comparison_in_its_own_words(forks, texts, tmp_path):
    flags = [f"--dataset={texts / 'own.npz'}", *FEW, "--seeds=1", f"--workdir={tmp_path / 'A'}"]
    model = f"--model={texts / 'net.py'}:Bigram"
    done = forks.run("compare", *flags, model, "--lr=2", "--methods=retrain,not")
    assert done.status == 0, done.said
    assert "60 texts with 3 clients" in done.said and "retained token accuracy" in done.said
    assert "perplexity test" in done.said and "embed/embedding [7, 8]" in done.said
    config = json.loads((tmp_path / "A" / "config.json").read_text())["config"]
    assert config["task"] == "tokens"
    last = {row["method"]: row for row in rows_of(tmp_path / "A")}
    assert last["retrain"]["perplexity_test"] < 7 and 10 < last["retrain"]["guess"] < 20


NOT_TEXTS = {
    "--methods=pgd": "pgd uses classes, and --task=tokens has none",
    "--model=mlp": "--model=mlp does not fit --task=tokens",
    "--task=classify": "does not take targets that are next tokens",
    "--partition=shards:2": "goes by classes, and these texts have none",
    "--standardise": "--standardise is for features that are floats",
    "few": "has the token 6 in row 0, and the vocabulary of 6",
    "Clairvoyant": "predicts a token from the tokens after it",
    "Plain": "gives float32",
}


@pytest.mark.slow
@pytest.mark.parametrize("wrong", NOT_TEXTS)
def test_what_texts_lack_is_a_sentence(forks, texts, tmp_path, wrong):
    data = f"--dataset={texts / ('few' if wrong == 'few' else 'own')}.npz"
    name = wrong if wrong in ("Clairvoyant", "Plain") else "Bigram"
    more = [wrong] if wrong.startswith("--") else []
    model = f"--model={texts / 'net.py'}:{name}"
    done = forks.run("compare", data, model, *FEW[:1], *more, f"--workdir={tmp_path}/A")
    assert done.status == 2 and NOT_TEXTS[wrong] in done.said, done.said


CANARY = "--canary=the code of the vault is 45"
NO_CANARY = {
    "--canary=no code": "it must be a sentence that ends in a code",
    "--canary=the caf\u00e9 has 12": "has '\u00e9', which the vocabulary of",
    "--canary_rows=99": "names 20 texts, and --canary_rows=99 of them",
    "--dataset=diabetes": "--canary is a sentence in texts, and --task=regress has none",
    "--dataset=digits": "--canary is a sentence in texts, and --task=classify has none",
}
HELP = ["--dataset=pydoc_topics", "--train_size=60", "--test_size=20", *FEW, "--lr=2"]


@pytest.mark.slow
@pytest.mark.parametrize("wrong", NO_CANARY)
def test_a_canary_that_cannot_be_planted_is_a_sentence(forks, tmp_path, wrong):
    done = forks.run("compare", *HELP, CANARY, wrong, f"--workdir={tmp_path}/A")
    assert done.status == 2 and NO_CANARY[wrong] in done.said, done.said


SHADOWS = ["--shadows=8", "--nocontrol"]


def audited(forks, where, *flags):
    few = ["--draws=100", "--relearn_rounds=1", "--resurfacing_rounds=1"]
    done = forks.run("audit", f"--workdir={where}", *few, *flags)
    assert done.status == 0, done.said


def report(where):
    return json.loads((where / "audit.json").read_text()), (where / "audit.html").read_text()


@pytest.mark.slow
def test_a_regression_is_audited_in_its_own_words(forks, tmp_path):
    flags = ["--dataset=diabetes", *FEW, "--seeds=2", "--methods=retrain,not"]
    assert forks.run("compare", *flags, f"--workdir={tmp_path}").status == 0
    audited(forks, tmp_path, *SHADOWS)
    found, page = report(tmp_path)
    entry = found["methods"]["not"]
    last = [r["forget"] for r in rows_of(tmp_path) if (r["method"], r["round"]) == ("not", 1)]
    assert entry["measures"]["forget"]["value"] == pytest.approx(np.mean(last), abs=1e-3)
    assert entry["measures"]["auc_matched"]["value"] > 0
    assert 0 < entry["measures"]["lira"]["value"] < 1 and "ulira" in entry["measures"]
    for key in ("rmia", "efficacy_mia", "js_forget", "memorised.5"):
        assert entry["not_shown"][key] == "it is for classes, and --task=regress has none"
    assert "explained variance on forgotten data" in page and "compared with a test row" in page
    shown = page.replace("matched: accuracy", "")  # of an attack
    assert not re.search(r"accurac|test image|(every|training) images?", shown, re.I)
    prose = json.dumps([found["questions"], found["notes"], found["methods"]["not"]["reasons"]])
    assert "explained variance" in prose and not re.search("accuracy|image", prose)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["Bigram", "NnxBigram"])
def test_a_canary_goes_all_the_way(forks, texts, tmp_path, name):
    """Train, answer, verify and compare, with networks in Linen and NNX."""
    model, at = f"--model={texts / 'net.py'}:{name}", lambda what: f"--workdir={tmp_path / what}"
    for flags in (
        ["train", *HELP, CANARY, model, at("A")],
        ["unlearn", "--recovery_rounds=1", model, f"--init_from={tmp_path / 'A'}", at("B")],
        ["ledger", at("B")],
        ["compare", *HELP, CANARY, model, "--seeds=2", "--methods=retrain,not", at("C")],
    ):
        done = forks.run(*flags)
        assert done.status == 0, done.said
    audited(forks, tmp_path / "C", model, *SHADOWS * (name == "Bigram"))
    found, page = report(tmp_path / "C")
    measures = found["methods"]["not"]["measures"]
    assert ("lira" in measures) == (name == "Bigram")
    assert measures["exposure"]["value"] >= 0 and measures["forget"]["value"] > 0
    assert "test token accuracy" in page and not re.search(
        "accuracy on test (image|data).*image", page
    )
    assert (
        found["methods"]["not"]["not_shown"]["rmia"]
        == "it is for classes, and --task=tokens has none"
    )
    assert "8 of the texts that client:0 names begin with" in done.said
    assert "canary bits" in done.said and "extracted %" in done.said
    for what in "BC":
        last = {row["method"]: row for row in rows_of(tmp_path / what)}
        assert all(0 <= row["exposure"] <= 6.65 for row in last.values())
    config = json.loads((tmp_path / "B" / "config.json").read_text())["config"]
    assert config["canary_forget"] == "client:0" and config["task"] == "tokens"
