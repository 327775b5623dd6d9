"""What flags of privacy, faults and limits do, and which of them are refused before any work."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jfu
from helpers.federation import bits
from helpers.forks import launch
from helpers.workdirs import PLAIN, PRIVATE, changed
from jfu import faults, results
from jfu.data import Dataset
from launch.running import rows
from launch.setup import federation, keys, private
from launch.setup.clients import draw
from launch.setup.methods import build_methods
from launch.setup.study import prepare_study, recovering
from launch.shell.devices import Layout
from launch.workdir import places, runs

# ---------------------------------------------------------------- what is refused


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
            "not_deepest negates layers in its own round, and --max_update_norm=0.3 would",
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
        (dict(sum_only=True, aggregator="krum"), {}, "krum needs single updates"),
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
    federation.check(changed(PLAIN, max_update_norm=np.inf, faults=("late:0.1",)))
    federation.check(changed(PLAIN, sum_only=True), ["not", "puf", "mode", "ga"], ["start"])
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
    ("unlearn", ["--init_params=m.msgpack", "--max_update_norm=0"], "--max_update_norm=0 is no"),
    ("tune", ["--dp_clip=1", "--dp_delta=0"], "--dp_delta=0 cannot"),
    ("pays", ["--dp_clip=1"], "launch.pays tells no epsilon"),
)


@pytest.mark.parametrize(
    ("script", "flags", "words"),
    [REFUSED[0], *(pytest.param(*row, marks=pytest.mark.slow) for row in REFUSED[1:])],
)
def test_every_script_asks_before_it_takes_a_work_directory(script, flags, words, tmp_path):
    _, said = launch(script, *flags, f"--workdir={tmp_path / 'w'}", expect=2)
    assert words in said and len(said.splitlines()) == 1
    assert not (tmp_path / "w").exists()


# ---------------------------------------------------------------- clients in rounds of all kinds


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


def told(study, **counts):
    info = SimpleNamespace(metrics=dict.fromkeys(NAMES, 0.0) | counts)
    spent = dict(bytes_down=0, bytes_up=0, flops=0.0, seconds=0.0, left_out=0)
    return rows.add_costs(study, rows.add_costs(study, spent, info, 1.0), info, 1.0)


NAMES = ("steps", "forwards", "down", "up", "late", "not_finite", "too_long", "not_applied")


def test_rows_say_why_clients_were_left_out(monkeypatch):
    """Where there are any, or may be; other rows are as they were."""
    monkeypatch.setattr(rows, "measures_of", lambda *args, **options: {})
    judge = lambda *args: ()
    study = SimpleNamespace(
        config=PLAIN, per_client=(1, 1), per_step=1.0, per_forward=1.0, judge=judge
    )
    trial = SimpleNamespace(seed=0, evaluation=SimpleNamespace(x=0, y=0))
    state = SimpleNamespace(variables={})

    def row(study, costs):
        counts = rows.Meter(study, trial, "not", 0, lambda number: {}, None)
        return rows.row(counts, 2, state, costs, attack=False).result()

    plain = row(study, told(study))
    assert list(plain) == ["method", "seed", "round", "bytes_down", "bytes_up", "flops"] + [
        "left_out",
        "storage",
        "seconds",
    ]
    some = row(study, told(study, late=2.0, not_applied=1.0))
    assert (some["left_out"], some["late"], some["not_applied"]) == (4, 4, 2)
    assert "too_long" not in some
    study.config = changed(PLAIN, max_update_norm=5.0)
    watched = row(study, told(study))
    assert [watched[name] for name in rows.FAILURES] == [0, 0, 0, 0]
    # Training's are still told when the request comes.
    assert results.as_original(some)["late"] == results.as_original(some)["left_out"] == 4


# ---------------------------------------------------------------- what a run tells


@pytest.fixture
def people():
    """Three clients by name, of a data set that says who holds what; --clients stays at ten."""
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 200, (40, 8, 8, 1)).astype(np.uint8), np.arange(40) % 3
    client = np.array(["ann", "bob", "eve"])[np.arange(30) // 10]
    return Dataset(x[:30], y[:30], x[30:], y[30:], ("a", "b", "c"), client)


def trial_of(data, gone, fewest=0):
    nothing = jfu.split(data, jnp.zeros(data.mask.shape, bool))
    request = jfu.split(data, jfu.forget_client(data, gone))
    return SimpleNamespace(everything=nothing, request=request, fewest=fewest)


def test_every_phase_counts_the_clients_that_it_draws_from(data, monkeypatch):
    """Of three clients one goes: two to draw from, whatever --clients says."""
    seen = []
    composed = lambda noise, phases, delta, **how: seen.append((phases, how)) or 1.0
    monkeypatch.setattr(jfu.privacy, "composed", composed)
    config, trial = changed(PRIVATE, clients=10, sample=2), trial_of(data, [5])
    tell = lambda config, name, request: private.account(config, trial, name, request)(3)
    assert tell(config, "original", trial.everything) == dict(epsilon=1.0)
    assert tell(config, "not", trial.request) == dict(epsilon=1.0)
    later = changed(config, init_params="A/model", rounds_before=9)
    trial = trial_of(data, [5], fewest=2)
    tell(later, "not", trial.request)
    assert [phases for phases, _ in seen] == [[(3, 3)], [(4, 3), (3, 2)], [(9, 2), (3, 2)]]
    assert all(how == dict(present=1.0, drawn=2) for _, how in seen)
    assert tell(PLAIN, "not", trial.request) == {}


def test_what_a_model_from_elsewhere_tells_is_not_known(data, monkeypatch):
    """Nor is it for models that were made of it."""
    trial = trial_of(data, [5])
    for config in (
        changed(PRIVATE, init_params="other.msgpack"),
        changed(PRIVATE, init_params="B/model.safetensors", rounds_before=None),
    ):
        for name in ("original", "not", "retrain"):
            assert private.account(config, trial, name, trial.request)(0) == dict(epsilon=None)


@pytest.mark.parametrize(
    ("changes", "before"),
    [
        ({}, 4),
        (dict(init_params="A/model", rounds_before=6), 10),
        (dict(init_params="other.msgpack"), None),
        (dict(init_params="B/model", rounds_before=None), None),
        (dict(dp_noise_from_seed=True), None),
    ],
)
def test_a_models_rounds_are_known_or_not(changes, before, tmp_path, monkeypatch):
    run = SimpleNamespace(
        script="train",
        config=changed(PRIVATE, **changes),
        more=dict(seed=1),
        **dict(files={}, data=None, numerics=None, places=None),
    )
    monkeypatch.setattr(runs, "read_run", lambda path: run)
    monkeypatch.setattr(runs, "parse_run", lambda path, text: run)
    (tmp_path / places.MODEL).write_bytes(b"")
    (tmp_path / places.CONFIG).write_text("")
    assert runs.read_model(str(tmp_path)).config.rounds_before == before


def test_the_fewest_clients_that_ever_were(people):
    past = ("-client:ann", "-client:bob", "+client:ann,bob")
    for some, fewest in ((past, 1), (past[:1], 2), ((), 3)):
        config = changed(PRIVATE, past=some, forget="")
        assert draw(config, people, 0).fewest == fewest


def test_noisy_sums_are_divided_by_those_who_are_there(people, monkeypatch):
    """Three before the request and two after it; --clients says ten and --sample five."""
    made = lambda **changes: federation.aggregator(changed(PRIVATE, dp_noise=0.0, **changes), 3)
    ones = {"a": jnp.ones(2)}
    for changes, cohort in ((dict(sample=5), 3), (dict(sample=2), 2), (dict(absent=0.5), 1.5)):
        found, _ = made(clients=10, **changes).decode(ones, (), jax.random.key(0))
        np.testing.assert_allclose(found["a"], 1 / cohort, rtol=1e-6)

    monkeypatch.setattr("jfu.data.load", lambda *args, **options: people)
    monkeypatch.setattr(jfu, "step_flops", lambda *args, **options: 0.0)
    divided, usual = [], federation.aggregator
    record = lambda config, clients: divided.append(clients) or usual(config, clients)
    monkeypatch.setattr(federation, "aggregator", record)
    config = changed(PRIVATE, dataset="own.npz", clients=10, sample=5, forget="client:eve")
    study = prepare_study(config, Layout("cpu", 1, 1), [0])
    assert set(divided) == {2, 3}
    assert study.train is not study.fresh and study.further is study.fed is not study.setting.fed
    study = prepare_study(changed(config, dp_clip=None), Layout("cpu", 1, 1), [0])
    assert study.train is study.fresh and study.further is study.fed is study.setting.fed


def test_noise_is_never_drawn_twice():
    """By two methods, two requests or two settings; training does not know the request."""
    key = jax.random.key(7)
    draw = lambda name, **changes: bits(
        jax.random.key_data(private.apart(key, changed(PRIVATE, **changes), name))
    )
    drawn = [
        draw("not"),
        draw("finetune"),
        draw("not", forget="client:1"),
        draw("not", past=("-client:2",)),
        draw("not", past=("-client:1",)),
        draw("not", layers=("last",)),
        draw("original"),
        draw("original", lr=0.2),
        bits(jax.random.key_data(key)),
    ]
    assert len(set(drawn)) == len(drawn)
    assert draw("original") == draw("train") == draw("original", forget="class:1")
    # In two steps as in one comparison.
    assert draw("not", init_params="A/model", rounds_before=4, data_dir="/d") == draw("not")
    assert bits(jax.random.key_data(private.apart(key, PLAIN, "not"))) == drawn[-1]


def test_what_is_past_leads_to_keys_that_nothing_else_draws_with():
    """Numbers of rounds and the halves of a split are counters of keys, as numbers of pasts are."""
    key, drawn = jax.random.key(7), []
    for past in ((), ("-client:0",), ("-client:0", "+client:0")):
        stream = keys.run(key, "not", past)
        perturb, rounds = jax.random.split(stream)
        inside = [jax.random.fold_in(rounds, number) for number in range(4)]
        halves = [half for one in inside for half in jax.random.split(one)]
        drawn += [bits(jax.random.key_data(k)) for k in (stream, perturb, rounds, *inside, *halves)]
    assert len(set(drawn)) == len(drawn)
    plain = jax.random.fold_in(key, keys.RECOVER)  # what runs without a past have always had
    assert drawn[0] == bits(jax.random.key_data(plain))
