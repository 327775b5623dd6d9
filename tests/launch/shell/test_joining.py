"""Which flags may differ between hosts."""

import json
import re

import pytest
from absl import flags

from helpers.scripts import ROOT
from launch.shell import door, joining

NAMES = json.loads((ROOT / "tests" / "launch" / "shell" / "flag_names.json").read_text())
SCRIPTS = ("train", "compare", "rounds", "unlearn")  # those that run on several hosts
# Places that all hosts must name alike: the model's is part of the configuration, and the key's
# decides whether the ledger is signed.
ALIKE = {"init_params", "features", "key_file"}


def test_scripts_of_several_hosts_are_these():
    documented = (ROOT / "launch" / "README.md").read_text()
    (sentence,) = re.findall(r"[^\n]* run on several hosts through", documented)
    assert set(re.findall(r"launch\.(\w+)", sentence)) == set(SCRIPTS)


def test_what_is_a_hosts_own_are_places_and_what_says_how_hosts_meet():
    known = set(NAMES["shared"]).union(*(NAMES[script] for script in SCRIPTS))
    places = known & set(door.PATHS)
    meeting = {"coordinator", "coordinator_bind", "host_id", "host_timeout"}
    assert places > ALIKE
    assert set(joining.OWN) == places - ALIKE | meeting | {"debug"}
    assert len(set(joining.OWN)) == len(joining.OWN)


def given(**values):
    known = flags.FlagValues()
    for name in joining.OWN:
        flags.DEFINE_string(name, None, "", flag_values=known, module_name="launch.shell.flags")
    for name in ("hosts", "rounds"):
        flags.DEFINE_integer(name, 1, "", flag_values=known, module_name="launch.shell.flags")
    flags.DEFINE_list("methods", ["not"], "", flag_values=known, module_name="launch.compare")
    flags.DEFINE_integer("verbosity", 0, "", flag_values=known, module_name="absl.logging")
    known(["script", *(f"--{name}={value}" for name, value in values.items())])
    return joining.flags_of(known)


@pytest.mark.parametrize("name", joining.OWN)
def test_a_hosts_own_flags_are_not_compared(name):
    assert given(**{name: "mine"}) == given(**{name: "yours"}) == given()


@pytest.mark.parametrize(
    ("name", "values"), [("hosts", (2, 3)), ("rounds", (2, 3)), ("methods", ("not", "ga"))]
)
def test_all_other_flags_are_compared(name, values):
    one, other = (given(**{name: value}) for value in values)
    assert one != other and one.keys() == other.keys() == {"hosts", "rounds", "methods"}


def test_flags_of_absl_are_not_compared():
    assert given(verbosity=1) == given()
