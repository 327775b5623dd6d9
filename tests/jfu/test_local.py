"""A client's work: which examples a step sees, in which order, with which keys."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jfu
import jfu.local as local_module
from helpers.federation import bits
from jfu.local import _repeated, sized

pytestmark = pytest.mark.conformance

ALIVE = np.array([1, 1, 0, 1, 1, 1, 0, 1], bool)  # slots; a request may leave holes anywhere
INDEX = np.array([3, 0, 5, 9, 1, 8, 2, 6], np.int32)


def _key():
    return jax.random.key(7)


def _client(x, index=INDEX, mask=ALIVE):
    y = jnp.zeros(len(x), jnp.int32)
    return jfu.ClientData(jnp.asarray(x), y, jnp.asarray(index), jnp.asarray(mask), jnp.asarray(0))


def _run(work, client, params, round=0):
    shared = jfu.Broadcast({"params": params}, jnp.asarray(round, jnp.int32))
    return jax.jit(work)(shared, client, _key())


def _total(variables, batch, key):
    """Adds up everything in the batch, dead rows too: its gradient is what the batch held."""
    return (batch.x @ variables["params"]).sum()


@pytest.mark.parametrize("batch_size", [1, 4, 6, 100])
def test_each_epoch_visits_every_live_example_once_and_no_other(batch_size):
    """On one-hot examples the update counts visits; dead rows of a batch are zeros."""
    work = jfu.local_sgd(_total, optax.sgd(1.0), epochs=3, batch_size=batch_size)
    update, info = _run(work, _client(np.eye(10, dtype=np.float32)), jnp.zeros(10))
    visits = np.zeros(10)
    visits[INDEX[ALIVE]] = 3
    np.testing.assert_array_equal(-update["params"], visits)
    assert info.weight == 6
    assert info.steps == 3 * -(-6 // min(batch_size, 8))


def test_batches_hold_the_live_rows_in_the_documented_order():
    """Labels, mask and zeros of each batch, against the order from the keys."""
    seen = []

    def loss(variables, batch, key):
        jax.debug.callback(lambda x, y, m: seen.append((x, y, m)), *batch, ordered=True)
        return variables["params"].sum()

    x = np.arange(1, 11, dtype=np.float32)[:, None]
    client = _client(x)._replace(y=jnp.arange(10, dtype=jnp.int32) + 20)
    _run(jfu.local_sgd(loss, optax.sgd(0.0), epochs=2, batch_size=4), client, jnp.zeros(1))
    jax.effects_barrier()
    expected = []
    for draw in np.asarray(jax.random.uniform(_key(), (8, 2))).T:
        slots = sorted(np.flatnonzero(ALIVE), key=lambda s, draw=draw: draw[s])
        rows = INDEX[np.array(slots)]
        expected += [rows[:4], rows[4:]]
    assert [len(rows) for rows in expected] == [4, 2, 4, 2]
    assert expected[0].tolist() != expected[2].tolist()
    for (got_x, got_y, got_mask), rows in zip(seen, expected, strict=True):
        fill = np.zeros(4 - len(rows), int)
        np.testing.assert_array_equal(got_x[:, 0], np.concatenate([rows + 1, fill]))
        np.testing.assert_array_equal(got_y, np.concatenate([rows + 20, fill]))
        np.testing.assert_array_equal(got_mask, np.arange(4) < len(rows))


def test_a_client_without_live_examples_takes_no_step():
    """Even with a loss that is never finite."""
    loss = lambda variables, batch, key: jnp.nan * variables["params"].sum()
    work = jfu.local_sgd(loss, optax.sgd(1.0), batch_size=4)
    update, info = _run(work, _client(np.eye(10), mask=np.zeros(8, bool)), jnp.ones(2))
    assert update["params"].tolist() == [0, 0]
    assert [float(a) for a in info] == [0, 0, 0, 0, 0]


def test_optimizer_may_be_a_function_of_the_round():
    work = jfu.local_sgd(_total, lambda r: optax.sgd(1.0 / (1 + r)), batch_size=8)
    for r in (0, 1, 3):
        update, _ = _run(work, _client(np.eye(10, dtype=np.float32)), jnp.zeros(10), round=r)
        assert update["params"].sum() == -6 / (1 + r)


def test_the_mean_loss_is_reported():
    """Four steps of size 1 on loss = p: losses 5, 4, 3, 2."""
    loss = lambda variables, batch, key: variables["params"][0]
    work = jfu.local_sgd(loss, optax.sgd(1.0), epochs=2, batch_size=4)
    update, info = _run(work, _client(np.eye(10)), jnp.array([5.0, 1.0]))
    assert update["params"].tolist() == [-4, 0]
    assert (info.weight, info.loss, info.steps, info.forwards) == (6, 3.5, 4, 0)


def test_loss_keys_differ_between_steps_and_follow_the_documented_rule():
    loss = lambda variables, batch, key: variables["params"] * jax.random.uniform(key)
    work = jfu.local_sgd(loss, optax.sgd(1.0), epochs=2, batch_size=3)
    update, _ = _run(work, _client(np.eye(10)), jnp.zeros(()))
    loss_key = jax.random.fold_in(_key(), np.uint32(2**32 - 1))
    draws = [float(jax.random.uniform(jax.random.fold_in(loss_key, i))) for i in range(4)]
    assert len(set(draws)) == 4
    np.testing.assert_allclose(-update["params"], sum(draws), rtol=1e-6)


def test_augmentation_has_a_key_for_each_example_and_step():
    """The rule: fold_in(fold_in(augment_key, step), row of the pool)."""
    augment = lambda key, x: x * jax.random.uniform(key, x.shape)
    work = jfu.local_sgd(_total, optax.sgd(1.0), epochs=2, batch_size=8, augment=augment)
    update, _ = _run(work, _client(np.eye(10, dtype=np.float32)), jnp.zeros(10))
    key = jax.random.fold_in(_key(), np.uint32(2**32 - 2))
    draw = lambda i, row: jax.random.uniform(
        jax.random.fold_in(jax.random.fold_in(key, i), row), (10,)
    )[row]
    expected = np.zeros(10)
    for row in INDEX[ALIVE]:
        expected[row] = float(draw(0, row)) + float(draw(1, row))
    np.testing.assert_allclose(-update["params"], expected, rtol=1e-6)


def test_collections_that_a_loss_changes_are_sent_and_others_are_not():
    def loss(variables, batch, key):
        seen = variables["stats"] + batch.mask.sum()
        return variables["params"].sum(), {"stats": seen}

    work = jfu.local_sgd(loss, optax.sgd(1.0), batch_size=4)
    start = {"params": jnp.ones(2), "stats": jnp.asarray(10.0), "fixed": jnp.asarray(3.0)}
    shared = jfu.Broadcast(start, jnp.zeros((), jnp.int32))
    update, _ = work(shared, _client(np.eye(10)), _key())
    assert update["stats"] == 6
    assert update["fixed"] == 0
    assert update["params"].tolist() == [-2, -2]


NONE = [(0, 1), (1, 0), (np.nan, 1), (1, np.nan), (1.5, 1), (1, 2.0), (True, 1)]


@pytest.mark.parametrize(("epochs", "batch_size"), NONE)
def test_no_epochs_or_no_batch_is_refused(epochs, batch_size):
    with pytest.raises(ValueError, match="local_sgd was given .*a whole number from 1 on"):
        jfu.local_sgd(_total, optax.sgd(1.0), epochs=epochs, batch_size=batch_size)
    assert jfu.local_sgd(_total, optax.sgd(1.0), epochs=np.int64(1), batch_size=np.int32(2))


@pytest.mark.parametrize("proximal", [np.nan, np.inf, -1.0])
def test_a_pull_that_is_none_is_refused(proximal):
    with pytest.raises(ValueError, match=f"given proximal={proximal}; it must be a number in"):
        jfu.local_sgd(_total, optax.sgd(1.0), proximal=proximal)


def _once(data, loss, optimizer=None, more=None):
    fed = jfu.fedavg(jfu.local_sgd(loss, optimizer or optax.sgd(0.1), batch_size=2))
    state = fed.init({"params": jnp.zeros((2, 3)), **(more or {})})
    return jax.eval_shape(fed.round, state, data, jax.random.key(0))


def _value(variables, batch, key):
    return jfu.cross_entropy(batch.x @ variables["params"], batch)


@pytest.mark.parametrize("optimizer", [0.1, "sgd", None, lambda round: 0.1])
def test_what_is_no_optimizer_is_refused(data, optimizer):
    with pytest.raises(ValueError, match="pass an optax optimizer such as optax.sgd"):
        jax.eval_shape(
            jfu.fedavg(jfu.local_sgd(_value, optimizer)).round,
            jfu.fedavg(jfu.local_sgd(_value, optax.sgd(0.1))).init({"params": jnp.zeros((2, 3))}),
            data,
            jax.random.key(0),
        )


def test_an_optimizer_that_gathers_steps_is_one(data):
    """Two batches of two at once are the batch of four, where each is whole."""
    data = data._replace(mask=data.mask & (data.id == 5)[:, None] & (jnp.arange(7) < 4)[None])
    ends = []
    for size, optimizer in ((2, optax.MultiSteps(optax.sgd(0.1), 2)), (4, optax.sgd(0.1))):
        fed = jfu.fedavg(jfu.local_sgd(_value, optimizer, batch_size=size))
        start = fed.init({"params": jnp.zeros((2, 3))})
        ends.append(jax.jit(fed.round)(start, data, jax.random.key(0))[0].params)
    np.testing.assert_allclose(*ends, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    ("returned", "words"),
    [
        (lambda loss: (loss, {"acc": loss}), r"acc beside its value.*\(they are stats\)"),
        (lambda loss: (loss, {"params": loss}), "params beside its value"),
        (lambda loss: (loss, loss), r"it must return the mean loss, or \(the mean, {coll"),
        (lambda loss: (loss, {}, {}), "it must return the mean loss"),
        (lambda loss: {"loss": loss}, "it must return the mean loss"),
        (lambda loss: loss * jnp.ones(2), r"the loss returned float32 \[2\]; it must be one"),
        (lambda loss: loss.astype(int), "the loss returned int32"),
    ],
)
def test_losses_that_return_something_else_are_refused(data, returned, words):
    loss = lambda variables, batch, key: returned(_value(variables, batch, key))
    with pytest.raises(ValueError, match=words):
        _once(data, loss, more={"stats": jnp.zeros(())})


@pytest.mark.parametrize("most", [1, 2])
def test_steps_written_out_are_those_of_a_loop(most):
    """Their numbers too: each step multiplies by its own."""
    start = lambda: (jnp.ones(()), jnp.zeros((), jnp.int32))
    step = lambda i, carry: (carry[0] * (i + 2), carry[1] + 1)
    for steps in range(most + 1):
        got = jax.jit(lambda n: _repeated(step, n, most, start))(jnp.int32(steps))
        looped = _repeated(step, jnp.int32(steps), 3, start)
        assert tuple(map(float, got)) == tuple(map(float, looped)) == ((1, 2, 6)[steps], steps)


def test_cross_entropy_is_the_mean_over_live_rows():
    """Against float64; logits of a thousand do not overflow, bfloat16 is computed in float32."""
    rng = np.random.default_rng(0)
    logits, y = rng.normal(size=(6, 4)) * 3, np.array([0, 3, 2, 1, 1, 0])
    mask = np.array([1, 1, 0, 1, 0, 1], np.float32)
    batch = jfu.Batch(jnp.zeros((6, 1)), jnp.asarray(y), jnp.asarray(mask))
    each = np.log(np.exp(logits).sum(1)) - logits[np.arange(6), y]
    expected = each[mask > 0].mean()
    got = jfu.cross_entropy(jnp.asarray(logits, jnp.float32), batch)
    np.testing.assert_allclose(got, expected, rtol=1e-5)
    shifted = jnp.asarray(logits + 1000, jnp.float32)
    np.testing.assert_allclose(jfu.cross_entropy(shifted, batch), expected, rtol=1e-3)
    slope = jax.grad(jfu.cross_entropy)(jnp.asarray(logits, jnp.float32), batch)
    chance = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    wanted = (chance - np.eye(4)[y]) * mask[:, None] / mask.sum()
    np.testing.assert_allclose(slope, wanted, rtol=1e-5, atol=1e-7)
    half = jfu.cross_entropy(jnp.asarray(logits, jnp.bfloat16), batch)
    assert half.dtype == jnp.float32
    assert jfu.cross_entropy(jnp.ones((6, 4)), batch._replace(mask=jnp.zeros(6))) == 0


def _ones(w, batch):
    return jfu.cross_entropy(batch.x @ w, batch)


ONES = jfu.fedavg(
    jfu.local_sgd(lambda v, batch, key: _ones(v["params"], batch), optax.sgd(0.1), batch_size=2)
)


@pytest.mark.parametrize("label", [-1, 4, 9])
def test_a_label_beyond_the_classes_is_no_loss_of_zero(label):
    """The example that has it makes its client's update no number; padding may have anything."""
    y = jnp.array([0, label, 3])
    batch = jfu.Batch(jnp.ones((3, 1)), y, jnp.ones(3))
    look = jax.jit(jax.value_and_grad(_ones))
    value, slope = look(jnp.ones((1, 4)), batch)
    assert jnp.isnan(value) and jnp.isnan(slope).all()
    padded = batch._replace(mask=jnp.array([1.0, 0.0, 1.0]))
    value, slope = look(jnp.ones((1, 4)), padded)
    assert jnp.isfinite(value) and jnp.isfinite(slope).all()
    clients = jfu.stack(np.ones((4, 1), np.float32), [0, label, 1, 3], [[0, 1], [2, 3]])
    start = ONES.init({"params": jnp.ones((1, 4))})
    state, info = jax.jit(ONES.round)(start, clients, jax.random.key(0))
    assert float(info.metrics["not_finite"]) == 1 and float(info.metrics["clients"]) == 1
    assert jnp.isfinite(state.params).all() and (state.params != 1).any()


