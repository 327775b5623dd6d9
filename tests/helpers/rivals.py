"""A linear problem of three clients, in float64 NumPy and as jfu runs a method on it.

Batches hold all of a client's examples, so shuffling changes nothing; the model's initialiser
gives constants, so random models are known. Client 0 leaves.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jfu
from jfu.unlearn import UNLEARNERS, Setting

RATE = 0.5
SIZES = (3, 2, 4)
DRAW = np.random.default_rng(7)
X = [DRAW.normal(size=(n, 2)).astype(np.float32).astype(float) for n in SIZES]
Y = [DRAW.integers(0, 3, n) for n in SIZES]
W = DRAW.normal(size=(2, 3)).astype(np.float32).astype(float)  # the trained model
FRESH = DRAW.normal(size=(2, 3)).astype(np.float32).astype(float)  # what init gives
P = np.array(SIZES) / sum(SIZES)


def history(*shape):
    return DRAW.normal(size=(*shape, 2, 3)).astype(np.float32)


FIRST, LAST, SUMS, START = history(3), history(3) * 0.3, history(3) * 0.2, history()
NORMS = DRAW.uniform(0.1, 1, (5, 3)).astype(np.float32)
PROXY = DRAW.normal(size=(6, 2)).astype(np.float32)


# ---------------------------------------------------------------- the reference


def softmax(z):
    e = np.exp(z - z.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def slope(w, x, y):
    """Of the mean cross-entropy of ``x @ w``."""
    return x.T @ (softmax(x @ w) - np.eye(3)[y]) / len(x)


def step_of(w, k, rate=RATE, y=None):
    """A client's update after one full batch."""
    return -rate * slope(w, X[k], Y[k] if y is None else y)


def plain_round(w, steps=None):
    """The mean of the clients that stay, 1 and 2, by their sizes."""
    steps = steps or {k: step_of(w, k) for k in (1, 2)}
    return w + sum(SIZES[k] * steps[k] for k in (1, 2)) / (SIZES[1] + SIZES[2])


def clipped(g, most):
    return g * min(1.0, most / np.linalg.norm(g))


# ---------------------------------------------------------------- the same in jfu


def apply(variables, x, *, train=False, mask=None, key=None):
    return x @ variables["params"]["head"]["kernel"], {}


MODEL = jfu.Model(
    lambda key: {"params": {"head": {"kernel": jnp.asarray(FRESH, jnp.float32)}}},
    apply,
    ("head",),
)


def trainer(model):
    def local(loss=None, optimizer=None, epochs=1, augment=None):
        loss = jfu.classification(model.apply) if loss is None else loss
        optimizer = optax.sgd(RATE) if optimizer is None else optimizer
        return jfu.local_sgd(loss, optimizer, epochs=epochs, batch_size=8, augment=augment)

    return local


def wrapped(a):
    return {"head": {"kernel": jnp.asarray(a, jnp.float32)}}


def run(name, stop, *, trained=W, model=MODEL, forget=(0,), norms=NORMS, **options):
    """The kernels after the perturbation and after each round, and the rounds' facts."""
    ends = np.cumsum((0, *SIZES))
    rows = [np.arange(a, b) for a, b in zip(ends[:-1], ends[1:], strict=True)]
    data = jfu.stack(np.concatenate(X).astype(np.float32), np.concatenate(Y), rows)
    request = jfu.split(data, jfu.forget_client(data, forget))
    setting = Setting(
        jfu.fedavg(trainer(model)()),
        model,
        jfu.by_path(".*"),
        local=trainer(model),
        batch_size=8,
        proxy=PROXY,
        options={name: options},
    )
    method = UNLEARNERS[name](setting)
    kept = dict(start={"params": wrapped(START)}, norms=jnp.asarray(norms))
    kept |= dict(first=wrapped(FIRST), last=wrapped(LAST), sums=wrapped(SUMS))
    variables = {"params": trained if isinstance(trained, dict) else wrapped(trained)}
    before = jfu.Trained(variables, {k: kept[k] for k in method.needs.history})
    jfu.unlearn.check_request(method, request, before.history, name)
    state = jax.jit(method.perturb)(before, request, jax.random.key(1))
    models, facts = [state.params], []
    for done in jfu.rounds(jax.jit(method.recover), state, request, jax.random.key(2), stop=stop):
        models.append(done.state.params)
        facts.append(jax.tree.map(float, dict(done.info.metrics)))
    if isinstance(trained, dict):
        return models, facts
    return [np.asarray(m["head"]["kernel"], float) for m in models], facts


def close(ours, theirs, rtol=2e-5):
    assert len(ours) == len(theirs)
    for mine, expected in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(mine, expected, rtol=rtol, atol=2e-6)


def counts(facts):
    return [[f[n] for n in ("down", "up", "steps", "forwards")] for f in facts]


ONLY_TARGET, OTHERS = [1, 1, 1, 0], [2, 2, 2, 0]
