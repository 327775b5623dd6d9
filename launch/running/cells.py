"""Running one cell: train or unlearn, evaluate, checkpoint, and go on where it stopped.

Compiled programs hold no data. ``--compilation_cache`` keeps what XLA made of shapes; a program
that arrays were written into, as FUKD's images are, is compiled and not kept (``holds_data``). The
programs of an audit's shadows hold the numbers of the rows that were to be forgotten, no examples.
"""

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import jax
import numpy as np

import jfu
import jfu.history
from jfu.conv import slow_convs
from jfu.evaluation import measures_of
from jfu.faults import REASONS
from jfu.results import as_original
from launch.setup import keys, private
from launch.setup.study import Study
from launch.setup.trial import Trial
from launch.shell import hosts
from launch.shell.devices import place
from launch.shell.entry import OutOfTime
from launch.shell.say import say
from launch.workdir import secret
from launch.workdir.workdir import WorkDir, cell_notes, read_cell, write_cell

# Why clients were left out, and rounds whose mean was not finite: in rows where there are any.
FAILURES = (*REASONS, "not_applied")

LARGE = 512  # values of an array that may be data; fewer are constants of a formula

# Measures in the lines of progress.
SHOWN = dict(retain="retain", forget="forget", test="test", asr="backdoor")


class Programs:
    """Compiled functions by what they were made from: rounds are compiled once for all cells."""

    def __init__(self):
        self._compiled: dict[Any, Callable] = {}

    def __call__(
        self, fn: Callable, *args, donate: tuple[int, ...] = (), quick: bool = False
    ) -> Callable:
        """``fn`` compiled for these arguments; ``quick`` where it runs once and is small."""
        shapes = jax.tree.map(lambda a: (a.shape, str(a.dtype)), args)
        signature = (fn, tuple(jax.tree.leaves(shapes)), jax.tree.structure(args))
        if signature not in self._compiled:
            mesh = jax.sharding.get_mesh()
            sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
            options = {} if mesh.empty else dict(out_shardings=sharding)
            if quick:
                options["compiler_options"] = {"xla_backend_optimization_level": 0}
            traced = looked_at(jax.jit(fn, donate_argnums=donate, **options).trace(*args))
            with not_kept() if holds_data(traced.jaxpr) else contextlib.nullcontext():
                self._compiled[signature] = traced.lower().compile()
        return self._compiled[signature]


def holds_data(closed: Any) -> bool:
    """Whether a program holds arrays itself, as one that a method's images were written into.

    >>> images = np.zeros((64, 8, 8))
    >>> holds_data(jax.make_jaxpr(lambda x: x * images.sum())(1.0))
    False
    >>> holds_data(jax.make_jaxpr(jax.jit(lambda x: x * jnp.asarray(images).sum()))(1.0))
    True
    """
    inside = [closed]
    while inside:
        one = inside.pop()
        if any(np.size(value) >= LARGE for value in getattr(one, "consts", ())):
            return True
        for eqn in one.eqns:
            parts = [part for value in eqn.params.values() for part in (value, *_items(value))]
            inside += [part for part in parts if hasattr(part, "eqns")]
    return False


def _items(value: Any) -> tuple:
    return tuple(value) if isinstance(value, tuple | list) else ()


@contextlib.contextmanager
def not_kept() -> Iterator[None]:
    """While this lasts no program is written into --compilation_cache."""
    name = "jax_persistent_cache_min_compile_time_secs"
    least = getattr(jax.config, name)
    jax.config.update(name, math.inf)
    try:
        yield
    finally:
        jax.config.update(name, least)


def looked_at(traced: jax.stages.Traced) -> jax.stages.Traced:
    """The same; convolutions in it that a CPU would run slowly are told."""
    if jax.default_backend() == "cpu":
        for text in dict.fromkeys(slow_convs(traced.jaxpr)):
            say(f"note: {text}")
    return traced