def test_classification_trains_with_the_mask_and_key_and_passes_statistics_on():
    own = _key()

    def apply(variables, x, *, train=False, mask=None, key=None):
        assert train
        assert key is own
        return x @ variables["params"], {"stats": mask.sum()}

    batch = jfu.Batch(jnp.eye(3), jnp.array([0, 1, 2]), jnp.array([1.0, 1.0, 0.0]))
    loss, changed = jfu.classification(apply)({"params": jnp.eye(3)}, batch, own)
    np.testing.assert_allclose(loss, np.log(np.e + 2) - 1, rtol=1e-6)
    assert changed == {"stats": 2}


# ---------------------------------------------------------------- small clients among large ones


def ragged(sizes, dead=()):
    """Clients of these sizes; those at the places ``dead`` have lost their first live slots."""
    many = sum(sizes)
    x = np.random.default_rng(0).normal(size=(many, 2)).astype(np.float32)
    ends = np.cumsum([0, *sizes])
    rows = [np.arange(a, b) for a, b in zip(ends, ends[1:], strict=False)]
    clients = jfu.stack(x, (np.arange(many) % 3).astype(int), rows)
    for k in dead:
        clients = clients._replace(mask=clients.mask.at[k, : sizes[k] - 2].set(False))
    return clients


@pytest.mark.parametrize("chunk", [1, 2, 0])
def test_a_shorter_shuffle_is_the_same_shuffle(model, variables, monkeypatch, chunk):
    """5, 70, 600 and 3 examples of 5,000 slots, dead ones in front: lengths change no bit."""
    clients = ragged([5, 70, 4999, 600, 5000], dead=[2])
    noisy = lambda key, x: x + jax.random.normal(key, x.shape)
    how, loss = dict(batch_size=32, augment=noisy), jfu.classification(model.apply)
    # Anew each time: what was traced keeps its lengths.
    work = lambda: jfu.local_sgd(loss, optax.sgd(0.1), epochs=2, **how)
    shared = jfu.types.Broadcast(variables, jnp.zeros((), jnp.int32))
    run = lambda: jax.jit(jfu.map_clients(work(), chunk=chunk))(shared, clients, jax.random.key(3))
    found = run()
    monkeypatch.setattr(local_module, "LEAST", 10**9)
    wanted = run()
    assert bits(found) == bits(wanted)
    assert found[1].weight.tolist() == [5, 70, 2, 600, 5000]


