"""Every rival against its formulas, in float64 NumPy on a linear problem of three clients.

Batches hold all of a client's examples, so shuffling changes nothing; the model's initialiser
gives constants, so random models are known. Client 0 leaves.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jfu
from helpers.federation import quick_jit
from jfu.unlearn import UNLEARNERS, Setting
from jfu.unlearn.fcu import box, fused

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
    def local(loss=None, optimizer=None, epochs=1):
        loss = jfu.classification(model.apply) if loss is None else loss
        optimizer = optax.sgd(RATE) if optimizer is None else optimizer
        return jfu.local_sgd(loss, optimizer, epochs=epochs, batch_size=8)

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
    state = quick_jit(method.perturb)(before, request, jax.random.key(1))
    models, facts = [state.params], []
    for done in jfu.rounds(quick_jit(method.recover), state, request, jax.random.key(2), stop=stop):
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

# ---------------------------------------------------------------- the methods


@pytest.mark.parametrize("most", [0.05, 100.0])
def test_ga(most):
    w = W.copy()
    for _ in range(2):
        w = w + 0.3 * clipped(slope(w, X[0], Y[0]), most)
    models, facts = run("ga", 2, lr=0.3, epochs=2, clip=most)
    close(models, [W, w, plain_round(w)])
    assert counts(facts) == [[1, 1, 2, 0], OTHERS]


def test_ga_for_two_clients_and_two_rounds():
    """Two leave: their climbs are averaged by size, round after round."""
    w, expected = W, [W]
    for _ in range(2):
        w = w + 0.3 * (SIZES[0] * slope(w, X[0], Y[0]) + SIZES[2] * slope(w, X[2], Y[2])) / 7
        expected.append(w)
    models, facts = run("ga", 3, lr=0.3, clip=100.0, rounds=2, forget=(0, 2))
    close(models, [*expected, w + step_of(w, 1)])
    assert counts(facts) == [[2, 2, 2, 0]] * 2 + [[1, 1, 1, 0]]


@pytest.mark.parametrize(
    ("lr", "most", "stop"), [(3.0, 5.0, 0.0), (0.3, 0.1, 0.0), (3.0, 5.0, 10.0)]
)
def test_pgd(lr, most, stop):
    """At the edge of the ball; free inside it; with a margin that no batch is above, not at all."""
    last = LAST.astype(float)
    before = W - np.tensordot(P, last, 1)
    reference = before + (SIZES[1] * last[1] + SIZES[2] * last[2]) / (SIZES[1] + SIZES[2])
    # The paper's own formula, with the target's last local model.
    mine = before + last[0]
    np.testing.assert_allclose(reference, (W - P[0] * mine) / (1 - P[0]))
    radius = np.sqrt(((reference - FRESH) ** 2).sum() / 3)
    w, speed = reference.copy(), 0.0
    touched = False
    for _ in range(6):
        right = (X[0] @ w).argmax(1) == Y[0]
        if right.mean() <= 1 / 3 + (stop or -1):
            break
        speed = 0.9 * speed - clipped(slope(w, X[0], Y[0]), most)
        w = w - lr * speed
        away = w - reference
        touched |= bool(np.linalg.norm(away) > radius)
        w = reference + away * min(1, radius / np.linalg.norm(away))
    assert touched is (stop == 0 and lr == 3.0)
    options = dict(lr=lr, clip=most, epochs=6, margin=stop or -1.0)
    models, facts = run("pgd", 2, **options)
    close(models, [reference, w, plain_round(w)])
    assert counts(facts) == [[1, 1, 6, 6], OTHERS]


def test_pgd_stops_for_good_where_a_batch_is_near_chance():
    """With momentum: after the first batch that is, nothing moves any more."""
    models, _ = run("pgd", 1, lr=2.0, epochs=40, margin=0.0, clip=5.0)
    right = ((X[0] @ models[1]).argmax(1) == Y[0]).mean()
    assert right <= 1 / 3
    longer, _ = run("pgd", 1, lr=2.0, epochs=60, margin=0.0, clip=5.0)
    close(longer, models)


def test_fedquit():
    """Two steps of Adam towards a teacher whose true class has the least logit."""
    z = X[0] @ W
    wise = z.copy()
    wise[np.arange(3), Y[0]] = z.min(1)
    w, m, v = W.copy(), 0.0, 0.0
    for t in (1, 2):
        g = X[0].T @ (softmax(X[0] @ w) - softmax(wise)) / 3
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
        w = w - 0.01 * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
    models, facts = run("fedquit", 2, lr=0.01, epochs=2)
    close(models, [W, w, plain_round(w)])
    assert counts(facts) == [[1, 1, 2, 2], OTHERS]


def test_anchored():
    """Steps on labels and on the old model's softened answers, which go to the others once."""

    def both(w, k):
        soft = X[k].T @ (softmax(X[k] @ w / 3) - softmax(X[k] @ W / 3)) / SIZES[k]
        # d/dw of T^2 KL: T times the difference of softened answers
        return -RATE * (0.75 * slope(w, X[k], Y[k]) + 0.25 * 3 * soft)

    first = plain_round(-W, {k: both(-W, k) for k in (1, 2)})
    second = plain_round(first, {k: both(first, k) for k in (1, 2)})
    models, facts = run("anchored", 2, temperature=3.0, anchor=0.25)
    close(models, [-W, first, second])
    assert counts(facts) == [[2 + 2, 2, 2, 2], [2, 2, 2, 2]]
    with pytest.raises(ValueError, match=r"anchor is 2.0 and temperature 2.0; .* in \[0, 1\]"):
        run("anchored", 1, anchor=2.0)


