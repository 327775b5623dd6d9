"""What is known of the jobs without an accelerator: operations, bytes, and the lowered programs.

  python -m launch.timing.accelerator.lowered launch/results/lowered-cpu.jsonl

``step`` rows have XLA's own count of one local step (loss, gradient, SGD with momentum) in a
program compiled for CPU, with stock convolutions: operations, bytes read and written, and the
kernels of the program. ``round`` rows have what is in the whole round as JAX lowers it for CUDA or
TPU (``jax.export``), before XLA optimises it. Nothing is run.
"""

import re
import sys
from collections.abc import Iterator
from typing import Any, NamedTuple

from launch.timing import workloads
from launch.timing.accelerator import files, jobs

KEY = ("what", "job", "workload", "strategy", "batch_size", "precision", "platform")
PLATFORMS = ("cuda", "tpu")


class Op(NamedTuple):
    """An operation of a lowered program."""

    name: str
    line: str
    depth: int  # loops round it, counting those round calls of its function


def operations(text: str) -> list[Op]:
    """The operations of a StableHLO program, with how many loops are round each.

    A function that is called at several depths counts at the largest.

    >>> text = '''
    ... func.func public @main(%arg0: tensor<f32>) -> tensor<f32> {
    ...   %0 = stablehlo.while(%i = %arg0) : tensor<f32>
    ...    cond {
    ...     stablehlo.return %c : tensor<i1>
    ...   } do {
    ...     %1 = func.call @f(%i) : (tensor<f32>) -> tensor<f32>
    ...     stablehlo.return %1 : tensor<f32>
    ...   }
    ...   return %0 : tensor<f32>
    ... }
    ... func.func private @f(%arg0: tensor<f32>) -> tensor<f32> {
    ...   %0 = "stablehlo.gather"(%arg0) : (tensor<f32>) -> tensor<f32>
    ...   return %0 : tensor<f32>
    ... }
    ... '''
    >>> [(op.name, op.depth) for op in operations(text) if op.name in ("while", "gather")]
    [('while', 0), ('gather', 1)]
    """
    inside = dict(_by_function(text))
    depths = {"main": 0}
    waiting = ["main"]
    while waiting:  # calls form no circle, so this ends
        name = waiting.pop()
        for op in inside.get(name, ()):
            called = re.search(r"call @([\w.]+)", op.line)
            if called and depths.get(called[1], -1) < depths[name] + op.depth:
                depths[called[1]] = depths[name] + op.depth
                waiting.append(called[1])
    return [
        op._replace(depth=op.depth + depths[name])
        for name, ops in inside.items()
        if name in depths
        for op in ops
    ]


def _by_function(text: str) -> Iterator[tuple[str, list[Op]]]:
    """Each function's operations, with the loops round them inside the function."""
    name, found, blocks = "", [], []
    for line in text.splitlines():
        line = line.strip()
        if begun := re.match(r"func\.func .*?@([\w.]+)\(", line):
            name, found, blocks = begun[1], [], []
            continue
        if line.startswith("}") and blocks:
            blocks.pop()
        elif line.startswith("}") and name:
            yield name, found
            name = ""
        if operation := re.search(r"(?:stablehlo|chlo|func)\.(\w+)", line):
            found.append(Op(operation[1], line, blocks.count("loop")))
        elif called := re.search(r"= call @", line):
            found.append(Op("call", line[called.start() :], blocks.count("loop")))
        if line.endswith("{"):
            loop = line in ("cond {", "} do {")
            blocks.append("loop" if loop else "other")


def findings(text: str) -> dict[str, Any]:
    """Counts of what is known to be slow on accelerators, in a lowered program."""
    found = operations(text)
    named = lambda *names: [op for op in found if op.name in names]
    groups = [int(n) for n in re.findall(r"(?:feature|batch)_group_count = (\d+)", text)]
    grouped = [n for n in groups if n > 1]
    targets = sorted(set(re.findall(r"custom_call @([\w.]+)", text)))
    hosts = [name for name in targets if "callback" in name or "host" in name.lower()]
    loops = named("gather", "dynamic_gather")
    return dict(
        convolutions=len(named("convolution")),
        grouped=len(grouped),
        groups=max(grouped, default=1),
        products=len(named("dot_general")),
        gathers=len(loops),
        gathers_in_loops=sum(op.depth > 0 for op in loops),
        deepest=max((op.depth for op in found), default=0),
        host_transfers=len(named("infeed", "outfeed", "send", "recv")) + len(hosts),
        float64=len(re.findall(r"[x<]f64>", text)),
        custom_calls=targets,
    )