def test_shuffles_walk_over_no_more_than_their_length():
    """What is drawn and sorted, client by client, also side by side: the largest's."""
    clients, seen = ragged([5, 64, 65, 512, 513, 2000]), []

    def show(length):
        jax.debug.callback(lambda: seen.append(length))
        return jnp.zeros(())

    run = jfu.map_clients(lambda shared, client, key: sized(client.mask, key, show), chunk=1)
    jax.block_until_ready(jax.jit(run)((), clients, jax.random.key(0)))
    jax.effects_barrier()
    assert sorted(seen) == [64, 64, 512, 512, 2000, 2000]
    chosen = lambda key: lambda mask: sized(mask, key, lambda length: mask[0])
    text = lambda fn, mask: str(jax.make_jaxpr(fn)(mask))
    # A generator whose draws depend on how many there are.
    assert "cond" not in text(chosen(jax.random.key(0, impl="rbg")), clients.mask[0])
    assert "cond" in text(chosen(jax.random.key(0)), clients.mask[0])
    # One branch for all that run side by side; a choice for each would run all of them.
    assert "cond" in text(jax.vmap(chosen(None)), clients.mask)


def test_a_model_of_several_outputs_is_told_that_one_is_wanted(data):
    apply = lambda variables, x, **_: ({"logits": x @ variables["params"], "aux": x}, {})
    work = jfu.local_sgd(jfu.classification(apply), optax.sgd(0.1), batch_size=2)
    fed = jfu.fedavg(work)
    with pytest.raises(ValueError, match="gives a dict where logits"):
        fed.round(fed.init({"params": jnp.zeros((2, 3))}), data, jax.random.key(0))
