"""What a user installs: one version, types for checkers, and a changelog of this version."""

import importlib.metadata
import importlib.resources
import re
import tomllib

import jfu
from helpers.scripts import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_the_version_is_written_once():
    assert PROJECT["tool"]["setuptools"]["dynamic"] == {"version": {"attr": "jfu.__version__"}}
    assert "version" not in PROJECT["project"] and PROJECT["project"]["dynamic"] == ["version"]
    assert importlib.metadata.version("jfu") == jfu.__version__


def test_the_changelog_names_this_version():
    headings = re.findall(
        r"^## \[(.*?)\]", (ROOT / "jfu" / "CHANGELOG.md").read_text(), re.MULTILINE
    )
    assert headings[:2] == ["Unreleased", jfu.__version__]


def test_checkers_and_readers_find_their_files():
    for name in ("py.typed", "CHANGELOG.md", "README.md", "unlearn/README.md"):
        assert (importlib.resources.files("jfu") / name).is_file(), name


def test_tools_of_ci_are_pinned():
    assert all("==" in tool for tool in PROJECT["project"]["optional-dependencies"]["lint"])


def test_there_are_conformance_tests():
    files = (ROOT / "tests").rglob("test_*.py")
    marked = [
        path for path in files if re.search(r"^pytestmark = .*conformance", path.read_text(), re.M)
    ]
    assert len(marked) > 10
