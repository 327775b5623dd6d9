"""Roles of the configuration's fields: the lists that formats and refusals rest on, by hand."""

import dataclasses
import json
from pathlib import Path

import pytest

from launch.setup import idle
from launch.shell import door, joining
from launch.shell.config import FIELDS, ROLES, Config, flag_of, having
from launch.studies import pays

NAMES = json.loads((Path(__file__).parent / "flag_names.json").read_text())
REQUEST = ["forget", "layers", "weights_only", "follow_means", "recovery_rounds", "recovery_lr"]
CANARY = ["canary", "canary_rows", "canary_forget"]
REQUEST += ["recovery_warmup_rounds", "recovery_lr_schedule", "options"]


@pytest.mark.parametrize(
    ("role", "names"),
    dict(
        place=["dataset", "data_dir", "partition", "model"],
        poison=["backdoor_clients", "backdoor_fraction", "backdoor_label", "backdoor_size"],
        request=REQUEST,
        renewed=["max_grad_norm", "eval_every", "attack_every", "proxy", "dp_noise_from_seed"],
        continued=["rounds", "dp_noise_from_seed"],
        # Noise of private runs is drawn from a digest of all others: it would be other noise.
        keyless=["data_dir", "init_params", "rounds_before", "eval_every", "attack_every", "proxy"]
        + ["dp_noise_from_seed"],
        derived=["backdoor_forget", "canary_forget", "past", "rounds_before"],
        not_in_pays=["init_params", "recovery_rounds", "recovery_lr", "eval_every", "attack_every"]
        + ["options", "proxy", "federation", "penalty", "features", "task", "standardise"]
        + [*CANARY[:2], "absent_each"],
        later=["precision", "max_grad_norm", "recovery_warmup_rounds"]
        + ["lr_schedule", "recovery_lr_schedule", "federation", "penalty", "features"]
        + ["task", "standardise", "absent_each", *CANARY],
        quiet=["lr_schedule", "recovery_lr_schedule", "federation", "penalty", "features"]
        + ["task", "standardise", "absent_each", *CANARY],
    ).items(),
)
def test_the_fields_of_a_role(role, names):
    assert sorted(having(role)) == sorted(names)


def test_every_role_has_a_meaning_and_a_field():
    assert all(having(role) for role in ROLES)
    with pytest.raises(KeyError):
        having("plcae")


def test_every_field_that_no_flag_makes_is_derived():
    names = {flag_of(name) for name in FIELDS}
    assert names - set(NAMES["shared"]) == set(having("derived"))


def test_later_fields_have_defaults():
    for name in having("later"):
        assert FIELDS[name].default is not dataclasses.MISSING
    assert [*FIELDS] == [field.name for field in dataclasses.fields(Config)]


def test_lists_of_flags_name_flags():
    """A name that no script has would be looked for in vain, and nobody would notice."""
    known = {name for names in NAMES.values() for name in names}
    listed = [
        *idle.NEEDS,
        *idle.STEPS,
        *idle.USES,
        *door.PATHS,
        *door.WORDS,
        *door.NEEDS,
        *door.NEEDS.values(),
        *door.MAY_BE_EMPTY,
    ]
    assert {*listed, *joining.OWN, *pays.NO_PART} <= known
