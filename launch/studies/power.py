"""How much remaining memory the audit notices: planted answers, trained and judged."""

import itertools
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from absl import flags

from jfu import tables
from launch.shell.say import say
from launch.timing.process import free, publish

FLAGS = flags.FLAGS

CLIENTS, ROUNDS, RATE, BATCH, WIDTH = 10, 40, 0.15, 16, 64
IMAGE = (1, 8, 8, 1)
AT_ONCE = 8  # federations that are trained together
SHARES = (0.0, 0.1, 0.5, 1.0)  # of the forgotten data, put back
FEW, SOME = 5, 16  # seeds and shadow federations of the smaller audits
RELEARN, RESURFACE = 20, 10  # further rounds, as many as launch.audit has
LATER = ("relearn", "resurfacing")  # measures after these
RIDGE = "ridge"
REQUESTS = ("trigger", "labels", "clean", RIDGE)
KEPT = ("original", "retrain", "retrain_again", "retrain_third")


def power() -> None:
    from launch.report import figures
    from launch.studies import power_figure

    free(FLAGS.json)
    if FLAGS.shadows % 2 or 0 < FLAGS.shadows < 8:
        raise ValueError(
            f"--shadows={FLAGS.shadows} is too small or odd; give an even number from 8 on, or 0"
        )
    if unknown := set(FLAGS.requests) - set(REQUESTS):
        raise ValueError(f"there is no request {unknown.pop()}; choose among {', '.join(REQUESTS)}")
    rows: list[dict[str, Any]] = []
    made: dict[bool, Tools] = {}
    for kind in FLAGS.requests:
        exact = kind == RIDGE
        tools = made[exact] = made.get(exact) or program(exact)
        found, phi, asked = trained(kind, tools)
        for many in sorted({0, min(SOME, FLAGS.shadows), FLAGS.shadows}):
            rows += judged(kind, found, of_shadows(phi, many), many, asked)
        last = kind == FLAGS.requests[-1]
        # Without a folder that keeps what was measured, write the results so far.
        publish(FLAGS.json if last or not FLAGS.workdir else None, rows, markdown(rows))
    if FLAGS.plot:
        figures.drawn(power_figure.draw, rows, FLAGS.plot)


# ---------------------------------------------------------------- data and models


class Case(NamedTuple):
    """One seed's request, and the examples that models are evaluated on."""

    request: Any
    evaluation: Any