@pytest.mark.parametrize("alone", [False, True])
def test_puf(alone):
    target = step_of(W, 0)
    if alone:
        w = W - 2.0 * target
    else:
        w = W + P[1] * step_of(W, 1) + P[2] * step_of(W, 2) - 20.0 * P[0] * target
    models, facts = run("puf", 2, alone=alone)
    close(models, [W, w, plain_round(w)])
    assert counts(facts) == [[1, 1, 1, 0] if alone else [3, 3, 3, 0], OTHERS]


def test_mode():
    """One round that degrades and guides, one that only guides, one of recovery."""

    def guided(w, guide):
        says = (X[0] @ guide).argmax(1)
        return w + P[0] * step_of(w, 0, y=says) + P[1] * step_of(w, 1) + P[2] * step_of(w, 2)

    fresh = plain_round(FRESH)
    first = guided(0.8 * W + 0.2 * fresh, fresh)
    second = guided(first, fresh)
    models, facts = run("mode", 3, lam=0.8, degrade=1, guide=2)
    close(models, [W, first, second, plain_round(second)])
    # M_de to and from two clients and to the target; M to and from all three.
    assert counts(facts) == [[2 + 3 + 1, 2 + 3, 2 + 3, 1], [3 + 1, 3, 3, 1], OTHERS]


def test_mode_guides_those_who_stay_at_a_rate_of_their_own():
    fresh = plain_round(FRESH)
    w, says = 0.8 * W + 0.2 * fresh, (X[0] @ fresh).argmax(1)
    mine, theirs = step_of(w, 0, y=says), [step_of(w, k, rate=0.01) for k in (1, 2)]
    first = w + P[0] * mine + P[1] * theirs[0] + P[2] * theirs[1]
    models, _ = run("mode", 2, lam=0.8, degrade=1, guide=1, stay_lr=0.01)
    close(models, [W, first, plain_round(first)])


def test_fedosd():
    """Two orthogonal steps; then steps that do not lead back to the trained model."""

    def bounded(w):
        p = softmax(X[0] @ w)
        right = p[np.arange(3), Y[0]]
        # d/dz of -log(1 - p_y / 2): (p_y / 2) / (1 - p_y / 2) * (onehot - p)
        factor = right / 2 / (1 - right / 2)
        return X[0].T @ (factor[:, None] * (np.eye(3)[Y[0]] - p)) / 3

    w, expected = W.copy(), [W]
    for _ in range(2):
        g = bounded(w).ravel()
        rows = np.stack([slope(w, X[k], Y[k]).ravel() for k in (1, 2)])
        d = g - rows.T @ np.linalg.pinv(rows @ rows.T) @ rows @ g
        assert np.abs(rows @ d).max() < 1e-12
        assert np.linalg.norm(d) < 0.99 * np.linalg.norm(g)
        w = w - 0.3 * (d * np.linalg.norm(g) / np.linalg.norm(d)).reshape(2, 3)
        expected.append(w)
    for _ in range(2):
        away, steps = (w - W).ravel(), {}
        for k in (1, 2):
            u = step_of(w, k).ravel()
            turned = u - (u @ away) / (away @ away) * away
            steps[k] = (turned * np.linalg.norm(u) / np.linalg.norm(turned)).reshape(2, 3)
        w = plain_round(w, steps)
        expected.append(w)
    models, facts = run("fedosd", 4, lr=0.3, rounds=2)
    close(models, expected, rtol=1e-4)
    assert counts(facts) == [[3, 3, 3, 0]] * 2 + [OTHERS] * 2


