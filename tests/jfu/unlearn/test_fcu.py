"""FCU against its formula."""

import jax
import jax.numpy as jnp
import numpy as np

import jfu
from helpers.rivals import (
    DRAW,
    X,
    counts,
    run,
)
from jfu.unlearn.fcu import box, fused

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
