"""The library's own documents: their code runs, their table of methods is the table of METHODS."""

import re
from pathlib import PurePosixPath

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jfu
from helpers.scripts import ROOT

TEXTS = {name: (ROOT / "jfu" / name).read_text() for name in ("README.md", "unlearn/README.md")}


def run(text: str) -> dict:
    """What the names of a document's Python blocks are after all of them ran, one after another."""
    scope: dict = {}
    for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        exec(block, scope)
    return scope


def test_the_library_s_examples_run(capsys):
    scope = run(TEXTS["README.md"])
    assert int(scope["answer"].round) == 10 and int(scope["state"].round) == 1
    accuracy = float(np.mean(np.asarray(scope["correct"])))
    assert accuracy > 0.7 and len(capsys.readouterr().out.splitlines()) == 6
    plain = scope["plain"]
    state, _ = plain.round(plain.init({"params": scope["params"]}), scope["clients"], scope["key"])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), state, scope["state"])


def test_the_method_of_the_example_is_one():
    scope = run(TEXTS["unlearn/README.md"])
    fed = jfu.fedavg(lambda shared, client, key: None)
    method = scope["name"](fed)
    state = method.perturb(jfu.Trained({"params": {"w": jnp.ones(2)}}), None, jax.random.key(0))
    assert isinstance(method, jfu.Unlearner) and state.params["w"].tolist() == [1, 1]


def test_methods_and_needs_are_those_of_the_table():
    rows = re.findall(r"^\| `(\w+)` \| .* \| ?(.*?) ?\|$", TEXTS["unlearn/README.md"], re.MULTILINE)
    shown = {name: needs for name, needs in rows if name in jfu.unlearn.UNLEARNERS}
    assert shown == {method.name: in_words(method.needs) for method in jfu.unlearn.METHODS}


def in_words(needs: jfu.Needs) -> str:
    history = [f"history: {', '.join(needs.history)}"] if needs.history else []
    return "; ".join(history + [n for n in needs._fields if n != "history" and getattr(needs, n)])


def test_every_module_has_its_place_in_the_index():
    index = TEXTS["README.md"].partition("## Modules")[2]
    named = set(re.findall(r"`([\w/]+)`", index))
    here = (p.relative_to(ROOT / "jfu").as_posix() for p in (ROOT / "jfu").iterdir())
    wanted = {PurePosixPath(name).stem for name in here if name.endswith(".py") and name[0] != "_"}
    wanted |= {f"{path.parent.name}/" for path in (ROOT / "jfu").glob("*/__init__.py")}
    assert wanted == named - {"import"}


@pytest.mark.parametrize("name, most", [("README.md", 180), ("unlearn/README.md", 150)])
def test_a_document_stays_short(name, most):
    assert len(TEXTS[name].splitlines()) <= most
