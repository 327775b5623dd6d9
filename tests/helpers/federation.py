"""A small federation's rows and network in plain JAX, and how numbers are compared."""

import jax
import jax.numpy as jnp
import numpy as np

import jfu

ROWS = ([4, 0, 9, 2, 11, 7, 5], [1, 8, 3], [6, 10, 12, 13, 15])  # row 14 and those from 16 are free


def bits(tree):
    """Every leaf as its bytes, so that -0.0 differs from 0.0 and NaN equals itself."""
    return jax.tree.map(lambda a: np.asarray(a).tobytes(), tree)


def network(features=2, width=5, classes=3, activation=jnp.tanh):
    """Two dense layers, called stem then head."""

    def dense(layer, x):
        return x @ layer["kernel"] + layer["bias"][None]

    def init(key):
        stem, head = jax.random.split(key)
        draw = lambda key, n, m: {
            "kernel": jax.random.normal(key, (n, m)) / np.sqrt(n),
            "bias": jax.random.normal(jax.random.fold_in(key, 1), (m,)) / 10,
        }
        return {"params": {"stem": draw(stem, features, width), "head": draw(head, width, classes)}}

    def apply(variables, x, *, train=False, mask=None, key=None):
        params = variables["params"]
        return dense(params["head"], activation(dense(params["stem"], x))), {}

    def hidden(variables, x):
        return activation(dense(variables["params"]["stem"], x))

    def both(variables, x, *, train=False, mask=None, key=None):
        z = hidden(variables, x)
        return dense(variables["params"]["head"], z), z, {}

    def outputs(variables, x):
        params = variables["params"]
        stem = dense(params["stem"], x)
        return {"stem": stem, "head": dense(params["head"], activation(stem))}

    return jfu.Model(
        init,
        apply,
        ("stem", "head"),
        features=hidden,
        outputs=outputs,
        cuts=lambda: (("stem",), ("head",)),
        apply_features=both,
    )


def sends(updates, stats=None):
    """A client function that sends row ``id`` of ``updates``, with its live examples as weight."""

    def work(shared, client, key):
        weight = client.mask.sum().astype(jnp.float32)
        sent = {"params": updates[client.id]}
        if stats is not None:
            sent["stats"] = stats[client.id]
        return sent, jfu.LocalInfo(weight, weight * 0, weight, weight * 0)

    return work
