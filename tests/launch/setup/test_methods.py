"""Methods as a study runs them: a line of the table is enough wherever a method is treated."""

from types import SimpleNamespace

import jax
import numpy as np
import pytest
from absl import flags

import jfu
from helpers.workdirs import PLAIN, PRIVATE, changed
from jfu.types import Traits
from jfu.unlearn import UNLEARNERS, Method, Setting
from launch.running import answering, cells, comparison
from launch.setup import federation, methods, private
from launch.setup.methods import build_methods
from launch.shell.config import needs_proxy

# A method that no list knows, with the opposite of every usual trait or need where one is asked.
USUAL = Method("toy", lambda setting, **options: jfu.unlearn.finetune(setting.fed))


@pytest.fixture
def toy(monkeypatch):
    def put(**fields):
        monkeypatch.setitem(UNLEARNERS, "toy", USUAL._replace(**fields))

    put()
    return put


@pytest.mark.parametrize(
    ("flag", "changes", "used"),
    [
        ("layers", {}, dict(traits=Traits(selects=True))),
        ("weights_only", {}, dict(traits=Traits(selects=True))),
        ("weights_only", {}, dict(traits=Traits(negates=True))),
        ("follow_means", dict(norm="batch"), dict(traits=Traits(negates=True))),
        ("proxy", {}, dict(needs=jfu.Needs(proxy_data=True))),
        ("options", dict(options=("toy.a=1",)), dict(options=dict(a=2))),
    ],
)
def test_flags_do_something_for_a_method_that_says_so(toy, flag, changes, used, capsys):
    config = changed(PLAIN, **changes)
    if flag != "options":
        with pytest.raises(ValueError, match=f"--{flag} does nothing with toy"):
            federation.check(config, ["toy"], given=[flag], alone=True)
    toy(**used)
    federation.check(config, ["toy"], given=[flag], alone=True)
    assert capsys.readouterr().err == ""


def test_recovery_is_of_those_who_recover(toy, monkeypatch):
    federation.check(PLAIN, ["toy"], given=["recovery_rounds"], alone=True)
    toy(traits=Traits(recovers=False))
    with pytest.raises(ValueError, match="--recovery_rounds does nothing with toy: nothing recov"):
        federation.check(PLAIN, ["toy"], given=["recovery_rounds"], alone=True)
    known = flags.FlagValues()
    flags.DEFINE_string("method", "not", "", flag_values=known)
    flags.DEFINE_enum("stop", "regained", ["regained", "budget"], "", flag_values=known)
    known(["unlearn", "--method=toy", "--stop=regained"])
    monkeypatch.setattr(answering, "FLAGS", known)
    monkeypatch.setattr(answering, "said", dict)
    with pytest.raises(ValueError, match="--stop=regained does nothing with toy, which uses its"):
        answering.check(PLAIN)


def test_images_are_set_aside_for_those_who_need_them(toy):
    assert needs_proxy(["not", "fukd"]) and not needs_proxy(["toy", "no such method"])
    toy(needs=jfu.Needs(proxy_data=True))
    assert needs_proxy(["toy"])


def test_a_limit_would_hold_back_what_a_round_negates(toy):
    config = changed(PLAIN, max_update_norm=0.3)
    for traits in (Traits(), Traits(negates=True, perturbs=True)):
        toy(traits=traits)
        federation.check(config, ["toy"])
    toy(traits=Traits(negates=True))
    with pytest.raises(ValueError, match="toy negates layers in its own round, which --max"):
        federation.check(config, ["toy"])


def study_of(fed, model, **changes):
    setting = Setting(fed, model, jfu.by_layer(model, 0), within=4)
    return SimpleNamespace(config=changed(PLAIN, **changes), setting=setting, fresh=None)


def test_what_a_method_takes_for_granted_is_asked_of_the_flags(toy, fed, model, capsys):
    studies = [study_of(fed, model, server_lr=0.5), study_of(fed, model)]
    for study in studies:
        assert set(methods.build_methods(study, ["toy"])) == {"toy"}
    toy(traits=Traits(of_means=True))
    methods.build_methods(studies[1], ["toy"])
    with pytest.raises(ValueError, match="toy assumes that the model is the mean"):
        methods.build_methods(studies[0], ["toy"])
    toy(needs=jfu.Needs(proxy_data=True))
    with pytest.raises(ValueError, match="toy needs unlabelled images at the server; reserve some"):
        methods.build_methods(studies[1], ["toy"])
    assert capsys.readouterr().err == ""


