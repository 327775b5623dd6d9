"""Measures against NumPy, scikit-learn's own loop, and rows by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedShuffleSplit, cross_val_score

import jfu
from jfu.collectives import examples_at_once

pytestmark = pytest.mark.conformance

# ---------------------------------------------------------------- every example


@pytest.mark.parametrize("examples", [0, 1, 10, 13])
@pytest.mark.parametrize("batch_size", [5, 500])
def test_per_example_against_numpy(model, variables, examples, batch_size):
    """In float64, for numbers of examples that the batch divides and does not divide."""
    rng = np.random.default_rng(examples)
    x = rng.normal(size=(examples, 2)).astype(np.float32)
    y = rng.integers(0, 3, examples).astype(np.int32)
    loss, correct = jfu.per_example(model.apply, batch_size=batch_size)(variables, x, y)
    stem, head = (
        jax.tree.map(lambda a: np.asarray(a, np.float64), variables["params"][name])
        for name in ("stem", "head")
    )
    logits = np.tanh(x @ stem["kernel"] + stem["bias"]) @ head["kernel"] + head["bias"]
    each = np.log(np.exp(logits).sum(1)) - logits[np.arange(examples), y]
    np.testing.assert_allclose(loss, each, rtol=1e-4)
    np.testing.assert_array_equal(correct, logits.argmax(1) == y)
    assert loss.shape == correct.shape == (examples,)
    assert (loss.dtype, correct.dtype) == (jnp.float32, bool)


def test_large_images_a_few_at_a_time_are_the_same():
    """Sixteen of them on a CPU, where all at once are slow; the order of sums may differ."""
    x = jax.random.normal(jax.random.key(1), (37, 12, 12))
    kernel = jax.random.normal(jax.random.key(2), (144, 5))
    apply = lambda variables, rows: rows.reshape(len(rows), -1) @ variables
    assert examples_at_once(x) == 16
    y = jnp.arange(37) % 5
    few, all_ = (jfu.per_example(apply, batch_size=b)(kernel, x, y) for b in (None, 500))
    np.testing.assert_allclose(few[0], all_[0], rtol=1e-6)
    assert (few[1] == all_[1]).all() and 0 < few[1].sum() < 37


@pytest.mark.parametrize(
    ("outputs", "words"),
    [
        (
            lambda x: {"aux": -x, "logits": x},
            r"2 outputs \(\['aux'\], \['logits'\]\).*\['logits'\]",
        ),
        (lambda x: (x, -x), r"2 outputs \(\[0\], \[1\]\), and one can be evaluated"),
        (lambda x: {}, "0 outputs"),
        (lambda x: x[:, 0], r"gives \[3\] for a batch, and logits are \[B, C\]"),
        (lambda x: x[:, None], r"gives \[3, 1, 3\] for a batch"),
    ],
)
def test_of_several_outputs_one_must_be_named(outputs, words):
    x, y = jnp.eye(3) * 5, jnp.arange(3)
    with pytest.raises(ValueError, match=words):
        jfu.per_example(lambda variables, x: outputs(x))(None, x, y)


@pytest.mark.parametrize("pack", [lambda x: {"a": x}, lambda x: (x, {"b": x}), lambda x: [x]])
def test_one_output_is_judged_however_it_is_packed(pack):
    x, y = jnp.eye(3) * 5, jnp.arange(3)
    _, right = jfu.per_example(lambda variables, x: pack(x))(None, x, y)
    assert right.all()


def test_a_label_that_is_no_class_has_no_loss():
    """Not that of the last class, which -1 would index."""
    x, y = jnp.tile(jnp.array([[0.0, 1.0, 5.0]]), (4, 1)), jnp.array([-1, 3, 2, -3])
    loss, right = jfu.per_example(lambda variables, x: x)(None, x, y)
    assert np.isnan(loss).tolist() == [True, True, False, True]
    assert right.tolist() == [False, False, True, False]


def test_per_example_judges_low_precision_in_float32():
    logits = jnp.array([[30.0, 0.0, 0.0]], jnp.bfloat16)
    loss, _ = jfu.per_example(lambda v, x: logits)({}, jnp.zeros((1, 1)), jnp.array([1]))
    assert loss.dtype == jnp.float32
    np.testing.assert_allclose(loss, [30.0], rtol=1e-6)


# ---------------------------------------------------------------- membership inference


def _attack(members, others):
    """The attack by scikit-learn's own loop, on the documented draw."""
    size = min(len(members), len(others))
    rng = np.random.default_rng(0)
    kept = [np.array(a)[np.sort(rng.permutation(len(a))[:size])] for a in (members, others)]
    x, y = np.concatenate(kept)[:, None], np.array([1] * size + [0] * size)
    folds = StratifiedShuffleSplit(n_splits=10, random_state=0)
    return 100 * cross_val_score(LogisticRegression(), x, y, cv=folds, scoring="accuracy").mean()


