"""What models show, without a work directory: by hand, on models of one number."""

import itertools

import jax.numpy as jnp
import numpy as np
import pytest

import jfu
from jfu import audit, evaluation
from jfu.audit import evidence
from jfu.audit.measures import TABLE
from jfu.metrics import by_client

# Examples are their own logits, so a positive scale is right about all, a negative one about none.
X = np.tile(np.eye(3, dtype=np.float32), (4, 1))
Y = np.arange(12) % 3
MADE = evaluation.of_arrays((X, Y), (X, Y), (X, Y))


def apply(variables, x):
    return x * variables["params"]["scale"]


def scaled(value):
    return {"params": {"scale": jnp.float32(value)}}


MODELS = dict(original=scaled(2.0), retrain=scaled(-1.0), mine=scaled(-2.0))


def test_samples_by_hand():
    found = audit.collect(apply, {7: MODELS, 9: MODELS}, MADE)
    assert list(found) == ["original", "retrain", "mine"]
    assert set(found["mine"]["forget"]) == {7, 9}
    assert found["original"]["forget"][7][0].all() and not found["mine"]["forget"][7][0].any()
    # The loss is log(e^z_y + 2) - z_y with z_y = 2 or -2, and the same on both sides.
    assert found["mine"]["loss_gap"][9][0] == pytest.approx(0)
    # phi is z_y less the log of the other two: -2 - log 2.
    (members, others) = found["mine"]["auc_matched"][7]
    np.testing.assert_allclose([*members, *others], -2 - np.log(2), rtol=1e-6)
    # Confidence that was lost since the old model: 2 - (-2).
    np.testing.assert_allclose(found["mine"]["update_auc_matched"][7][0], 4, rtol=1e-6)
    assert "js_test" in found["mine"] and "js_test" not in found["retrain"]
    assert "mia" not in found["mine"]  # which takes rows


def test_accuracies_of_loss_attacks_come_from_the_last_rows_of_each_seed():
    row = lambda seed, number, mia: dict(
        method="mine", seed=seed, round=number, mia=mia, mia_matched=None
    )
    rows = [row(0, 3, 60.0), row(0, 5, 55.0), row(1, 5, 52.0)]
    found = audit.collect(apply, {0: MODELS, 1: MODELS}, MADE, rows=rows)
    assert {seed: a.item() for seed, (a,) in found["mine"]["mia"].items()} == {0: 55.0, 1: 52.0}
    assert "mia_matched" not in found["mine"] and "mia" not in found["retrain"]


def test_what_a_public_perturbation_hid_comes_back():
    """Taken back of methods that are named and of retrained models, of no other."""
    undo = lambda variables: scaled(-variables["params"]["scale"])
    found = audit.collect(apply, {0: MODELS | dict(other=scaled(-2.0))}, MADE, undo=undo)
    assert "undo_forget" not in found["mine"] and "undo_forget" in found["retrain"]
    found = audit.collect(apply, {0: MODELS}, MADE, undo=undo, undone=("mine",))
    assert found["mine"]["undo_forget"][0][0].all()
    assert found["mine"]["undo_to_original"][0][0] == 0  # it is the old model again
    assert found["retrain"]["undo_to_original"][0][0] == pytest.approx(0.5)


def test_rounds_to_relearn_are_counted_up_to_the_limit():
    asked = []

    def again(variables):
        """One more a round; right about the data from zero on."""
        start = float(variables["params"]["scale"])
        for number in itertools.count(1):
            asked.append(number)
            yield scaled(start + number)

    models = MODELS | dict(known=scaled(1.0), far=scaled(-9.5), retrain=scaled(-1.5))
    found = audit.collect(apply, {0: models}, MADE, again=again, limit=4)
    rounds = {name: int(s["relearn"][0][0][0]) for name, s in found.items() if "relearn" in s}
    assert rounds == dict(retrain=2, mine=3, known=0, far=5)  # 5: not in four
    assert len(asked) == 2 + 3 + 0 + 4  # and none beyond the limit
    assert float(found["mine"]["anamnesis"][0][0][0]) == 1.5
    assert "anamnesis" not in found["retrain"]


def test_one_program_serves_all_models_and_seeds():
    traced = []

    def counted(variables, x):
        traced.append(x.shape)
        return apply(variables, x)

    tools = evidence.tools(counted)
    rng = np.random.default_rng(0)
    evidence.of_seed(tools, MODELS, MADE, rng)
    many = len(traced)
    evidence.of_seed(tools, {name: scaled(3.0) for name in MODELS}, MADE, rng)
    assert len(traced) == many


def test_an_unchanged_model_gets_a_no_and_an_exact_one_does_not():
    """Five seeds; the unchanged model is detected, as the old model is."""
    models = {}
    for seed in range(5):
        # Retrained models know what chance lets them: each is wrong about all of it here.
        wrong = -1.0 - seed / 10
        models[seed] = dict(
            original=scaled(2.0),
            retrain=scaled(wrong),
            retrain_again=scaled(wrong - 0.05),
            unchanged=scaled(2.0),
            exact=scaled(wrong - 0.02),
        )
    judged = audit.judge(audit.estimate(audit.collect(apply, models, MADE)))
    assert judged.verdicts["unchanged"]["forgotten"][0] == "no"
    assert judged.verdicts["exact"]["forgotten"][0] == "inconclusive"  # no shadows, no control
    assert judged.controls.old[0] == "no" and judged.controls.third is None
    assert judged.verdicts["retrain"]["forgotten"][0] == "not shown"


def test_accuracies_of_clients_by_hand():
    """Labels of client 5 are right under a positive scale, those of client 2 under a negative."""
    y = np.where(np.arange(12) < 8, Y, (Y + 1) % 3)
    made = evaluation.of_arrays((X, y), (X, Y), (X, Y), clients=np.repeat([5, 2], [8, 4]))
    models = dict(retrain=scaled(2.0), retrain_again=scaled(2.0), mine=scaled(-2.0))
    found = audit.collect(apply, {0: models}, made)
    value = lambda name, key: TABLE[key].statistic(*found[name][key][0])
    assert value("retrain", "worst_client") == 0 and value("retrain", "client_spread") == 50
    correct, owner = found["mine"]["worst_client"][0]
    assert by_client(correct, owner).tolist()[1] == 0  # ids in order: 2, 5
    assert value("mine", "client_loss") == 100 and value("retrain_again", "client_loss") == 0
    assert "client_loss" not in found["retrain"]
    with pytest.raises(ValueError, match="names the client of 3 examples, and 12 are retained"):
        evaluation.of_arrays((X, y), (X, Y), (X, Y), clients=np.arange(3))


def test_clients_that_stay_keep_what_was_not_forgotten():
    clients = jfu.stack(X, Y, [[0, 1, 2], [2, 3], [4]])
    request = jfu.split(clients, jfu.forget_client(clients, [0]))
    rows, owner = evaluation.of_request(clients, request, (X, Y)).clients
    assert rows.tolist() == [2, 3, 4] and owner.tolist() == [1, 1, 2]