def run_cell(
    work: WorkDir,
    study: Study,
    trial: Trial,
    name: str,
    method: jfu.Unlearner,
    trained: jfu.Trained,
    request: jfu.Split,
    budget: int,
    programs: Programs,
    *,
    checkpoint_every: int,
    deadline: float = math.inf,
    quiet: bool = False,
    enough: float | None = None,
) -> tuple[Any, list[dict]]:
    """Runs or continues one cell to its last round.

    Args:
      budget: rounds after ``perturb``.
      deadline: no round is begun that would end later if it took as long as the last one.
      quiet: evaluates the last round only (training before the request).
      enough: stops at the first evaluated round with this retained accuracy.

    Returns:
      ``(state, rows)``: the last state and one row an evaluated round, round 0 among them.

    Raises:
      OutOfTime: rounds are left at the deadline, and there is a checkpoint. A call that finds a
        round to run runs one.
    """
    fresh = method in (study.fresh, study.train)
    if fresh:  # it looks at no model: one program for training and retraining
        trained = jfu.Trained(())
    else:
        held = jfu.history.needed(trained.history, method.needs.history)
        trained = jfu.Trained(trained.variables, held)
    storage = jfu.nbytes(trained.history)
    stream = keys.run(trial.key, name, study.config.past)
    stream = private.apart(stream, study.config, name)
    told = private.account(study.config, trial, name, request)
    planned = private.planned(study.config, study, request.retain, name)
    perturb_key, rounds_key = place(tuple(jax.random.split(stream)))
    like = jax.eval_shape(method.perturb, trained, request, perturb_key)
    if kept := kept_cell(work, trial, name, like):
        state, notes = kept
        state, rows, spent = place(state), notes["rows"], notes["spent"]
        if notes["round"] == budget or notes.get("finished"):
            secret.forget(work.path, trial.seed, name)
            return state, rows
        done = notes["round"]
    else:
        perturb = programs(method.perturb, trained, request, perturb_key, quick=fresh)
        began = time.perf_counter()
        state = jax.block_until_ready(perturb(trained, request, perturb_key))
        seconds = time.perf_counter() - began
        spent = dict(bytes_down=0, bytes_up=0, flops=0.0, seconds=seconds, left_out=0)
        spent |= dict.fromkeys(FAILURES, 0)
        spent["flops"] += method.server.steps * study.per_step
        spent["flops"] += method.server.forwards * study.per_forward
        rows, done = [], 0
        if name in jfu.unlearn.PERTURBING:
            some = place(study.dataset.x_test[:64])
            jfu.check_changed(study.logits, trained.variables, state.variables, some)
        if not quiet or budget == 0:
            start = row(study, trial, name, 0, state, spent, storage, told, attack=True)
            rows.append(start.result())
    if budget > done and private.is_secret(study.config):
        given = work, trial.seed, name, trained.variables, request
        rounds_key = secret.key(*given, begun=done > 0)
    if budget > done:
        step = programs(method.recover, state, request, rounds_key, donate=(0,))
    else:
        step = method.recover  # of which no round is left
    began = last = turn = time.perf_counter()
    thread = ThreadPoolExecutor(1)
    # Attacks run on the host while an accelerator runs the next round; a CPU would only lose time.
    submit = at_once if study.layout.backend == "cpu" else thread.submit
    for number, state, info, seconds in jfu.rounds(  # noqa: B020
        step, state, request, rounds_key, start=done, stop=budget
    ):
        spent = add_costs(study, spent, info, seconds, planned and planned(number))
        if number == 1 and "cut" in info.metrics:
            cut = ", ".join(study.model.cuts()[int(info.metrics["cut"])])
            share = max(0, 100 * float(info.metrics["told"]))
            say(
                f"  seed {trial.seed}  {name:<10} negates {cut}: what it then predicts tells "
                f"{share:.1f} % of the labels"
            )
        final = number == budget
        if final or (not quiet and number % study.config.eval_every == 0):
            every = study.config.attack_every
            attack = final or bool(every and number % every == 0)
            own = number <= method.own
            known = study, trial, name, number, state, spent, storage, told
            line = row(*known, attack=attack, own=own, submit=submit)
            if enough is not None and not (final or own) and line.result()["retain"] >= enough:
                final = True
                line = row(*known, attack=True)
            rows.append(line)
        now = time.perf_counter()
        over = deadline < math.inf and hosts.agreed(lambda: 2 * now - turn > deadline)
        turn = now
        if final or over or number % checkpoint_every == 0:
            rows = [line.result() if isinstance(line, Future) else line for line in rows]
            notes = dict(round=number, rows=rows, spent=spent, finished=final)
            write_cell(work, trial.seed, name, state, notes)
        if final:
            secret.forget(work.path, trial.seed, name)
            break
        if over:
            raise OutOfTime(
                f"--max_minutes is over at seed {trial.seed}, {name}, round {number} of {budget}"
            )
        if time.perf_counter() - last > 5 and not final:
            last = time.perf_counter()
            left = (last - began) / (number - done) * (budget - number)
            say(f"  seed {trial.seed}  {name:<10} round {number}/{budget}, {left:.0f} s left")
    if budget == 0:
        notes = dict(round=0, rows=rows, spent=spent, finished=True)
        write_cell(work, trial.seed, name, state, notes)
    return state, rows


