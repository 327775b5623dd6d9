"""Rounds as flags ask for them: what is refused, limits of gradients and updates, faults."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jfu
import jfu.models
from helpers.federation import bits
from helpers.forks import launch
from helpers.workdirs import CONFIG, PLAIN, PRIVATE, changed
from jfu import faults
from jfu.augment import AUGMENTS
from jfu.unlearn.coun import two_views
from launch.setup import federation
from launch.setup.options import read_options
from launch.setup.study import recovering


@pytest.mark.parametrize(
    ("changes", "more", "words"),
    [
        (
            dict(dp_clip=0.0),
            {},
            "--dp_clip=0 cannot be the length of an update; give a number above 0",
        ),
        (dict(dp_clip=np.inf), {}, "--dp_clip=inf cannot be the length"),
        (dict(max_update_norm=0.0), {}, "--max_update_norm=0 cannot be the length of an update"),
        (
            dict(max_update_norm=0.3),
            dict(names=["not_deepest"]),
            "not_deepest negates layers in its own round, which --max_update_norm=0.3 would",
        ),
        (dict(max_grad_norm=0.0), {}, "--max_grad_norm=0 cannot be the length of a gradient"),
        ({}, dict(given=["dp_noise"]), "--dp_noise does nothing without --dp_clip"),
        ({}, dict(given=["dp_delta"]), "--dp_delta does nothing without --dp_clip"),
        (dict(faults=("late:0.7", "nan:0.7")), {}, "all together at most 1"),
        (dict(dp_clip=1.0, dp_delta=0.0), {}, "--dp_delta=0 is not a delta"),
        (dict(dp_clip=1.0, dp_delta=1.0), {}, "--dp_delta=1 is not a delta"),
        (dict(dp_clip=1.0, dp_noise=np.nan), {}, "--dp_noise=nan is not a standard deviation"),
        (dict(dp_clip=1.0, dp_noise=np.inf), {}, "--dp_noise=inf is not a standard deviation"),
        (dict(dp_clip=1.0, aggregator="krum"), {}, "--dp_clip has its own aggregator"),
        (dict(dp_clip=1.0, sample=2, absent=0.5), {}, "for --sample or for --absent, not for both"),
        (dict(dp_clip=1.0), dict(names=["puf"]), "puf has rounds of its own or a history"),
        (dict(dp_clip=1.0), dict(names=["not_deepest"]), "not_deepest has rounds of its own"),
        (dict(dp_clip=1.0), dict(keep=["last"]), "keeps updates without noise"),
        (
            dict(dp_clip=1.0),
            dict(keep=["before"]),
            "keeps each client's first round, which epsilon",
        ),
        (dict(dp_clip=1.0), dict(names=["rollback"]), "rollback has rounds of its own or a hist"),
        (dict(sum_only=True, aggregator="krum"), {}, "krum needs single updates"),
        (
            dict(aggregator="fedau"),
            dict(names=["pgd"]),
            "pgd needs a history of training, and --agg",
        ),
        (dict(aggregator="fedau"), dict(keep=["before"]), "leave out --keep_history=before"),
        (dict(sum_only=True), dict(names=["federaser"]), "federaser needs single updates"),
        (dict(sum_only=True), dict(names=["not", "pgd"]), "pgd needs single updates"),
        *(
            (
                dict(sum_only=True),
                dict(keep=["start", kind]),
                f"--keep_history={kind} keeps updates",
            )
            for kind in ("norms", "sums", "first", "last", "updates")
        ),
    ],
)
def test_flags_that_cannot_be_are_refused(changes, more, words):
    with pytest.raises(ValueError, match=words):
        federation.check(changed(PLAIN, **changes), **more)


def test_flags_that_can_be_are_not():
    federation.check(PLAIN, ["retrain", "puf", "pgd"], ["last", "updates"])
    federation.check(changed(PLAIN, sum_only=True), ["not", "puf", "mode", "ga"], ["start"])
    federation.check(changed(PLAIN, sum_only=True, aggregator="fedau"), ["not", "puf"])
    federation.check(changed(PLAIN, max_update_norm=np.inf, faults=("late:0.1",)))
    federation.check(
        changed(PLAIN, sum_only=True), ["fedmemprune", "rollback"], ["start", "before"]
    )
    pytest.importorskip("dp_accounting")
    federation.check(PRIVATE, ["not", "retrain"], ["start"], given=["dp_noise", "dp_delta"])


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_long_gradients_are_scaled_down_before_the_step(optimizer):
    """Two examples, one step each: gradients (3, 4) and (0.3, 0.4), to a length of 1 at most."""
    loss = lambda variables, batch, key: (batch.x @ variables["params"]).sum()
    clients = jfu.stack(np.array([[3.0, 4.0], [0.3, 0.4]]), np.zeros(2, int), [[0], [1]])
    limits = dict(batch_size=1, max_grad_norm=1.0, optimizer=optimizer)
    fed, own, _ = federation.build(changed(PLAIN, **limits), loss, 0.1, 0, 2)
    start = {"params": jnp.zeros(2)}
    state, _ = fed.round(fed.init(start), clients, jax.random.key(0))
    work = jfu.fedavg(own())
    again, _ = work.round(work.init(start), clients, jax.random.key(0))
    # sgd: 0.1 * (0.6, 0.8) and 0.1 * (0.3, 0.4); Adam's first step is the rate along each sign.
    by_hand = [-0.045, -0.06] if optimizer == "sgd" else [-0.1, -0.1]
    np.testing.assert_allclose(state.params, by_hand, rtol=1e-5)
    np.testing.assert_allclose(again.params, by_hand, rtol=1e-5)


def test_a_gradient_that_is_not_too_long_stays_as_it_is_to_the_bit():
    loss = lambda variables, batch, key: (batch.x @ variables["params"]).sum()
    clients = jfu.stack(np.array([[0.3, 0.4], [0.1, 0.7]]), np.zeros(2, int), [[0], [1]])
    found = []
    for longest in (None, 1.0, 0.6):
        limits = dict(batch_size=1, max_grad_norm=longest, momentum=0.9)
        fed, _, _ = federation.build(changed(PLAIN, **limits), loss, 0.1, 0, 2)
        state, _ = fed.round(fed.init({"params": jnp.ones(2)}), clients, jax.random.key(0))
        found.append(bits(state.params))
    assert found[0] == found[1] != found[2]


def test_an_accountant_that_is_not_there_is_missed_at_once(monkeypatch):
    monkeypatch.setattr(federation.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="dp-accounting, which is not installed; install it, or"):
        federation.check(PRIVATE)
    federation.check(PLAIN)


@pytest.mark.parametrize(
    ("layers", "weights_only", "picked"),
    [
        (["first"], False, {"stem/kernel", "stem/bias"}),
        (["first"], True, {"stem/kernel"}),
        (["first_weight"], False, {"stem/kernel", "position"}),
        (["last"], False, {"head/kernel", "head/bias"}),
        (["0"], True, {"stem/kernel"}),
        (["stem/.*", "token"], False, {"stem/kernel", "stem/bias", "token"}),
        (["stem/.*", "token"], True, {"stem/kernel", "token"}),
    ],
)
def test_layers_of_a_vision_transformer(layers, weights_only, picked):
    model = jfu.models.build("vit_tiny", classes=3, image_shape=(8, 8, 1))
    params = jax.eval_shape(model.init, jax.random.key(0))["params"]
    mask = jfu.select(params, federation.selector(tuple(layers), model, weights_only))
    chosen = jax.tree_util.tree_leaves_with_path(mask)
    name = functools.partial(jax.tree_util.keystr, simple=True, separator="/")
    assert {name(path) for path, yes in chosen if yes} == picked


def test_recovery_warms_up_where_it_is_asked_to():
    """A step of a linear loss is as long as the rate: 1/4, 2/4, 3/4 and then the whole."""
    loss = lambda variables, batch, key: (batch.x @ variables["params"]).sum()
    data = jfu.stack(np.ones((1, 1)), np.zeros(1, int), [[0]])
    moved = {}
    for rounds in (0, 4):
        config = changed(PLAIN, warmup_rounds=9, recovery_warmup_rounds=rounds, batch_size=1)
        calm = recovering(config)
        fed, _, _ = federation.build(calm, loss, 0.4, 0, 1)
        state, places = fed.init({"params": jnp.zeros(1)}), [0.0]
        for number in range(5):
            state, _ = fed.round(state, data, jax.random.key(number))
            places.append(float(state.params[0]))
        moved[rounds] = -np.diff(places)
    np.testing.assert_allclose(moved[0], [0.4] * 5, rtol=1e-5)
    np.testing.assert_allclose(moved[4], [0.1, 0.2, 0.3, 0.4, 0.4], rtol=1e-5)


REFUSED = (
    ("train", ["--dp_clip=1", "--aggregator=krum"], "--dp_clip has its own aggregator"),
    ("train", ["--sum_only", "--keep_history=updates"], "--keep_history=updates keeps updates"),
    ("compare", ["--dp_noise=1"], "--dp_noise does nothing without --dp_clip"),
    (
        "unlearn",
        ["--init_params=m.msgpack", "--max_update_norm=0"],
        "--max_update_norm=0 cannot be",
    ),
    ("tune", ["--dp_clip=1", "--dp_delta=0"], "--dp_delta=0 is not a delta"),
    ("pays", ["--dp_clip=1"], "launch.pays does not compute epsilon"),
)


@pytest.mark.parametrize(
    ("script", "flags", "words"),
    [REFUSED[0], *(pytest.param(*row, marks=pytest.mark.slow) for row in REFUSED[1:])],
)
def test_every_script_asks_before_it_takes_a_work_directory(script, flags, words, tmp_path):
    _, said = launch(script, *flags, f"--workdir={tmp_path / 'w'}", expect=2)
    assert words in said and len(said.splitlines()) == 1
    assert not (tmp_path / "w").exists()


def test_a_methods_own_rounds_have_the_faults_and_the_limit(data, model, variables):
    """Whatever the federation's rounds have; and where nothing is asked for, nothing is added."""
    loss = jfu.classification(model.apply)
    build = lambda **changes: federation.build(changed(PLAIN, **changes), loss, 0.1, 1, 3)[1](loss)
    assert build().checked and build().__qualname__.startswith("local_sgd")
    shared = jfu.types.Broadcast(variables, jnp.zeros((), jnp.int32))
    one = data._replace(index=data.index[0], mask=data.mask[0], id=data.id[0])
    for changes, why in (
        (dict(faults=("nan:1",)), faults.NOT_FINITE),
        (dict(faults=("late:1",)), faults.LATE),
        (dict(max_update_norm=1e-6), faults.TOO_LONG),
        (dict(faults=("long:1",), max_update_norm=50.0), faults.TOO_LONG),
    ):
        update, info = build(**changes)(shared, one, jax.random.key(0))
        assert (int(info.left_out), float(info.weight)) == (why, 0)
        assert not any(np.any(a) for a in jax.tree.leaves(update))


