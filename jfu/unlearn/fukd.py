"""FUKD: subtract the leaving client's updates, then distil from the old model.

    w' = w - sum_t p_u^t D_u^t                      D_u^t: its update of round t
    minimise T^2 KL( softmax(z_w(x) / T) || softmax(z_w'(x) / T) )

over unlabelled images x at the server. No client takes part. Rounds of ``fed`` follow.

Wu, Zhu, Mitra. Federated Unlearning with Knowledge Distillation. 2022, arXiv 2201.09441.

Only the running sum of each client's updates is stored. The weight ``p_u^t`` is a share of the
clients that took part in round t. The paper gives neither the temperature nor the learning rate.
The sum is exactly what the client contributed only for plain averaging (server SGD, rate 1).
"""

import jax
import jax.numpy as jnp
import optax

from jfu.stacking import weights
from jfu.sums import plus, wide
from jfu.types import (
    FederatedAlgorithm,
    Key,
    Model,
    Needs,
    Params,
    ServerWork,
    Split,
    Trained,
    Unlearner,
    Variables,
    check_counts,
    check_numbers,
)
from jfu.unlearn.finetune import finetune


def fukd(
    fed: FederatedAlgorithm,
    model: Model,
    proxy: jax.Array,
    *,
    temperature: float = 3.0,
    lr: float = 0.01,
    momentum: float = 0.9,
    epochs: int = 10,
    batch_size: int = 32,
) -> Unlearner:
    """Subtraction and distillation at the server, then rounds of ``fed``.

    Args:
      proxy: unlabelled examples at the server ``[P, ...]``, P at least ``batch_size``.
      temperature: T, softens the predictions of teacher and student.
      lr, momentum, epochs: of the student's SGD.

    Raises:
      ValueError: there are fewer proxy examples than ``batch_size``.

    >>> fukd(fed, model, np.zeros((64, 4, 4, 1), np.uint8), epochs=10).server
    ServerWork(steps=20, forwards=20)
    """
    check_numbers("fukd", "(0, inf)", temperature=temperature)
    check_numbers("fukd", "[0, inf)", lr=lr)
    check_numbers("fukd", "[0, 1)", momentum=momentum)
    check_counts("fukd", 0, epochs=epochs)
    check_counts("fukd", 1, batch_size=batch_size)
    if len(proxy) < batch_size:
        raise ValueError(
            f"fukd has {len(proxy)} images and batches of {batch_size}; it needs at least one "
            "batch, so give more images (--proxy) or make batches smaller"
        )
    steps = epochs * (len(proxy) // batch_size)

    def perturb(trained, request, key):
        student = {**trained.variables, "params": subtracted(trained, request)}
        return fed.init(distilled(student, trained.variables, key))

    def distilled(student: Variables, teacher: Variables, key: Key) -> Variables:
        images, optimizer = jnp.asarray(proxy), optax.sgd(lr, momentum)
        params, rest = student["params"], {k: v for k, v in student.items() if k != "params"}
        each = len(images) // batch_size

        def step(i, carry):
            params, memory = carry
            order = jax.random.permutation(jax.random.fold_in(key, i // each), len(images))
            rows = jax.lax.dynamic_slice(order, (i % each * batch_size,), (batch_size,))
            soft = lambda v: model.apply(v, images[rows])[0] / temperature

            def loss(params):
                taught, own = jax.nn.softmax(soft(teacher)), soft({**rest, "params": params})
                return temperature**2 * optax.kl_divergence(jax.nn.log_softmax(own), taught).mean()

            change, memory = optimizer.update(jax.grad(loss)(params), memory, params)
            return optax.apply_updates(params, change), memory

        params, _ = jax.lax.fori_loop(0, steps, step, (params, optimizer.init(params)))
        return {**rest, "params": params}

    needs = Needs(history=("sums",), per_client=True, proxy_data=True, whole_clients=True)
    work = ServerWork(steps=steps, forwards=steps)
    return finetune(fed)._replace(perturb=perturb, needs=needs, server=work)


def subtracted(trained: Trained, request: Split) -> Params:
    """The parameters as if the leaving clients had sent zeros."""
    gone = weights(request.forget) > 0
    theirs = lambda s: -jnp.tensordot(gone.astype(s.dtype), s, 1)
    return plus(trained.variables["params"], jax.tree.map(theirs, wide(trained.history["sums"])))
