"""Who may import whom: read off the syntax trees, wherever in a file an import stands."""

import pytest

from helpers.house import circles, imported, long_functions, modules
from helpers.scripts import ROOT

# What each package of launch may import of the others; every one of them may import jfu.
BELOW = dict(
    shell=(),
    setup=("shell",),
    workdir=("setup", "shell"),
    report=("setup", "shell"),
    records=("report", "workdir", "setup", "shell"),
    running=("records", "report", "workdir", "setup", "shell"),
    timing=("report", "shell"),
    live=("shell",),
    studies=("running", "timing", "records", "report", "workdir", "setup", "shell"),
)


def wrong(place: str, text: str) -> list[str]:
    """Imports that a file at ``place`` below the root may not have."""
    top, *inner = place.removesuffix(".py").split("/")
    package = inner[0] if len(inner) > 1 else ""
    bad = []
    for name in sorted(imported(text)):
        whole, _, rest = name.partition(".")
        if top == "jfu":
            bad += [name] * (whole == "launch")
        elif whole == "launch" and inner != ["__init__"]:
            other = rest.split(".")[0]
            known = other in BELOW
            allowed = known and (not package or other == package or other in BELOW[package])
            bad += [name] * (not allowed)
    return bad


def from_tests(text: str) -> list[str]:
    """Tests that a file of tests imports: what several need stands in tests/helpers."""
    local = {part.stem for part in (ROOT / "tests").rglob("*.py")} - {"__init__"}
    local -= {part.stem for part in (ROOT / "tests" / "helpers").glob("*.py")}
    parts = {name: set(name.split(".")) for name in imported(text)}
    return sorted(n for n, some in parts.items() if some & local or n.split(".")[0] == "tests")


def files(*tops: str) -> dict[str, str]:
    found = [p for top in tops or ("jfu", "launch") for p in sorted((ROOT / top).rglob("*.py"))]
    return {path.relative_to(ROOT).as_posix(): path.read_text() for path in found}


def test_imports_go_down():
    assert {p: bad for p, text in files().items() if (bad := wrong(p, text))} == {}


@pytest.mark.parametrize(
    "place, text",
    [
        ("jfu/loop.py", "def f():\n    from launch.shell import say"),
        ("launch/shell/say.py", "from launch.setup import study"),
        ("launch/setup/study.py", "import launch.running.cells"),
        ("launch/report/page.py", "def f():\n    from launch.records.records import read"),
        ("launch/running/cells.py", "from launch import train"),
        ("launch/rounds.py", "from launch import compare"),
        ("launch/rounds.py", "from launch.compare import define"),
    ],
)
def test_a_planted_import_is_found(place, text):
    assert wrong(place, text)


def test_no_test_imports_a_test():
    assert {p: bad for p, text in files("tests").items() if (bad := from_tests(text))} == {}


@pytest.mark.parametrize(
    "text",
    [
        "from test_layers import files",
        "from tests.house.test_layers import files",
        "def f():\n    import test_layers",
        "from conftest import CONFORMANCE",
        "from tests.helpers import scripts",
    ],
)
def test_a_planted_import_of_a_test_is_found(text):
    assert from_tests(text)


def test_nothing_imports_itself_by_way_of_others():
    assert circles(modules(files())) == []
    assert circles(dict(a={"b"}, b={"c"}, c={"a"}, d={"a"})) == ["a", "b", "c"]  # planted


def test_functions_are_short_enough_to_be_read_in_one_go():
    assert [line for place, text in files().items() for line in long_functions(place, text)] == []
    planted = "def f():\n    '''What it does,\n    and why.'''\n" + 90 * "    x = 1\n"
    assert long_functions("a.py", planted) == ["a.py: f has 91 lines"]
    assert long_functions("a.py", planted.removesuffix("    x = 1\n")) == []