def test_rounds_by_a_methods_own_formula_are_told(toy, fed, model, capsys):
    study = study_of(fed, model, aggregator="median")
    made = lambda setting: jfu.unlearn.finetune(setting.fed)._replace(own_now=lambda state: True)
    methods.build_methods(study, ["toy"])
    assert "toy" not in capsys.readouterr().err
    toy(make=made)
    methods.build_methods(study, ["toy"])
    assert "in their own rounds toy combine clients" in capsys.readouterr().err


def test_history_is_kept_for_those_who_read_it(toy):
    assert methods.remembered(["toy", "retrain_again"]) == ()
    toy(needs=jfu.Needs(history=("last",)))
    assert methods.remembered(["toy", "retrain_again"]) == ("last",)


def test_what_a_sum_of_one_and_a_round_cost_go_by_traits(toy, data):
    request = jfu.split(data, jfu.forget_client(data, [5]))
    alone = SimpleNamespace(request=request)
    assert private.lonely(changed(PLAIN, sum_only=True), alone, dict(toy=2)) == []
    study = SimpleNamespace(per_client=(100, 60), per_step=10.0, per_forward=4.0)
    flops = lambda: private.planned(changed(PRIVATE, batch_size=3), study, data, "toy")(1)["flops"]
    assert flops() == 60.0
    toy(traits=Traits(lonely=True, teaches=True))
    (line,) = private.lonely(changed(PLAIN, sum_only=True), alone, dict(toy=2))
    assert "works alone in the own round of toy" in line
    assert flops() == 84.0


def test_all_leaves_out_who_cannot_answer(toy, monkeypatch, capsys):
    monkeypatch.setattr(jfu.unlearn, "COMPARED", ("toy", "not"))
    assert comparison.expand(["all"], "class:1") == ["toy", "not"]
    toy(needs=jfu.Needs(whole_clients=True))
    assert comparison.expand(["all"], "class:1") == ["not"]
    assert "left out: toy takes whole clients out" in capsys.readouterr().err


def test_a_run_refuses_a_perturbation_that_changes_nothing(
    toy, fed, model, variables, data, capsys
):
    """But not of a model that answers all inputs alike, which nothing could change."""
    study = SimpleNamespace(
        **dict(fresh=None, train=None, logits=model.apply, per_step=1.0, per_forward=1.0),
        dataset=SimpleNamespace(x_test=np.float32([[1, 2], [3, 1], [0, 4], [2, 2]])),
    )
    call = lambda fn, *args, **options: fn
    shared = cells.Shared(None, study, SimpleNamespace(seed=3), call, 1)
    method = UNLEARNERS["toy"](Setting(fed, model, jfu.by_layer(model, 0)))
    cell = cells.Cell("toy", method, jfu.Trained(variables), data, budget=1, quiet=True)
    begin = lambda: cells.start(shared, cell, None, jax.random.key(0))
    assert begin().round == 0
    toy(traits=Traits(perturbs=True))
    with pytest.raises(ValueError, match="leaves the model.s outputs as they were"):
        begin()
    study.logits = lambda variables, x: 0 * x
    assert begin().round == 0
    assert "the model of seed 3 answers 4 inputs alike" in capsys.readouterr().err


def test_own_formulas_are_told_apart_from_the_aggregator(monkeypatch, fed, model, capsys):
    setting = jfu.unlearn.Setting(
        *(fed, model, jfu.by_layer(model, 0)), local=lambda **changes: None, within=4
    )
    config = changed(PLAIN, aggregator="median")
    study = SimpleNamespace(config=config, setting=setting, fresh=None)
    build_methods(study, ["not", "puf", "federaser"])
    said = capsys.readouterr().err
    assert (
        "note: --aggregator=median is for ordinary rounds; in their own rounds puf, federaser "
        "combine" in said
    )
    build_methods(study, ["not", "finetune"])
    assert "--aggregator" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("leaving", "rounds", "words"),
    [
        ([5], 80, "took part in the first round, so rollback retrains from the same initial"),
        ([2], 73, "returns to the model after round 7 of 80: before that, no client that loses"),
        ([9], 0, "no client that loses examples took part, so rollback keeps the old model"),
        ([9, 2], 73, "after round 7 of 80"),
    ],
)
def test_a_rollback_runs_what_training_ran_after_it(data, leaving, rounds, words, capsys):
    config = changed(PLAIN, rounds=80, recovery_rounds=40)
    history = dict(before=dict(joined=np.array([0, 7, 80])))
    request = jfu.split(data, jfu.forget_client(data, leaving))
    assert methods.rounds_to_run(config, "rollback", history, request) == rounds
    assert words in capsys.readouterr().err
    for name, most in dict(retrain=80, finetune=40).items():
        assert methods.rounds_to_run(config, name, {}, request) == most
    assert methods.budget(config, "rollback") == 80
    assert capsys.readouterr().err == ""
