"""What a sceptic asks of models: by hand, by refitting, and on models that memorised nothing."""

import jax.numpy as jnp
import numpy as np
import pytest

from jfu import attacks, audit, evaluation, metrics
from jfu.audit import probes
from jfu.audit.measures import TABLE

CLASSES = 3


def test_a_probe_without_a_pair_is_the_probe_that_never_saw_it():
    """Against heads that are fitted anew for each pair, in the primal."""
    draw = np.random.default_rng(0)
    members, others = draw.normal(0.3, 1, (7, 4)), draw.normal(0, 1, (7, 4))
    found = attacks.probe(members, others, penalty=0.5)
    x = np.concatenate([members, others])
    x -= x.mean(0)
    y = np.repeat([1.0, -1.0], 7)
    weight = 0.5 * (x**2).sum(1).mean()
    for i in range(7):
        rest = np.delete(np.arange(14), [i, i + 7])
        head = np.linalg.solve(x[rest].T @ x[rest] + weight * np.eye(4), x[rest].T @ y[rest])
        np.testing.assert_allclose([found[0][i], found[1][i]], x[[i, i + 7]] @ head, rtol=1e-9)


def test_a_probe_of_features_that_say_nothing_is_a_coin():
    draw = np.random.default_rng(1)
    areas = [
        attacks.auc(*attacks.probe(draw.normal(size=(20, 50)), draw.normal(size=(20, 50))))
        for _ in range(300)
    ]
    assert abs(np.mean(areas) - 0.5) < 3 * np.std(areas) / np.sqrt(300)
    nothing = np.ones((12, 3))
    assert attacks.auc(*attacks.probe(nothing, nothing)) == 0.5


def test_a_head_that_reads_labels_is_ridge_regression():
    """In the primal, with an intercept: of centred features to one-hot labels."""
    draw = np.random.default_rng(7)
    x, z, y = draw.normal(size=(30, 4)), draw.normal(size=(50, 4)), draw.integers(0, 3, 30)
    mean, target = x.mean(0), np.eye(3)[y]
    weight = 0.2 * ((x - mean) ** 2).sum(1).mean()
    a = (x - mean).T @ (x - mean) + weight * np.eye(4)
    head = np.linalg.solve(a, (x - mean).T @ (target - target.mean(0)))
    scores = (z - mean) @ head + target.mean(0)
    names = np.array([9, 2, 5])  # labels may be any numbers
    found = attacks.read(x, names[y], z, penalty=0.2)
    np.testing.assert_array_equal(found, names[scores.argmax(1)])
    assert len(set(found.tolist())) == 3
    assert (attacks.read(np.ones((4, 2)), np.array([3, 3, 3, 8]), np.ones((2, 2))) == 3).all()


def test_poisoned_labels_are_read_where_a_layer_has_the_trigger():
    """Four pixels name the class, a fifth is the trigger; the second layer maps it to class 1."""
    draw = np.random.default_rng(8)

    def images(many, trigger):
        y = draw.integers(0, CLASSES, many)
        x = 2 * np.eye(4)[y] + 0.1 * draw.normal(size=(many, 4))
        return np.concatenate([x, np.full((many, 1), trigger)], 1).astype(np.float32), y

    retain, test, (x, true) = images(90, 0.0), images(60, 0.0), images(40, 1.0)
    bad = np.repeat([False, True], [90, 40])
    classes = np.concatenate([retain[1], true])
    stamped = test[0] + np.float32([0, 0, 0, 0, 1])
    backdoor = evaluation.Backdoor(stamped, 1, bad, classes)
    one = evaluation.of_arrays(retain, (x, np.ones(40, int)), test, backdoor=backdoor)
    rows = probes.poisoned(one)
    assert len(rows) and set(rows) <= set(90 + np.flatnonzero(true != 1))  # 1 is their own class
    assert len(rows) == (true[one.members - 90] != 1).sum()

    def outputs(variables, x):
        moved = 9 * variables["params"]["trap"] * x[:, 4:] * jnp.eye(4)[1:2]
        return dict(stem=x, body=x[:, :4] + moved)

    models = {n: {"params": dict(trap=float(n == "mine"))} for n in ("retrain", "mine")}
    apply = lambda variables, x: outputs(variables, x)["body"][:, :CLASSES]
    found = audit.collect(apply, {0: models}, one, outputs=outputs, layers=("stem", "body"))
    share = lambda name, layer: found[name][f"probe_poison.{layer}"][0][0].mean()
    assert share("mine", "body") == 1 and share("retrain", "body") == 0
    assert share("mine", "stem") == share("retrain", "stem") == 0
    plain = evaluation.of_arrays(retain, (x, true), test)
    found = audit.collect(apply, {0: models}, plain, outputs=outputs, layers=("stem", "body"))
    assert not any(key.startswith("probe_poison") for key in found["mine"])