def lowered(name: str, strategy: str, size: int, precision: str, platform: str) -> str:
    """A job's round as StableHLO for a platform, from shapes alone."""
    import jax
    import numpy as np
    import optax
    from jax import export

    import jfu
    from jfu import models

    job = jobs.JOBS[name]
    chunk, convolution = workloads.strategy(strategy)[1:]
    model = models.at_precision(jobs.network(job, convolution, False), precision)
    optimizer = optax.sgd(job.sizes.lr, job.sizes.momentum)
    local = jfu.local_sgd(jfu.classification(model.apply), optimizer, batch_size=size)
    fed = jfu.fedavg(local, chunk=chunk)
    many, each = job.sizes.clients, job.sizes.examples
    rows = np.arange(many)[:, None]
    small = jfu.stack(np.zeros((many, *job.sizes.shape), np.uint8), np.zeros(many, np.int32), rows)
    shaped = lambda a, *shape: jax.ShapeDtypeStruct(shape, a.dtype)
    clients = small._replace(
        x=shaped(small.x, many * each, *job.sizes.shape),
        y=shaped(small.y, many * each),
        index=shaped(small.index, many, each),
        mask=shaped(small.mask, many, each),
    )
    clients = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), clients)
    state = jax.eval_shape(lambda key: fed.init(model.init(key)), jax.random.key(0))
    key = jax.eval_shape(lambda: jax.random.key(0))
    return export.export(jax.jit(fed.round), platforms=[platform])(
        state, clients, key
    ).mlir_module()


def step(workload: str, size: int) -> dict[str, Any]:
    """XLA's analysis of one local step, compiled for CPU."""
    import jax
    import optax

    import jfu
    from jfu.costs import entries

    job = next(job for job in jobs.JOBS.values() if job.workload == workload)
    model = jobs.network(job, "stock", False)
    optimizer = optax.sgd(job.sizes.lr, job.sizes.momentum)
    loss = jfu.classification(model.apply)
    batch = jobs.batch(job, size)
    variables = jax.eval_shape(model.init, jax.random.key(0))
    params = variables["params"]
    memory = jax.eval_shape(optimizer.init, params)

    def one(params, memory, batch, key):
        value = lambda p: jax.tree.leaves(loss({"params": p}, batch, key))[0]
        change, memory = optimizer.update(jax.grad(value)(params), memory, params)
        return optax.apply_updates(params, change), memory

    run = jax.jit(one, donate_argnums=(0, 1))
    key = jax.eval_shape(lambda: jax.random.key(0))
    program = run.lower(params, memory, batch, key).compile()
    costs = program.cost_analysis() or {}
    entry = program.as_text().split("ENTRY ")[-1].split("\n}")[0]
    kernels = len(re.findall(r" (?:fusion|convolution|dot|custom-call|reduce|call)\(", entry))
    return dict(
        parameters=entries(variables),
        gflop=costs["flops"] / 1e9,
        gigabytes=costs["bytes accessed"] / 1e9,
        kernels=kernels,
        jax=jax.__version__,
    )


def questions() -> Iterator[dict[str, Any]]:
    """Every row's key."""
    empty = dict.fromkeys(KEY)
    sizes = {(job.workload, job.sizes.batch_size): None for job in jobs.JOBS.values()}
    for workload, size in sizes:
        yield empty | dict(what="step", workload=workload, batch_size=size)
    for platform in PLATFORMS:
        for name, job in jobs.JOBS.items():
            if job.sizes.clients == 100 and "vit_base" in name:
                continue  # the chunks of ten clients, more of them
            for strategy, size in job.strategies:
                for precision in jobs.PRECISIONS[: 2 if platform == "cuda" else 1]:
                    if size == jobs.LARGE or (precision == "bf16" and strategy != "1x0"):
                        continue
                    row = dict(what="round", job=name, workload=job.workload, precision=precision)
                    yield empty | row | dict(strategy=strategy, batch_size=size, platform=platform)


def main(path: str) -> None:
    """Adds every row that the file does not have yet."""
    there = {tuple(row[name] for name in KEY) for row in files.read(path)}
    for key in questions():
        if tuple(key.values()) in there:
            continue
        if key["what"] == "step":
            found = step(key["workload"], key["batch_size"])
        else:
            names = ("strategy", "batch_size", "precision", "platform")
            found = findings(lowered(key["job"], *(key[name] for name in names)))
        files.add(path, key | found, KEY)
        print(
            key["what"], key["job"] or key["workload"], key["strategy"], key["platform"], flush=True
        )


if __name__ == "__main__":
    main(sys.argv[1])