def test_fedosd_of_two_that_leave_takes_the_plain_mean():
    """As the authors' code does, whatever the sizes: 3 and 4 examples here."""
    assert SIZES[0] != SIZES[2]

    def bounded(k):
        p = softmax(X[k] @ W)
        right = p[np.arange(SIZES[k]), Y[k]]
        factor = right / 2 / (1 - right / 2)
        return X[k].T @ (factor[:, None] * (np.eye(3)[Y[k]] - p)) / SIZES[k]

    g = (bounded(0) + bounded(2)).ravel() / 2
    row = slope(W, X[1], Y[1]).ravel()
    d = g - (row @ g) / (row @ row) * row
    w = W - 0.3 * (d * np.linalg.norm(g) / np.linalg.norm(d)).reshape(2, 3)
    models, _ = run("fedosd", 1, lr=0.3, rounds=1, forget=(0, 2))
    close(models, [W, w], rtol=1e-4)


def test_federaser():
    """Five stored rounds, every second one replayed: 0 as it is, 2 and 4 calibrated."""
    stay = SIZES[1] + SIZES[2]
    w = START + (SIZES[1] * FIRST[1] + SIZES[2] * FIRST[2]) / stay
    expected = [w]
    for t in (2, 4):
        steps = {}
        for k in (1, 2):
            new = step_of(w, k)
            steps[k] = NORMS[t, k] * new / np.linalg.norm(new)
        w = plain_round(w, steps)
        expected.append(w)
    models, facts = run("federaser", 3)
    close(models, [*expected, plain_round(w)])
    assert counts(facts) == [OTHERS] * 3


@pytest.mark.parametrize(("within", "replayed"), [(1, 1), (2, 2), (3, 2), (9, 2)])
def test_federasers_replay_fits_the_rounds_there_are(within, replayed):
    """Of the five rounds: one and one more, or every second."""
    models, _ = run("federaser", 3, within=within)
    lengths = []
    for before, after in zip(models[:-1], models[1:], strict=True):
        share = (SIZES[1] * step_of(before, 1) + SIZES[2] * step_of(before, 2)) / 6
        lengths.append(np.allclose(after - before, share, atol=1e-5))
    assert lengths == [False] * replayed + [True] * (3 - replayed)


def test_federaser_counts_those_who_took_part():
    """Client 1 missed the first round: its update is zeros and its weight does not count."""
    missed = NORMS.copy()
    missed[0, 1] = 0
    models, _ = run("federaser", 0, norms=missed)
    close(models, [START + FIRST[2]])


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("mode", dict(guide=0), "must be one guided"),
        ("mode", dict(degrade=3, guide=2), "no more that degrade"),
        ("federaser", dict(interval=0), "must be at least 1"),
        ("fcu", dict(every=11, iterations=10), "every must lie between 1 and iterations"),
        ("fcu", dict(low="high"), "low is 'high'; it must be 'original' or 'unlearned'"),
        ("fcu", dict(tau=0.0), "the one must be above 0"),
        ("fcu", dict(ratio=1.5), r"the other lie in \[0, 1\]"),
        ("pgd", dict(draws=0), "it must be 1 at least"),
        ("fukd", dict(temperature=0.0), "it must be above 0"),
        ("mode", dict(lam=1.2), r"in \[0, 1\]"),
    ],
)
def test_options_that_cannot_be(name, options, message):
    with pytest.raises(ValueError, match=message):
        run(name, 0, model=MODEL._replace(features=lambda v, x: x), **options)


def test_fedosd_recovers_in_the_federation_that_is_given():
    """Its server and its sampling; and a client that keeps some sends two steps."""
    made = []

    def around(work):
        fed = jfu.fedavg(work, server=optax.sgd(0.5))
        made.append(fed)
        return fed

    models, _ = run("fedosd", 2, lr=0.3, rounds=1, around=around)
    plain, _ = run("fedosd", 2, lr=0.3, rounds=1)
    close([models[2] - models[1]], [(plain[2] - plain[1]) / 2], rtol=1e-4)
    assert made


def test_fukd():
    """The target's sum taken out, then five steps of distillation with momentum."""
    w, speed = W - SUMS[0].astype(float), 0.0
    x = PROXY.astype(float)
    teacher = softmax(x @ W / 3.0)
    for _ in range(5):
        # d/dw of 9 KL(teacher || softmax(z / 3)): the 9 and one 3 leave a factor 3
        speed = 0.9 * speed + 3.0 * x.T @ (softmax(x @ w / 3.0) - teacher) / len(x)
        w = w - 0.1 * speed
    models, facts = run("fukd", 1, lr=0.1, epochs=5, batch_size=6)
    close(models, [w, plain_round(w)])
    assert counts(facts) == [OTHERS]
    setting = Setting(jfu.fedavg(trainer(MODEL)()), MODEL, None, proxy=PROXY, batch_size=3)
    assert UNLEARNERS["fukd"](setting).server == (10 * 2, 10 * 2)