def made(seed=0, many=40):
    draw = np.random.default_rng(seed)
    x = lambda: draw.normal(size=(many, 4)).astype(np.float32)
    y = lambda: draw.integers(0, CLASSES, many)
    return evaluation.of_arrays((x(), y()), (x(), y()), (x(), y()))


def linear(variables, x):
    return x @ variables["params"]["w"]


def test_norms_of_gradients_by_hand():
    """Of a linear model: the gradient is x (p - y)^T, whose norm is |x| |p - y|."""
    one, draw = made(), np.random.default_rng(2)
    w = draw.normal(size=(4, CLASSES)).astype(np.float32)
    found = audit.collect(linear, {0: dict(original={"params": {"w": jnp.asarray(w)}})}, one)
    members, others = found["original"]["gradient_auc_matched"][0]
    logits = np.asarray(one.x, np.float64) @ w
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    norm = np.linalg.norm(p - np.eye(CLASSES)[one.y], axis=1) * np.linalg.norm(one.x, axis=1)
    for scores, rows in zip((members, others), probes.some_pairs(one), strict=True):
        np.testing.assert_allclose(scores, -np.log(norm[rows]), rtol=2e-4, atol=2e-5)
    assert "update_gradient_auc_matched" not in found["original"]


def test_at_most_so_many_pairs_are_probed_from_all_classes():
    one = made(many=700)
    members, others = probes.some_pairs(one)
    assert len(members) == len(others) == probes.PAIRS
    assert (one.y[members] == one.y[others]).all() and len(set(one.y[members])) == CLASSES


def test_the_most_memorised_by_hand():
    """Ten forgotten examples. Each retrained model is judged on what the other one chooses."""
    y = np.zeros(10, int)
    x = np.ones((10, 2), np.float32)
    one = evaluation.of_arrays((x, y), (x, y), (x, y))
    phi = {name: np.zeros(30) for name in ("original", "retrain", "retrain_again", "mine")}
    phi["original"][10:20] = 5.0
    phi["retrain"][10:20] = [-9, -8, 4, 4, 4, 4, 4, 4, 4, 4]
    phi["retrain_again"][10:20] = [4, -8, -9, 4, 4, 4, 4, 4, 4, 4]
    phi["mine"][10:20] = [1, -1, -1, 7, 7, 7, 7, 7, 7, 7]
    right = {name: values > 0 for name, values in phi.items()}
    right["mine"][11] = True  # of many classes, the likeliest may have less than a half
    found = probes.memorised(one, phi, right)
    share = lambda name: found[name]["memorised.20"][0].tolist()
    assert share("retrain") == 2 * [True, False]  # of 2, 1, which the other one chose
    assert share("retrain_again") == 2 * [True, False]  # of 0, 1
    assert share("mine") == [True, True, False, True]  # of 0, 1 and of 2, 1
    loss = np.log1p(np.exp([-1, 1, 1, 1]))
    np.testing.assert_allclose(found["mine"]["memorised.loss_20"][0], loss)
    del phi["retrain_again"]
    assert probes.memorised(one, phi, right) == {}