@pytest.mark.parametrize(("n", "m"), [(40, 40), (30, 75), (64, 10)])
def test_mia_is_the_ten_fold_attack(n, m):
    rng = np.random.default_rng(n)
    members, others = rng.exponential(0.4, n), rng.exponential(1.5, m)
    score = jfu.mia(members, others)
    np.testing.assert_allclose(score, _attack(members, others), rtol=1e-12)
    assert isinstance(score, float)
    assert jfu.mia(members.astype(np.float32), jnp.asarray(others)) is not None


def test_mia_of_one_distribution_is_a_coin_toss_and_of_two_is_not():
    rng = np.random.default_rng(0)
    draw = lambda scale: rng.exponential(scale, 1000)
    assert (
        abs(jfu.mia(draw(1.0), draw(1.0)) - 50) < 4
    )  # 2000 tosses in the test folds: deviation 1.1
    assert jfu.mia(draw(0.1), draw(5.0)) > 85


@pytest.mark.parametrize("n", [10, 11, 14, 33, 51, 99])
def test_mia_of_few_examples_is_a_coin_toss_too(n):
    """A guess is right on half of the test fold, whether it has an even or odd number."""
    assert jfu.mia(np.ones(n), np.ones(n)) == 50


def test_mia_of_fourteen_examples_of_one_law_is_50_on_average():
    """Losses as models have them, over many powers of ten; the kit's splits gave 36."""
    rng = np.random.default_rng(0)
    scores = [jfu.mia(*np.exp(rng.normal(-6, 3, (2, 14)))) for _ in range(60)]
    assert abs(np.mean(scores) - 50) < 3 * np.std(scores) / np.sqrt(60)


def test_mia_of_many_examples_is_the_kits():
    """Of 144 a side 29 are in the test fold: a guess is right on 14 of them."""
    assert jfu.mia(np.ones(144), np.ones(144)) == pytest.approx(100 * 14 / 29)


@pytest.mark.parametrize(("n", "m"), [(9, 100), (100, 9), (0, 50)])
def test_mia_of_fewer_than_ten_is_not_taken(n, m):
    assert jfu.mia(np.zeros(n), np.ones(m)) is None


def test_mia_counts_infinite_and_undefined_losses_as_very_large():
    """A model that diverged on the members shows them as one that fits only them does."""
    worst = np.where(np.arange(20) % 2, np.inf, np.nan)
    assert jfu.mia(worst, np.ones(20)) == 100
    assert jfu.mia(worst, np.full(20, 1e4)) == jfu.mia(np.full(20, 1e4), np.full(20, 1e4))


@pytest.mark.filterwarnings("error")
def test_mia_of_a_model_that_diverged_is_a_coin_toss_however_far_it_went():
    """The worst side is the same side, whether its losses are 1e9 or no numbers."""
    far = np.geomspace(1e5, 1e12, 40)
    assert jfu.mia(far, far[::-1] * 7) == jfu.mia(far, np.full(40, np.nan)) == 50
    assert jfu.mia(far, np.zeros(40)) == 100


# ---------------------------------------------------------------- matching


def test_match_pairs_classes_without_repeating_anyone():
    rng = np.random.default_rng(1)
    mine, theirs = rng.integers(0, 5, 200), rng.integers(2, 7, 90)
    members, others = jfu.match(mine, theirs)
    np.testing.assert_array_equal(mine[members], theirs[others])
    for chosen, pool in ((members, mine), (others, theirs)):
        assert len(set(chosen.tolist())) == len(chosen)
        assert chosen.min() >= 0
        assert chosen.max() < len(pool)
    counts = [min((mine == c).sum(), (theirs == c).sum()) for c in range(7)]
    assert [(mine[members] == c).sum() for c in range(7)] == counts
    again = jfu.match(mine, theirs)
    assert again[0].tolist() == members.tolist()
    assert jfu.match(mine, theirs, seed=1)[0].tolist() != members.tolist()