def kept_cell(work: WorkDir, trial: Trial, name: str, like: Any) -> tuple[Any, dict] | None:
    """A cell's checkpoint; one of before histories said who came is of rounds with everybody."""
    history = getattr(like, "history", {})
    try:
        return read_cell(work, trial.seed, name, like)
    except ValueError as error:
        if "came" not in history:
            raise
        earlier = {kind: rows for kind, rows in history.items() if kind != "came"}
        try:
            state, notes = read_cell(work, trial.seed, name, like._replace(history=earlier))
        except ValueError:
            raise error from None
    everybody = jfu.weights(trial.everything.retain)
    return state._replace(history={**state.history, "came": everybody}), notes


def add_costs(
    study: Study, spent: dict, info: jfu.RoundInfo, seconds: float, planned: dict | None = None
) -> dict:
    """The costs so far and those of one more round.

    Args:
      planned: what the round costs by expectation, where exact costs and counts are not told.
    """
    metrics = jax.device_get(info.metrics)  # in one go
    count = lambda name: int(metrics[name])
    if planned is not None:
        more = planned | dict(seconds=seconds, not_applied=count("not_applied"))
        return spent | {name: spent[name] + value for name, value in more.items()}
    down, up = study.per_client
    flops = count("steps") * study.per_step + count("forwards") * study.per_forward
    return dict(
        bytes_down=spent["bytes_down"] + round(float(metrics["down"]) * down),
        bytes_up=spent["bytes_up"] + round(float(metrics["up"]) * up),
        flops=spent["flops"] + flops,
        seconds=spent["seconds"] + seconds,
        left_out=spent["left_out"] + sum(map(count, REASONS)),
        **{name: spent.get(name, 0) + count(name) for name in FAILURES},
    )


def at_once(fn: Callable, *args) -> Future:
    """``submit`` of an executor that does not wait."""
    done = Future()
    done.set_result(fn(*args))
    return done


def row(
    study, trial, name, number, state, spent, storage, told, *, attack, own=False, submit=at_once
) -> Future:
    """One line of results.jsonl: the model runs now, ``submit`` says when measures are made."""
    x, y = trial.evaluation.x, trial.evaluation.y
    outcomes = jax.block_until_ready(study.judge(state.variables, x, y))

    def line():
        measures = measures_of(trial.evaluation, *outcomes, attack=attack)
        looked = study.config.faults or study.config.max_update_norm is not None
        hidden = {"seconds", *(k for k in FAILURES if not (looked or spent.get(k)))}
        costs = {k: v for k, v in spent.items() if k not in hidden}
        costs |= dict(storage=storage, seconds=round(spent["seconds"], 6)) | told(number)
        place = dict(method=name, seed=trial.seed, round=number)
        line = place | measures | costs | (dict(own=True) if own else {})
        return private.published(study.config, line)

    return submit(line)