def case(kind: str, seed: int, digits: Any) -> Case:
    """The clients of a seed, of which the first asks to be forgotten."""
    import jfu
    from jfu import evaluation
    from jfu.data import partition, poison

    lists = partition.partition("iid", digits.y_train, CLIENTS, seed)
    x, y, y_test = digits.x_train.copy(), digits.y_train.copy(), digits.y_test.copy()
    mine, backdoor = np.asarray(lists[0]), None
    if kind in ("trigger", RIDGE):
        x[mine], y[mine] = poison.stamp(x[mine]), 0
        stamped = np.isin(np.arange(len(y)), mine)
        images = poison.stamp(digits.x_test)
        backdoor = evaluation.Backdoor(images, 0, stamped, digits.y_train)
    if kind == "labels":
        draw = np.random.default_rng([seed, 1])
        for labels, rows in ((y, mine), (y_test, np.arange(len(y_test)))):
            some = draw.permutation(rows)[: len(rows) // 2]
            labels[some] = draw.integers(0, 10, len(some))
    clients = jfu.stack(x, y, lists)
    request = jfu.split(clients, jfu.forget_client(clients, [0]))
    test = digits.x_test, y_test
    made = evaluation.of_request(clients, request, test, backdoor=backdoor, seed=seed)
    return Case(request, made)


def federation() -> tuple[Any, Any]:
    """The network and its federation."""
    import jax
    import optax

    import jfu
    from jfu import models
    from jfu.models.mlp import MLP

    image = jax.ShapeDtypeStruct(IMAGE, np.uint8)
    model = models.from_linen(MLP(10, width=WIDTH, depth=1), image)
    local = jfu.local_sgd(jfu.classification(model.apply), optax.sgd(RATE), batch_size=BATCH)
    return model, jfu.fedavg(local, chunk=0)


def heads() -> tuple[Any, Any]:
    """A larger network of random features, and a federation of ridge heads on them."""
    import jax

    import jfu
    from jfu import models
    from jfu.models.mlp import MLP

    model = models.from_linen(MLP(10), jax.ShapeDtypeStruct(IMAGE, np.uint8))
    return model, jfu.ridge.federation(model)


class Tools(NamedTuple):
    """The network, and compiled programs that train."""

    model: Any
    train: Callable  # ((request, key), numbers, back) -> models, stacked
    further: Callable  # (clients, key) -> (variables -> the model after each further round)


def program(exact: bool) -> Tools:
    import jax

    import jfu
    from jfu import shadows

    model, fed = heads() if exact else federation()
    answer = shadows.answer(jfu.unlearn.retrain(fed, model.init), 1 if exact else ROUNDS)

    def one(shared, row):
        (request, key), (number, back) = shared, row
        key = jax.random.fold_in(key, number)
        everything = shadows.everything(shadows.shadow(request, back))
        return answer(jfu.Trained(()), everything, key).variables

    run, step = jax.jit(shadows.map_federations(one, chunk=AT_ONCE)), jax.jit(fed.round)

    def further(clients, key):
        def after_each_round(variables):
            for done in jfu.rounds(step, fed.init(variables), clients, key, stop=RELEARN):
                yield done.state.variables

        return after_each_round

    return Tools(model, lambda shared, numbers, back: run(shared, (numbers, back)), further)


def put_back(mask: np.ndarray, share: float, draw: np.random.Generator) -> np.ndarray:
    """A share of the marked entries, drawn at random; bool, in the shape of ``mask``.

    >>> put_back(np.array([[True, False, True]]), 0.5, np.random.default_rng(0)).sum()
    np.int64(1)
    """
    places = draw.permutation(np.flatnonzero(mask))[: round(share * mask.sum())]
    return np.isin(np.arange(mask.size), places).reshape(mask.shape)


def planned(kind: str) -> list[tuple[str, float, int]]:
    """The models of a seed: name, share of the forgotten data, number of their random draws.

    A ridge answer has the features of the old model, as ``retrain`` has, and so its draws.
    """
    exact = kind == RIDGE
    plan = [(name, float(name == KEPT[0]), number) for number, name in enumerate(KEPT)]
    for share in SHARES:
        many = FLAGS.partly if share else 1 if exact else FLAGS.retrained
        plan += [(f"{share:g}/{i}", share, len(plan) + i) for i in range(many)]
    if not exact:
        return plan
    own = {name: number for name, _, number in plan if name in KEPT[2:]}
    return [(name, share, own.get(name, 1)) for name, share, _ in plan]


def trained(kind: str, tools: Tools) -> tuple[dict[str, dict], dict[str, np.ndarray], bool]:
    """Samples of all models, scores under shadow federations, and whether there is a trigger."""
    from jfu import data
    from launch.studies import power_kept

    digits = data.load("digits")
    where = pathlib.Path(FLAGS.workdir) if FLAGS.workdir else None
    own = dict(request=kind, retrained=FLAGS.retrained, partly=FLAGS.partly)
    found: dict[str, dict] = {}
    for seed in range(FLAGS.seeds):
        make = lambda seed=seed: of_seed(kind, seed, digits, tools)
        for name, measured in power_kept.once(where, own | dict(seed=seed), make).items():
            for key, arrays in measured.items():
                found.setdefault(name, {}).setdefault(key, {})[seed] = arrays
        say(f"{kind}: seed {seed}, {len(planned(kind))} models")
    phi: dict[str, np.ndarray] = {}
    if FLAGS.shadows:
        make = lambda: dict(shadows=shadow_scores(tools, case(kind, 0, digits)))
        kept = power_kept.once(where, dict(request=kind, shadows=FLAGS.shadows), make)
        phi = {name: scores for name, (scores,) in kept["shadows"].items()}
        say(f"{kind}: {FLAGS.shadows} shadow federations, {len(SHARES) + 1} models each")
    return found, phi, kind in ("trigger", RIDGE)


def of_seed(kind: str, seed: int, digits: Any, tools: Tools) -> dict[str, dict]:
    """Samples of a seed's models, by name and measure.

    Planted retrainings that all were compared with the same two models would err together. So each
    is also compared with models of its own, whose samples have names such as ``turn/3:retrain``.
    """
    import jax

    from jfu import shadows
    from jfu.audit import evidence

    model, plan = tools.model, planned(kind)
    kit = evidence.tools(model.apply, outputs=model.outputs, layers=model.layers)
    one, draw = case(kind, seed, digits), np.random.default_rng([seed, 2])
    mask = np.asarray(one.request.forget.mask)
    back = np.stack([put_back(mask, share, draw) for _, share, _ in plan])
    everything = shadows.everything(one.request).retain
    key = jax.random.key(seed)
    stacked = tools.train((one.request, key), np.array([number for *_, number in plan]), back)
    pick = lambda number, of: jax.tree.map(lambda a: a[number], of)
    models = {name: pick(number, stacked) for number, (name, *_) in enumerate(plan)}
    samples = evidence.of_seed(
        kit,
        models,
        one.evaluation,
        np.random.default_rng(seed),
        again=tools.further(everything, jax.random.fold_in(key, 1_000_000)),
        limit=RELEARN,
        onward=tools.further(one.request.retain, jax.random.fold_in(key, 1_000_001)),
        rounds=RESURFACE,
    )
    out = dict(samples)
    for number, turn in enumerate([] if kind == RIDGE else turns([*models])):
        some = {role: models[name] for role, name in turn.items()}
        found = evidence.of_seed(kit, some, one.evaluation, np.random.default_rng(seed))
        for role, name in turn.items():
            # Further rounds do not depend on which models it is compared with.
            later = {k: a for k, a in samples[name].items() if k.startswith(LATER)}
            out[f"turn/{number}:{role}"] = found[role] | later
    return out


def turns(names: Sequence[str]) -> list[dict[str, str]]:
    """Which model plays which part in the audit of each planted retraining.

    Each is compared with the next two retrained models in a circle, and the one after is the third.

    >>> turns(["original", "retrain", "retrain_again", "retrain_third", "0/0", "0/1"])[0]["retrain"]
    '0/1'
    """
    circle = [name for name in names if name in KEPT[1:] or name.startswith("0/")]
    out = []
    for place, name in enumerate(circle):
        if name not in KEPT:
            others = [circle[(place + step) % len(circle)] for step in (1, 2, 3)]
            out.append(dict(zip((*KEPT, name), (KEPT[0], *others, name), strict=True)))
    return out


def shadow_scores(tools: Tools, one: Case) -> dict[str, tuple[np.ndarray]]:
    """Log odds of the candidates' labels under shadow federations, by share put back."""
    import jax

    from jfu import attacks, shadows

    request, many = one.request, FLAGS.shadows
    keys = jax.random.split(jax.random.key(10_000), len(SHARES) + 2)
    held = np.asarray(shadows.halves(request, keys[0], many))
    rows = shadows.candidates(request)
    x, y = request.retain.x[rows], np.asarray(request.retain.y)[rows]
    draw = np.random.default_rng(3)

    def phi(key, share):
        back = np.stack([put_back(mask, share, draw) for mask in held])
        stacked = tools.train((request, key), np.arange(many), back)
        logits = jax.vmap(lambda variables: tools.model.apply(variables, x)[0])(stacked)
        return np.stack([attacks.confidence(np.asarray(one), y) for one in logits])

    # Which candidate is in which slot: each belongs to the client that leaves.
    slots = np.nonzero(np.asarray(request.forget.mask))
    order = np.argsort(np.asarray(request.forget.index)[slots])
    named = {f"{share:g}": phi(key, share) for share, key in zip(SHARES, keys[2:], strict=True)}
    found = dict(held=held[:, slots[0], slots[1]][:, order], retrain=phi(keys[1], 0.0)) | named
    return {name: (scores,) for name, scores in found.items()}


def of_shadows(phi: Mapping[str, np.ndarray], many: int) -> dict[str, dict]:
    """Samples of attacks with the first shadow federations, by share put back; and of controls."""
    from jfu.audit import pairs

    if not many:
        return {}
    made = pairs.of_shadows({name: scores[:many] for name, scores in phi.items()})
    return made | dict(original=made[f"{SHARES[-1]:g}"])


# ---------------------------------------------------------------- verdicts


def judged(
    kind: str, found: Mapping[str, dict], shadows: Mapping[str, dict], many: int, asked: bool
) -> list[dict[str, Any]]:
    """A line for each number of seeds and each share put back; retrainings in their own turns."""
    audits = by_turn(found)
    groups: dict[int, list[range]] = {
        FEW: [range(begin, begin + FEW) for begin in range(0, FLAGS.seeds - FEW + 1, FEW)]
    }
    groups.setdefault(FLAGS.seeds, [range(FLAGS.seeds)])
    rows = []
    for seeds, parts in groups.items():
        said: dict[float, list] = {share: [] for share in SHARES}
        for part, models in itertools.product(parts, audits):
            for name, what in audit(models, shadows, part, asked, kind == RIDGE).items():
                said[float(name.partition("/")[0])].append(what)
        about = dict(request=kind, seeds=seeds, shadows=many)
        rows += [about | dict(share=share) | counted(some) for share, some in said.items()]
    return rows


def by_turn(found: Mapping[str, dict]) -> list[dict[str, dict]]:
    """The models of each audit: one for each planted retraining, and one for all other answers."""
    own: dict[str, dict] = {}
    for name, samples in found.items():
        turn, _, role = name.partition(":")
        if role:
            own.setdefault(turn, {})[role] = samples
    rest = [name for name in found if ":" not in name and not (own and name.startswith("0/"))]
    return [*own.values(), {name: found[name] for name in rest}]


def audit(
    found: Mapping[str, dict],
    shadows: Mapping[str, dict],
    seeds: Sequence[int],
    asked: bool,
    exact: bool = False,
) -> dict[str, tuple[str, tuple[str, ...], list[str]]]:
    """Of each planted answer: its verdict, what detects it, and its signs of memory.

    Args:
      exact: whether the answers share with ``retrain`` all that chance decides.
    """
    from jfu.audit import estimates, verdicts
    from jfu.audit.measures import SIGNS, kind_of

    some = {
        name: {
            key: {s: arrays for s, arrays in of.items() if s in seeds}
            for key, of in samples.items()
        }
        | shadows.get(name.partition("/")[0], {})
        for name, samples in found.items()
    }
    coupled = [name for name in some if exact and name not in KEPT]
    measures, *_ = estimates.estimate(some, draws=100, coupled=coupled)
    known = verdicts.controls(measures, {}, asked)
    out = {}
    for name, entries in measures.items():
        if name in KEPT:
            continue
        verdict, _ = verdicts.forgotten(entries, {}, asked, known, coupled=exact)
        shown = [k for k, e in verdicts.signs(entries).items() if e["chance"] is not None]
        signs = [kind_of(key) for key in shown if entries[key]["chance"] <= SIGNS]
        out[name] = verdict, verdicts.caught(entries, asked), signs
    return out


def counted(said: Sequence[tuple[str, tuple[str, ...], list[str]]]) -> dict[str, Any]:
    """Shares of audits: with a no, with a no or a sign, with a yes; and by which measures."""
    many = len(said)
    by = lambda place: sorted({key for one in said for key in one[place]})
    share = lambda place, key: sum(key in one[place] for one in said) / many
    return dict(
        audits=many,
        no=sum(verdict == "no" for verdict, _, _ in said) / many,
        yes=sum(verdict == "yes" for verdict, _, _ in said) / many,
        noticed=sum(verdict == "no" or bool(signs) for verdict, _, signs in said) / many,
        detecting={key: share(1, key) for key in by(1)},
        signs={key: share(2, key) for key in by(2)},
    )


def markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """Percent of audits that say no, and in brackets those that say no or see a sign of memory.

    Then percent of audits that say yes, which only those with shadow federations can.
    """
    columns = [f"{100 * share:g} % back" for share in SHARES]
    lines = [["request", "seeds", "shadows", *columns, *(f"yes: {name}" for name in columns)]]
    at: dict[tuple, dict[float, Mapping]] = {}
    for row in rows:
        place = row["request"], str(row["seeds"]), str(row["shadows"])
        at.setdefault(place, {})[row["share"]] = row
    for place, each in at.items():
        shown = [f"{100 * each[s]['no']:.0f} ({100 * each[s]['noticed']:.0f})" for s in SHARES]
        known = place[2] != "0" and all("yes" in row for row in each.values())
        passed = [f"{100 * each[s]['yes']:.0f}" if known else "-" for s in SHARES]
        lines.append([*place, *shown, *passed])
    return tables.aligned(lines)