def test_one_seed_has_intervals_over_examples():
    """Of every measure that compares examples, for which all models need as many of them."""
    draw, one = np.random.default_rng(5), made()
    weights = lambda: {"params": {"w": jnp.asarray(draw.normal(size=(4, CLASSES)), jnp.float32)}}
    models = {name: weights() for name in ("original", "retrain", "retrain_again", "mine")}
    onward = lambda variables: iter([variables])
    outputs = lambda variables, x: dict(head=linear(variables, x))
    options = dict(outputs=outputs, layers=("head",), onward=onward, rounds=1)
    found = audit.estimate(audit.collect(linear, {0: models}, one, **options), draws=50)
    for key in ("memorised.20", "probe.head", "gradient_auc_matched", "resurfacing.forget"):
        entry = found.measures["mine"][key]
        assert entry["resampled"] == "examples" and entry["seeds"] == 1
        ends = entry["difference"]
        assert ends["low"] < ends["value"] < ends["high"]


def test_an_exact_retraining_looks_like_the_others_on_the_most_memorised():
    """Chosen by both retrained models, it would know more of them than they do: a false alarm."""
    y, x = np.zeros(60, int), np.ones((60, 2), np.float32)
    one, draw = evaluation.of_arrays((x, y), (x, y), (x[:10], y[:10])), np.random.default_rng(3)
    names, apart = ("retrain", "retrain_again", "mine"), []
    for _ in range(200):
        phi = {name: 2 * draw.normal(size=130) for name in names} | dict(original=np.full(130, 6.0))
        found = probes.memorised(one, phi, {name: values > 0 for name, values in phi.items()})
        known = [found[name]["memorised.20"][0].mean() for name in names]
        apart.append(known[2] - (known[0] + known[1]) / 2)
    assert abs(np.mean(apart)) < 3 * np.std(apart) / np.sqrt(200)


def test_the_efficacy_attack_by_its_own_words():
    """It learns on retained and unseen examples alone; forgotten ones that look unseen count."""
    draw = np.random.default_rng(4)
    seen, unseen = draw.uniform(0.9, 1, 300), draw.uniform(0.2, 0.6, 120)
    found = metrics.efficacy_mia(seen, unseen, np.r_[np.full(30, 0.97), np.full(10, 0.4)])
    assert found == 25.0
    assert metrics.efficacy_mia(seen, unseen, unseen[:9]) is None
    assert metrics.efficacy_mia(seen, unseen, np.full(20, np.nan)) is None
    assert metrics.efficacy_mia(np.ones(20), np.ones(20), np.ones(20)) == 50.0


def test_what_comes_back_after_so_many_rounds():
    """One more a round, on models of one number, right about the data from zero on."""
    x = np.tile(np.eye(3, dtype=np.float32), (4, 1))
    y = np.arange(12) % 3
    one = evaluation.of_arrays((x, y), (x, y), (x, y))
    scaled = lambda value: {"params": {"scale": jnp.float32(value)}}
    models = dict(original=scaled(2.0), retrain=scaled(-9.0), mine=scaled(-1.5))

    def onward(variables):
        for number in range(1, 3):
            yield scaled(float(variables["params"]["scale"]) + number)

    apply = lambda variables, x: x * variables["params"]["scale"]
    found = audit.collect(apply, {0: models}, one, onward=onward, rounds=2)
    assert found["mine"]["resurfacing.forget"][0][0].all()
    assert not found["retrain"]["resurfacing.forget"][0][0].any()
    assert "resurfacing.forget" not in found["original"]
    (members, _) = found["mine"]["resurfacing.auc_matched"][0]
    np.testing.assert_allclose(members, 0.5 - np.log(2), rtol=1e-6)
    early = audit.collect(apply, {0: models}, one, onward=onward, rounds=1)
    assert not early["mine"]["resurfacing.forget"][0][0].any()


@pytest.mark.parametrize("key", ["probe", "probe_poison", "gradient_auc_matched", "memorised.20"])
def test_signs_forbid_a_yes_and_decide_nothing(key):
    measure = TABLE[key]
    assert measure.sign and measure.memory and not measure.decides and measure.margin is None
