"""The flags of every script: their names, and how --help shows them."""

import inspect
import json
import re
import subprocess
import sys

import pytest
from absl import flags

from helpers.scripts import ROOT
from launch.shell import flags as shared
from launch.shell import help

# Each script's flags besides the shared ones; "shared" are those of all that train.
NAMES = json.loads((ROOT / "tests" / "launch" / "shell" / "flag_names.json").read_text())
TRAINING = ("train", "unlearn", "compare", "rounds", "tune", "pays")
DEFINED = """
import importlib, json, sys
from absl import flags
from absl.testing import flagsaver
FLAGS, found = flags.FLAGS, {}
for name in sys.argv[1:]:
    with flagsaver.flagsaver():  # which takes away what is defined inside
        before = set(FLAGS)
        importlib.import_module(f"launch.{name}").define()
        made = {f for f in FLAGS if not FLAGS.find_module_defining_flag(f).startswith("absl.")}
        found[name] = sorted(made - before)
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def defined() -> dict[str, list[str]]:
    scripts = sorted(path.stem for path in (ROOT / "launch").glob("[a-z]*.py"))
    command = [sys.executable, "-c", DEFINED, *scripts]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_every_script_has_the_flags_that_it_had(defined):
    """A flag that goes, or gets another name, breaks commands and presets that users have."""
    expected = {
        script: sorted(names + NAMES["shared"] * (script in TRAINING))
        for script, names in NAMES.items()
        if script != "shared"
    }
    assert defined == expected


def help_of(script: str) -> str:
    command = [sys.executable, "-m", f"launch.{script}", "--help"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True).stdout


@pytest.mark.parametrize("script", ["unlearn", "rounds"])
def test_help_shows_every_flag_once_under_a_heading_in_the_order_of_the_source(script, defined):
    shown = help_of(script)
    names = re.findall(r"^  --(?:\[no\])?(\w+)(?:=\S+)?$", shown, re.MULTILINE)
    assert sorted(names) == defined[script]
    headings = [group.__doc__.split("\n")[0].rstrip(".") for group in shared.GROUPS]
    places = [shown.index(f"\n\n\n{heading}\n") for heading in headings]
    assert places == sorted(places)
    source = "\n".join(inspect.getsource(group) for group in shared.GROUPS)
    written = re.findall(r'DEFINE_\w+\(\s*"(\w+)"', source)
    assert names[-len(NAMES["shared"]) :] == written


def test_help_of_a_flag_that_a_script_gave_another_default():
    known = flags.FlagValues()
    flags.DEFINE_list("methods", ["not"], "Which.", known)
    known.set_default("methods", ["all"])
    assert help.one(known["methods"]) == (
        "  --methods\n      Which. (default: all; a comma separated list)"
    )


def test_a_script_without_debug_says_one_sentence():
    """The error is shown, whether or not a script has the flag that shows tracebacks."""
    code = "from launch.shell import entry\ndef main():\n    raise ValueError('mend this')\n"
    command = [sys.executable, "-c", f"{code}entry.run(main)"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", "error: mend this\n")