def test_a_methods_own_work_changes_examples_as_training_does_or_as_the_method_says():
    """A batch that the loss gets: one view of each of four images, or two, or no augmentation."""
    x = np.random.default_rng(0).integers(1, 255, (4, 8, 8, 1)).astype(np.uint8)
    data = jfu.stack(x, np.arange(4), [range(4)])
    shared = jfu.types.Broadcast({"params": jnp.zeros(())}, jnp.zeros((), jnp.int32))
    one = data._replace(index=data.index[0], mask=data.mask[0], id=data.id[0])
    usual = AUGMENTS["crop_flip"]
    for given, shape in (
        ({}, (4, 8, 8, 1)),
        (dict(augment=two_views(usual)), (4, 2, 8, 8, 1)),
        (dict(augment=None), (4, 8, 8, 1)),
    ):
        seen = []

        def loss(variables, batch, key, seen=seen):
            jax.debug.callback(seen.append, batch.x)
            return variables["params"] * 0.0

        config = changed(PLAIN, augment="crop_flip", batch_size=4)
        work = federation.build(config, loss, 0.1, 1, 1)[1](**given)
        jax.block_until_ready(work(shared, one, jax.random.key(0)))
        assert seen[0].shape == shape
        shown = (seen[0] > 0).reshape(4, -1).all(1)  # a crop that moves an image brings zeros
        assert shown.all() == ("augment" in given and given["augment"] is None)


