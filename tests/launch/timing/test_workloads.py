"""The jobs as they are written down, against NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from launch.timing import workloads


def test_the_jobs_are_as_they_are_written_down():
    """Sizes, parameters and first weights; the last line from the numbers' definition."""
    assert workloads.WORKLOADS["mlp"][:3] == (100, 60, (28, 28, 1))
    assert workloads.WORKLOADS["cnn"][:3] == (10, 600, (28, 28, 1))
    assert all(w[3:] == (32, 0.01, 0.9) for w in workloads.WORKLOADS.values())
    counts = {"mlp": 199_210, "cnn": 1_663_370}
    for name, count in counts.items():
        made = workloads.weights(name)
        assert sum(a.size for layer in made.values() for a in layer.values()) == count
        model = workloads.model(name, workloads.WORKLOADS[name])
        assert model.layers == tuple(made)
    rng = np.random.RandomState(1)
    kernel = rng.uniform(-1, 1, (784, 200)).astype(np.float32) / np.float32(28)
    np.testing.assert_array_equal(workloads.weights("mlp")["stem"]["kernel"], kernel)


def test_the_data_is_noise_round_patterns():
    small = workloads.Workload(3, 400, (28, 28, 1))
    x, y = workloads.data("mlp", small)
    assert x.dtype == np.float32 and x.shape == (3, 400, 28, 28, 1) and y.shape == (3, 400)
    patterns = np.random.RandomState(0).randn(10, 28, 28, 1).astype(np.float32)
    flat, labels = x.reshape(1200, -1), y.reshape(-1)
    for label in range(10):
        mean = flat[labels == label].mean(0)
        slope = mean @ patterns[label].ravel() / (patterns[label] ** 2).sum()
        assert slope == pytest.approx(0.3, abs=0.03)
    x, _ = workloads.data("resnet18", workloads.Workload(2, 5, (32, 32, 3)))
    assert x.dtype == np.uint8 and x.shape == (2, 5, 32, 32, 3)


def test_the_cnn_in_numpy():
    """Two SAME convolutions of 5x5, each pooled, in float64."""
    job = workloads.Workload(1, 2, (28, 28, 1))
    x, _ = workloads.data("cnn", job)
    model, w = workloads.model("cnn", job), workloads.weights("cnn")
    found, _ = model.apply({"params": jax.tree.map(jnp.asarray, w)}, x[0])
    a = x[0].astype(np.float64)
    for name in "stem", "conv2":
        high, wide = a.shape[1:3]
        a = np.pad(a, ((0, 0), (2, 2), (2, 2), (0, 0)))
        kernel = w[name]["kernel"].astype(np.float64)
        a = sum(a[:, i : i + high, j : j + wide] @ kernel[i, j] for i in range(5) for j in range(5))
        a = np.maximum(a, 0).reshape(2, high // 2, 2, wide // 2, 2, -1).max((2, 4))
    a = np.maximum(a.reshape(2, -1) @ w["hidden"]["kernel"], 0) @ w["head"]["kernel"]
    np.testing.assert_allclose(found, a, atol=1e-4)
