"""What a user installs: one version, types for checkers, and a changelog of this version."""

import importlib.metadata
import importlib.resources
import pathlib
import re
import subprocess
import sys
import tomllib

import pytest

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


def commands(text: str) -> list[str]:
    """The commands of a shell script, one a line."""
    return [line.strip() for line in text.splitlines()]


def hooks(text: str) -> list[dict[str, str]]:
    """The hooks of a configuration of pre-commit: what each is called with."""
    parts = re.split(r"^ +- id: ", text, flags=re.MULTILINE)[1:]
    lines = [["id: " + part.splitlines()[0], *part.splitlines()[1:]] for part in parts]
    pairs = [[line.strip().partition(": ") for line in some if ": " in line] for some in lines]
    return [{name: value for name, _, value in some} for some in pairs]


def test_hooks_are_the_first_checks_of_ci():
    """Whatever a hook calls is there without a network, and is what .ci/run calls."""
    text = (ROOT / ".pre-commit-config.yaml").read_text()
    assert re.findall(r"- repo: (.*)", text) == ["local"]  # nothing is downloaded
    known, ran = hooks(text), commands((ROOT / ".ci" / "run").read_text())
    assert {hook["id"] for hook in known} == {"ruff-check", "ruff-format", "types", "layers"}
    for hook in known:
        assert hook["language"] == "system", hook["id"]
        entry = hook["entry"].removesuffix(" --force-exclude")
        # Ruff is called with the files that changed, in CI with all of them.
        files = "" if hook.get("pass_filenames") == "false" else " ."
        assert entry + files in ran, hook["id"]
    lint = {tool.partition("==")[0] for tool in PROJECT["project"]["optional-dependencies"]["lint"]}
    called = {hook["entry"].split()[0] for hook in known}
    assert called == lint | {"pytest"}
    dev = PROJECT["project"]["optional-dependencies"]["dev"]
    assert "jfu[test,lint]" in dev and any(tool.startswith("pre-commit") for tool in dev)


@pytest.mark.parametrize("tool", ["ruff", "pyrefly", "pytest"])
def test_what_hooks_call_is_installed(tool):
    """Beside this Python; a test environment without linters is complete all the same."""
    name = pathlib.Path(sys.executable).with_name(tool)
    if not name.exists():
        pytest.skip(f"{tool} is not installed")
    done = subprocess.run([name, "--version"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and re.search(r"\d+\.\d+", done.stdout + done.stderr)