def test_faults_and_aggregators_are_read():
    assert federation.read_faults(["late:0.1", "nan:.05", "long:1"]) == dict(
        late=0.1, nan=0.05, long=1.0
    )
    for wrong in ("late", "late=0.1", "slow:0.1", "nan:-1"):
        with pytest.raises(ValueError, match="is not understood; write late:RATE"):
            federation.read_faults([wrong])
    made = lambda name: federation.aggregator(
        dataclasses.replace(CONFIG, aggregator=name, clip=1.0, trim=0.1, byzantine=1), 3
    )
    seen = {name: made(name).stacked for name in ("mean", "clipped", "median", "trimmed", "krum")}
    assert seen == dict(mean=False, clipped=False, median=True, trimmed=True, krum=True)


def test_each_client_may_have_its_own_rate_of_absence():
    read = lambda each, **more: federation.read_absences(
        dataclasses.replace(PLAIN, absent_each=each, **more), 3
    )
    assert read(("0.9", ".5", "0")) == [0.9, 0.5, 0.0]
    assert read((), absent=0.25) == 0.25
    for wrong in (("0.5", "0.5"), ("0.5", "0.5", "1"), ("0.5", "0.5", "nan")):
        with pytest.raises(ValueError, match="must have 3 numbers from 0 to below 1"):
            read(wrong)
    for flag in (dict(absent=0.1), dict(sample=2), dict(dp_clip=1.0)):
        with pytest.raises(ValueError, match=f"does not go with --{next(iter(flag))}"):
            read(("0.9", "0.5", "0"), **flag)


def test_rates_that_learn_nothing_are_refused():
    for name in ("lr", "server_lr", "lr_decay", "recovery_lr"):
        with pytest.raises(ValueError, match=f"--{name}=0 learns nothing; give one above 0"):
            federation.check(changed(PLAIN, **{name: 0.0}))
    with pytest.raises(ValueError, match="--momentum=1 never forgets a step; give one below 1"):
        federation.check(changed(PLAIN, momentum=1.0))
    with pytest.raises(ValueError, match="lr must be a finite number"):
        read_options(["pgd.lr=1e999"])
