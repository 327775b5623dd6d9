"""All measures of a model in one call, against NumPy in float64."""

import numpy as np
import pytest

import jfu
from jfu import evaluation
from jfu.data import poison

pytestmark = [pytest.mark.conformance, pytest.mark.usefixtures("keys_unchecked")]

CLASSES, SIDE = 3, 4
RNG = np.random.default_rng(0)


def images(many):
    x = RNG.normal(size=(many, SIDE, SIDE, 1)).astype(np.float32)
    return x, RNG.integers(0, CLASSES, many).astype(np.int32)


def apply(variables, x):
    return x.reshape(len(x), -1) @ variables["params"]


MODEL = {"params": RNG.normal(size=(SIDE * SIDE, CLASSES)).astype(np.float32)}


def expected(x, y):
    """Percent of right answers, and losses, of the model."""
    logits = x.reshape(len(x), -1).astype(np.float64) @ MODEL["params"].astype(np.float64)
    loss = np.log(np.exp(logits).sum(1)) - logits[np.arange(len(y)), y]
    return 100 * (logits.argmax(1) == y).mean(), loss


def test_without_test_examples_the_other_measures_stay():
    retain, forget, test = images(40), images(30), images(50)
    trigger = evaluation.Backdoor(test[0], 1, np.zeros(70, bool), np.zeros(70, int))
    made = evaluation.of_arrays(retain, forget, test, backdoor=trigger, forgotten_classes=(1,))
    all_of_it = evaluation.measures(apply, MODEL, made)
    found = evaluation.measures(apply, MODEL, evaluation.of_pool(made), attack=False)
    for name in ("retain", "forget", "loss_retain", "loss_forget", "guess"):
        assert found[name] == all_of_it[name] is not None
    for name in ("test", "asr", "mia", "mia_matched"):
        assert found[name] is None
    assert "test_kept" not in found
    with pytest.raises(ValueError, match="spread over devices"):
        evaluation.of_pool(made._replace(where=np.arange(120)))


def test_measures_of_arrays():
    retain, forget, test = images(40), images(30), images(50)
    made = evaluation.of_arrays(retain, forget, test)
    found = evaluation.measures(apply, MODEL, made)
    for name, data in dict(retain=retain, forget=forget, test=test).items():
        assert found[name] == pytest.approx(expected(*data)[0])
    assert found["loss_retain"] == pytest.approx(expected(*retain)[1].mean(), rel=1e-5)
    assert found["loss_forget"] == pytest.approx(expected(*forget)[1].mean(), rel=1e-5)
    assert found["mia"] == pytest.approx(jfu.mia(expected(*forget)[1], expected(*test)[1]))
    assert found["guess"] == 100 * np.bincount(retain[1]).max() / 40
    assert found["asr"] is None and "test_kept" not in found
    # Pairs are of one class, a forgotten example and a test example each.
    assert len(made.members) == len(made.others) >= 10
    assert made.forget[made.members].all() and (made.others >= 70).all()
    np.testing.assert_array_equal(made.y[made.members], made.y[made.others])
    without = evaluation.measures(apply, MODEL, made, attack=False)
    assert without["mia"] is without["mia_matched"] is None
    assert without["retain"] == found["retain"]


def test_measures_with_a_backdoor():
    """Of triggered test images of other classes; poisoned examples stand beside triggered ones."""
    (x, y), test = images(40), images(60)
    forget, poisoned = np.arange(40) >= 15, np.arange(40) >= 25
    bad_x, bad_y = poison.stamped(x, y, np.flatnonzero(poisoned), label=1, value=9.0)
    triggered = poison.stamp(test[0], value=9.0)
    backdoor = evaluation.Backdoor(triggered, 1, poisoned, y)
    made = evaluation.of_arrays(
        (bad_x[~forget], bad_y[~forget]), (bad_x[forget], bad_y[forget]), test, backdoor=backdoor
    )
    others = test[1] != 1
    assert evaluation.measures(apply, MODEL, made)["asr"] == pytest.approx(
        expected(triggered[others], np.ones(others.sum(), int))[0]
    )
    corner = made.x[:, -2:, -2:] == 9.0
    stamped = corner.all((1, 2, 3))
    np.testing.assert_array_equal(stamped[made.members], stamped[made.others])
    assert stamped[made.members].any() and not stamped[made.members].all()
    true = np.concatenate([y, test[1], test[1]])  # the true class, whatever the label says
    np.testing.assert_array_equal(true[made.members], true[made.others])


def test_a_request_to_clients_is_evaluated_like_its_arrays():
    (x, y), test = images(30), images(20)
    lists = [range(10), range(8, 20), range(20, 30)]
    clients = jfu.stack(x, y, [list(rows) for rows in lists])
    request = jfu.split(clients, jfu.forget_client(clients, [0]))
    made = evaluation.of_request(clients, request, test, seed=3)
    # A client that stays has rows 8 and 9 too, so nobody forgets them.
    assert np.flatnonzero(made.forget).tolist() == list(range(8))
    assert np.flatnonzero(made.retain).tolist() == list(range(8, 30))
    arrays = evaluation.of_arrays((x[8:], y[8:]), (x[:8], y[:8]), test)
    found = evaluation.measures(apply, MODEL, made, attack=False)
    # Each client that stays, on all that it keeps, also the rows that two of them have.
    each = [expected(x[list(rows)], y[list(rows)])[0] for rows in lists[1:]]
    assert found.pop("worst_client") == pytest.approx(min(each))
    assert found.pop("client_spread") == pytest.approx(np.std(each))
    assert found == evaluation.measures(apply, MODEL, arrays, attack=False)
    # Arrays know their clients only by name.
    owner = np.repeat([7, 3], [4, 18])
    named = evaluation.of_arrays((x[8:], y[8:]), (x[:8], y[:8]), test, clients=owner)
    alone = [expected(x[8:][owner == c], y[8:][owner == c])[0] for c in (7, 3)]
    shown = evaluation.measures(apply, MODEL, named, attack=False)
    assert shown["worst_client"] == pytest.approx(min(alone))
    assert shown["client_spread"] == pytest.approx(abs(alone[0] - alone[1]) / 2)


def test_a_request_of_classes_has_accuracies_of_its_own():
    retain, forget, test = images(20), images(10), images(50)
    made = evaluation.of_arrays(retain, forget, test, forgotten_classes=(0, 2))
    found, kept = evaluation.measures(apply, MODEL, made, attack=False), test[1] == 1
    assert found["test_kept"] == pytest.approx(expected(test[0][kept], test[1][kept])[0])
    assert found["test_forgotten"] == pytest.approx(expected(test[0][~kept], test[1][~kept])[0])


def test_one_program_serves_all_models():
    traced = []

    def counted(variables, x):
        traced.append(x.shape)
        return apply(variables, x)

    made = evaluation.of_arrays(images(8), images(4), images(8))
    evaluation.measures(counted, MODEL, made)
    many = len(traced)
    found = evaluation.measures(counted, {"params": -MODEL["params"]}, made)
    assert len(traced) == many and found["retain"] is not None