def test_match_of_classes_that_nobody_shares_is_empty_and_indexes():
    members, others = jfu.match(np.array([0, 0]), np.array([1]))
    assert np.zeros(2)[members].shape == np.zeros(1)[others].shape == (0,)


# ---------------------------------------------------------------- gaps


def _row(retain, forget, test, mia):
    return dict(retain=retain, forget=forget, test=test, mia=mia)


RETRAIN = (91.66, 83.05, 82.32, 50.23)


@pytest.mark.parametrize(
    ("method", "reference", "published"),
    [
        ((92.48, 85.56, 82.36, 50.90), RETRAIN, 1.01),  # (0.82 + 2.51 + 0.04 + 0.67) / 4
        ((91.69, 83.86, 82.65, 50.23), RETRAIN, 0.29),  # (0.03 + 0.81 + 0.33 + 0) / 4
        (RETRAIN, RETRAIN, 0.0),
    ],
)
def test_gap_of_published_rows(method, reference, published):
    value = jfu.gap([_row(*method)], [_row(*reference)])
    assert round(value + 1e-9, 2) == published
    assert jfu.gap([_row(*reference)], [_row(*method)]) == pytest.approx(value)


def test_gap_is_between_means_and_gap_per_seed_is_not():
    """Signs cancel between seeds in the first: |93 - 92|, |10 - 14|, 0, |51 - 50| over 4."""
    method = [_row(90, 8, 80, 52), _row(96, 12, 82, 50)]
    reference = [_row(92, 14, 81, 50), _row(92, 14, 81, 50)]
    assert jfu.gap(method, reference) == (1 + 4 + 0 + 1) / 4
    assert jfu.gap_per_seed(method, reference) == [(2 + 6 + 1 + 2) / 4, (4 + 2 + 1 + 0) / 4]


def test_gap_takes_different_numbers_of_seeds_and_gap_per_seed_does_not():
    one, three = [_row(90, 0, 0, 50)], [_row(r, 0, 0, 50) for r in (90, 93, 96)]
    assert jfu.gap(three, one) == 0.75
    with pytest.raises(ValueError, match="zip"):
        jfu.gap_per_seed(three, one)


@pytest.mark.parametrize("measure", ["retain", "forget", "test", "mia"])
def test_gap_without_a_measure_is_not_taken(measure):
    full = [_row(90, 10, 80, 50), _row(91, 11, 81, 51)]
    hole = [full[0], {**full[1], measure: None}]
    for pair in ((full, hole), (hole, full)):
        assert jfu.gap(*pair) is None
        assert jfu.gap_per_seed(*pair) is None


def test_gap_reads_no_other_measure():
    rows = [{**_row(90, 10, 80, 50), "asr": None, "round": 3}]
    assert jfu.gap(rows, [_row(90, 10, 80, 52)]) == 0.5


@pytest.mark.parametrize(
    ("target", "points", "first"),
    [(98.0, 0.5, 5), (97.0, 0.5, 2), (97.5, 0.0, 5), (90.0, 0.5, 2), (99.0, 0.5, None)],
)
def test_first_round_within_counts_evaluated_rounds_but_not_round_zero(target, points, first):
    """In any order; exactly at the bound is within."""
    retain = {0: 99.9, 9: 98.4, 2: 97.0, 5: 97.5, 7: 96.0}
    rows = [dict(round=r, retain=a) for r, a in retain.items()]
    assert jfu.first_round_within(rows, target, points) == first
    assert jfu.first_round_within([], target, points) is None


def test_a_diverged_model_knows_nothing():
    judge = jfu.per_example(lambda variables, x: x * variables["params"])
    loss, correct = judge({"params": jnp.nan}, jnp.ones((4, 3)), jnp.zeros(4, jnp.int32))
    assert not correct.any()
    assert np.isnan(loss).all()
    with pytest.raises(ValueError, match="has diverged"):
        jfu.check_changed(lambda v, x: x * v, jnp.nan, -jnp.nan, jnp.ones((2, 2)))