def original(
    study: Study, trial: Trial, cell: Callable, name="original", quiet=True, further: int = 0
):
    """The model that the request meets: trained here, or elsewhere and ``further`` rounds here.

    Returns:
      ``(trained, row, rows)``: its one line of results.jsonl, before the request has cost
      anything, and the rows of its training.
    """
    if study.given is not None:
        method, budget = jfu.unlearn.finetune(study.further), further
        start = jfu.Trained(place(study.given))
    else:
        method, budget = study.train, study.config.rounds
        start = jfu.Trained(())  # retraining looks at no model
    state, rows = cell(name, method, start, trial.everything, budget, quiet=quiet)
    history = getattr(state, "history", ())
    return jfu.Trained(state.variables, history), as_original(rows[-1]), rows


def runner(
    work: WorkDir,
    study: Study,
    trial: Trial,
    programs: Programs,
    checkpoint_every: int,
    deadline: float = math.inf,
    last: str | None = None,
):
    """``run_cell`` for one seed, with a line of progress at its end.

    A deadline that passes while it works on a cell ends it after that cell at the latest; not
    after the one called ``last``, which no other follows.
    """

    def cell(name, method, trained, request, budget, **options):
        began = time.perf_counter()
        kept = cell_notes(work, trial.seed, name)
        worked = not (kept and kept.get("finished"))
        result = run_cell(
            work,
            study,
            trial,
            name,
            method,
            trained,
            request,
            budget,
            programs,
            checkpoint_every=checkpoint_every,
            deadline=deadline,
            **options,
        )
        seen = {k: f"{v:5.1f} %" for k, v in result[1][-1].items() if v is not None and k in SHOWN}
        say(
            f"  seed {trial.seed}  {name:<13} {max(result[1][-1]['round'], 0):4d} rounds "
            f"{time.perf_counter() - began:6.1f} s  "
            + ", ".join(f"{SHOWN[k]} {v}" for k, v in seen.items())
        )
        late = deadline < math.inf and hosts.agreed(lambda: time.perf_counter() > deadline)
        if late and worked and name != last:
            raise OutOfTime(f"--max_minutes is over after seed {trial.seed}, {name}")
        return result

    return cell


def in_words(layout) -> str:
    """How clients run."""
    how = f"{layout.devices} {layout.backend} device{'s' * (layout.devices > 1)}"
    how += f" on {jax.process_count()} hosts" if hosts.several() else ""
    many = f"{layout.chunk} client{'s' * (layout.chunk > 1)}" if layout.chunk else "all clients"
    return f"{how}, {many} at a time on each"


def announce(study, trial, doing: str, work, plan: Mapping[str, int]) -> None:
    """What is about to be done, in a few lines.

    Args:
      plan: rounds by cell.
    """
    config, clients = study.config, trial.everything.retain
    sizes = clients.mask.sum(-1)  # integers: weights are float32, whose sum may be rounded
    say(
        f"{config.dataset}: {int(sizes.sum())} images with {clients.id.shape[0]} clients "
        f"({int(sizes.min())} to {int(sizes.max())} each), model {config.model}, "
        f"{config.rounds} rounds; {in_words(study.layout)}"
    )
    if config.backdoor:
        say(
            f"backdoor: {config.backdoor_fraction:.0%} of the images of client "
            f"{', '.join(config.backdoor_clients)} carry a white square and the label "
            f"{config.backdoor_label}"
        )
    if config.forget:
        gone = int(trial.request.forget.mask.sum())
        say(f"request: forget {config.forget} ({gone} images)")
    params = jax.eval_shape(study.model.init, jax.random.key(0))["params"]
    chosen = jfu.describe(params, jfu.select(params, study.setting.selector))
    say(f"layers to perturb, where a method does: {chosen}")
    for line in [*private.outlook(config, trial, plan), *private.lonely(config, trial, plan)]:
        say(line)
    say(f"{doing}; work directory {work.path}")
