"""What each of two hosts does in the tests of launch.shell.hosts, and what the hosts share."""

import json
import re
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jfu

# Rows of a pool of twelve that five clients hold: the first three are the first device's of two.
HELD = [[0, 4, 2], [7], [2, 9], [1, 3, 5, 10], [11, 6]]


def federation():
    """``(fed, variables, clients, apply)``: softmax regression with an augmentation."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(12, 3)).astype(np.float32), np.arange(12) % 3
    apply = lambda variables, x, **_: (x @ variables["params"], {})
    work = jfu.local_sgd(
        jfu.classification(apply),
        optax.sgd(0.5),
        batch_size=2,
        augment=lambda key, x: x * jax.random.uniform(key),
    )
    return jfu.fedavg(work), {"params": jnp.eye(3)}, jfu.stack(x, y, HELD), apply


def collectives(fn, *args):
    text = jax.jit(fn).lower(*args).compile().as_text()
    return re.findall(r" (all-\w+|reduce-scatter|collective-\w+)(?:-start)?\(", text)


def dataset(change=None, rows=12):
    """A data set whose training examples are read by row, one of which may be another."""
    from jfu.data import Dataset
    from jfu.data.rows import Rows

    x = np.arange(24, dtype=np.uint8).reshape(12, 2)
    if change is not None:
        x[change, 1] += 1
    lazy, y = Rows(lambda ids: x[ids], np.arange(rows), (2,), x.dtype), np.arange(rows) % 3
    return Dataset(lazy, y.astype(np.int32), x[:4], y[:4].astype(np.int32), ("a", "b", "c"))


def main(port: str, host: str, devices: str, folder: str) -> None:
    """One host: a round, an evaluation, and what hosts send one another, into FOLDER/HOST.*"""
    from jfu.data.rows import Rows
    from jfu.evaluation import dealt
    from launch.setup import identity
    from launch.shell import hosts, joining
    from launch.shell.devices import compiled, place

    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jfu.cpu_devices(int(devices))
    jax.distributed.initialize(
        f"127.0.0.1:{port}", 2, int(host), cluster_detection_method="deactivate"
    )
    mesh = jfu.clients_mesh()
    with jax.set_mesh(mesh):
        with hosts.aside():
            fed, variables, clients, apply = federation()
            variables = jax.tree.map(np.asarray, variables)
        read, pool = set(), np.asarray(clients.x)

        def some(ids):
            read.update(ids.tolist())
            return pool[ids]

        clients = clients._replace(x=Rows(some, np.arange(12), (3,), pool.dtype))
        apart, key = jfu.spread(clients), jax.random.key(3)
        state = fed.init(place(variables))
        new, info = jax.jit(fed.round)(state, apart, key)
        arrays, where = dealt((clients.x, np.asarray(clients.y)), clients)
        loss, _ = compiled(jfu.per_example(apply, batch_size=2))(new.variables, *arrays)
        found = collectives(fed.round, state, apart, key)
    mine = dict(
        params=new.variables["params"],
        weight=info.clients.weight,
        client_loss=info.clients.loss,
        loss=np.asarray(loss)[where],
        shards=[s.data for s in apart.x.addressable_shards],
        judged=[s.data for s in arrays[0].addressable_shards],
    )
    facts = dict(
        read=sorted(read), collectives=found, devices=len(jax.devices()), first=hosts.first()
    )
    facts["agreed"] = hosts.agreed(lambda: ["said by", host])
    with open(f"{folder}/{host}-only", "wb") as file:
        file.write(f"from {host}".encode() * 100)
    file = hosts.opened(f"{folder}/{host}-only")
    facts["opened"] = [file.name[-6:], file.read().decode()]
    facts["digest"] = identity.of_data(dataset())
    facts["errors"] = []
    for fails in (
        lambda: hosts.together(lambda: int("x" if host == "1" else "0")),
        lambda: hosts.agreed(lambda: int("y" if host == "0" else "0")),
        lambda: hosts.opened("/nowhere/at/all"),
        lambda: joining.same(dict(rounds=7 + int(host), lr=1)),
        lambda: joining.same_software(dict(numpy="2", jax_enable_x64=host == "1")),
        lambda: identity.of_data(dataset(rows=12 - int(host))),
        lambda: identity.of_data(dataset(change=9 if host == "1" else None)),
        lambda: identity.of_data(dataset(change=5 if host == "0" else None)),
        lambda: identity.of_data(dataset()._replace(client=np.arange(12) + int(host))),
        lambda: identity.same_draws_on_hosts({3: identity.Draws(host, None)}),
    ):
        try:
            fails()
        except ValueError as error:
            facts["errors"].append(str(error))
    np.savez(f"{folder}/{host}.npz", **{n: np.asarray(a) for n, a in mine.items()})
    with open(f"{folder}/{host}.json", "w") as file:
        json.dump(facts, file)
    joining.leave()


if __name__ == "__main__":
    main(*sys.argv[1:])