# FCU wants features: two layers, h = x @ a.
A = DRAW.normal(size=(2, 4)).astype(np.float32).astype(float)
B = DRAW.normal(size=(4, 3)).astype(np.float32).astype(float)
FRESH_A = DRAW.normal(size=(2, 4)).astype(np.float32).astype(float)


def test_fcu():
    """Two blocks of three steps of Adam, each followed by the restoring of frequencies."""

    def contrast(a):
        unit = lambda h: h / np.linalg.norm(h, axis=1, keepdims=True)
        h, old, new = (unit(X[0] @ m) for m in (a, A, FRESH_A))
        s0, s1 = (h * old).sum(1), (h * new).sum(1)
        away, towards = np.exp(s0 / 0.5), np.exp(s1 / 0.5)
        return -np.log(towards / (towards + away)).mean()

    def restored(old, new):
        before, after = np.fft.fft2(old), np.fft.fft2(new)
        # 2 x 4: frequencies 0 of 0, -1 and 0, +1, -1 of 0, +1, -2, -1 are within a half.
        low = np.zeros(old.shape, bool)
        low[0, [0, 1, -1]] = True
        mixed = np.where(low, np.abs(before), np.abs(after)) * np.exp(1j * np.angle(before))
        return np.fft.ifft2(mixed).real

    a, m, v, t = A.copy(), 0.0, 0.0, 0
    for _ in range(2):
        for _ in range(3):
            t += 1
            g = np.zeros_like(a)
            for i in np.ndindex(a.shape):
                d = np.zeros_like(a)
                d[i] = 1e-5
                g[i] = (contrast(a + d) - contrast(a - d)) / 2e-5
            g = g + 5e-4 * a
            m, v = 0.9 * m + 0.1 * g, 0.9999 * v + 0.0001 * g * g
            a = a - 0.05 * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.9999**t)) + 1e-8)
        a = restored(A, a)
    assert np.abs(a - A).max() > 0.02

    def logits(variables, x, **_):
        return x @ variables["params"]["stem"]["kernel"] @ variables["params"]["head"]["kernel"], {}

    tree = lambda a: {"stem": {"kernel": jnp.asarray(a)}, "head": {"kernel": jnp.asarray(B)}}
    single = lambda a: jax.tree.map(lambda p: p.astype(jnp.float32), tree(a))
    features = lambda variables, x: x @ variables["params"]["stem"]["kernel"]
    model = jfu.Model(
        lambda key: {"params": single(FRESH_A)}, logits, ("stem", "head"), features=features
    )
    options = dict(lr=0.05, iterations=6, every=3)
    models, facts = run("fcu", 1, trained=single(A), model=model, **options)
    np.testing.assert_allclose(models[1]["stem"]["kernel"], a, rtol=1e-3, atol=1e-4)
    assert counts(facts) == [[1, 1, 6, 12]]


def test_frequencies_of_a_convolution():
    """Kernels of 3x3 with 2 inputs and 3 outputs lie as [in * h, w * out]; all else is restored."""
    rng = np.random.default_rng(3)
    old, new = ({"kernel": rng.normal(size=(3, 3, 2, 3)), "bias": rng.normal(size=3)} for _ in "ab")
    single = lambda tree: jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), tree)
    mixed = fused(single(old), single(new), 0.5, "unlearned")
    np.testing.assert_allclose(mixed["bias"], old["bias"], rtol=1e-6)
    matrix = lambda k: np.array([[k[h, w, i, o] for w in range(3) for o in range(3)]
                                 for i in range(2) for h in range(3)])  # fmt: skip
    spectra = [np.fft.fftshift(np.fft.fft2(matrix(t["kernel"]))) for t in (old, new)]
    low = np.asarray(box((6, 9), 0.5))
    assert low.sum() == 3 * 5 and low[3, 4]
    amplitude = np.where(low, np.abs(spectra[1]), np.abs(spectra[0]))
    expected = np.fft.ifft2(np.fft.ifftshift(amplitude * np.exp(1j * np.angle(spectra[0]))))
    np.testing.assert_allclose(matrix(np.asarray(mixed["kernel"])), expected.real, atol=1e-5)
    same = fused(single(old), single(old), 0.5, "original")
    np.testing.assert_allclose(same["kernel"], old["kernel"], atol=1e-5)
