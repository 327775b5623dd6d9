"""How much remaining memory the audit notices: planted answers, trained and judged."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from absl import flags

from jfu import tables
from launch.shell.say import say
from launch.timing.process import free, publish

FLAGS = flags.FLAGS

CLIENTS, ROUNDS, RATE, BATCH, WIDTH = 10, 40, 0.15, 16, 64
AT_ONCE = 8  # federations that are trained together
SHARES = (0.0, 0.1, 0.5, 1.0)  # of the forgotten data, put back
FEW = 5  # seeds of the smaller audits
REQUESTS = ("trigger", "labels", "clean")
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
    for kind in FLAGS.requests:
        found, shadows, asked = trained(kind)
        rows += judged(kind, found, {}, asked)
        if shadows:
            rows += judged(kind, found, shadows, asked)
        publish(FLAGS.json, rows, markdown(rows))  # the results so far, if it is stopped
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
    if kind == "trigger":
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

    image = jax.ShapeDtypeStruct((1, 8, 8, 1), np.uint8)
    model = models.from_linen(MLP(10, width=WIDTH, depth=1), image)
    local = jfu.local_sgd(jfu.classification(model.apply), optax.sgd(RATE), batch_size=BATCH)
    return model, jfu.fedavg(local, chunk=0)


def program() -> tuple[Any, Any]:
    """The network, and a program that trains federations: ``((request, key), back) -> models``."""
    import jax

    import jfu
    from jfu import shadows

    model, fed = federation()
    answer = shadows.answer(jfu.unlearn.retrain(fed, model.init), ROUNDS)

    def one(shared, row):
        (request, key), (number, back) = shared, row
        key = jax.random.fold_in(key, number)
        everything = shadows.everything(shadows.shadow(request, back))
        return answer(jfu.Trained(()), everything, key).variables

    run = jax.jit(shadows.map_federations(one, chunk=AT_ONCE))
    return model, lambda shared, back: run(shared, (np.arange(len(back)), back))


def put_back(mask: np.ndarray, share: float, draw: np.random.Generator) -> np.ndarray:
    """A share of the marked entries, drawn at random; bool, in the shape of ``mask``.

    >>> put_back(np.array([[True, False, True]]), 0.5, np.random.default_rng(0)).sum()
    np.int64(1)
    """
    places = draw.permutation(np.flatnonzero(mask))[: round(share * mask.sum())]
    return np.isin(np.arange(mask.size), places).reshape(mask.shape)


def planned() -> list[tuple[str, float]]:
    """The models of a seed, each with the share of the forgotten data that it is trained on."""
    plan = [(name, float(name == KEPT[0])) for name in KEPT]
    for share in SHARES:
        many = FLAGS.partly if share else FLAGS.retrained
        plan += [(f"{share:g}/{number}", share) for number in range(many)]
    return plan


def trained(kind: str) -> tuple[dict[str, dict], dict[str, dict], bool]:
    """Samples of all models, samples of shadow federations, and whether there is a trigger."""
    import jax

    from jfu import data
    from jfu.audit import evidence

    digits = data.load("digits")
    model, train = program()
    kit = evidence.tools(model.apply, outputs=model.outputs, layers=model.layers)
    plan, found, shadows = planned(), {}, {}
    for seed in range(FLAGS.seeds):
        one, draw = case(kind, seed, digits), np.random.default_rng([seed, 2])
        mask = np.asarray(one.request.forget.mask)
        back = np.stack([put_back(mask, share, draw) for _, share in plan])
        stacked = train((one.request, jax.random.key(seed)), back)
        pick = lambda number, of: jax.tree.map(lambda a: a[number], of)
        models = {name: pick(number, stacked) for number, (name, _) in enumerate(plan)}
        samples = evidence.of_seed(kit, models, one.evaluation, np.random.default_rng(seed))
        for name, measured in samples.items():
            for key, arrays in measured.items():
                found.setdefault(name, {}).setdefault(key, {})[seed] = arrays
        say(f"{kind}: seed {seed}, {len(plan)} models")
        if FLAGS.shadows and not seed:
            shadows = of_shadows(model, train, one)
            say(f"{kind}: {FLAGS.shadows} shadow federations, {len(SHARES) + 1} models each")
    return found, shadows, kind == "trigger"


def of_shadows(model: Any, train: Any, one: Case) -> dict[str, dict]:
    """Samples of attacks with shadow federations, by share put back; and of the controls."""
    import jax

    from jfu import attacks, shadows
    from jfu.audit import pairs

    request, many = one.request, FLAGS.shadows
    keys = jax.random.split(jax.random.key(10_000), len(SHARES) + 2)
    held = np.asarray(shadows.halves(request, keys[0], many))
    rows = shadows.candidates(request)
    x, y = request.retain.x[rows], np.asarray(request.retain.y)[rows]
    draw = np.random.default_rng(3)

    def phi(key, share):
        back = np.stack([put_back(mask, share, draw) for mask in held])
        stacked = train((request, key), back)
        logits = jax.vmap(lambda variables: model.apply(variables, x)[0])(stacked)
        return np.stack([attacks.confidence(np.asarray(one), y) for one in logits])

    # Which candidate is in which slot: each belongs to the client that leaves.
    slots = np.nonzero(np.asarray(request.forget.mask))
    order = np.argsort(np.asarray(request.forget.index)[slots])
    named = {f"{share:g}": phi(key, share) for share, key in zip(SHARES, keys[2:], strict=True)}
    found = dict(held=held[:, slots[0], slots[1]][:, order], retrain=phi(keys[1], 0.0)) | named
    made = pairs.of_shadows(found)
    return made | dict(original=made[f"{SHARES[-1]:g}"])


# ---------------------------------------------------------------- verdicts


def judged(
    kind: str, found: Mapping[str, dict], shadows: Mapping[str, dict], asked: bool
) -> list[dict[str, Any]]:
    """A line for each number of seeds and each share put back."""
    groups: dict[int, list[range]] = {
        FEW: [range(begin, begin + FEW) for begin in range(0, FLAGS.seeds - FEW + 1, FEW)]
    }
    groups.setdefault(FLAGS.seeds, [range(FLAGS.seeds)])
    rows = []
    for seeds, parts in groups.items():
        said: dict[float, list] = {share: [] for share in SHARES}
        for part in parts:
            for name, what in audit(found, shadows, part, asked).items():
                said[float(name.partition("/")[0])].append(what)
        about = dict(request=kind, seeds=seeds, shadows=FLAGS.shadows if shadows else 0)
        rows += [about | dict(share=share) | counted(some) for share, some in said.items()]
    return rows


def audit(
    found: Mapping[str, dict], shadows: Mapping[str, dict], seeds: Sequence[int], asked: bool
) -> dict[str, tuple[str, tuple[str, ...], list[str]]]:
    """Of each planted answer: its verdict, what detects it, and its signs of memory."""
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
    measures, _, _ = estimates.estimate(some, draws=100)
    known = verdicts.controls(measures, {}, asked)
    out = {}
    for name, entries in measures.items():
        if name in KEPT:
            continue
        verdict, _ = verdicts.forgotten(entries, {}, asked, known)
        shown = [k for k, e in verdicts.signs(entries).items() if e["chance"] is not None]
        signs = [kind_of(key) for key in shown if entries[key]["chance"] <= SIGNS]
        out[name] = verdict, verdicts.caught(entries, asked), signs
    return out


def counted(said: Sequence[tuple[str, tuple[str, ...], list[str]]]) -> dict[str, Any]:
    """Shares of audits: with a no, with a no or a sign of memory; and by which measures."""
    many = len(said)
    by = lambda place: sorted({key for one in said for key in one[place]})
    share = lambda place, key: sum(key in one[place] for one in said) / many
    return dict(
        audits=many,
        no=sum(verdict == "no" for verdict, _, _ in said) / many,
        noticed=sum(verdict == "no" or bool(signs) for verdict, _, signs in said) / many,
        detecting={key: share(1, key) for key in by(1)},
        signs={key: share(2, key) for key in by(2)},
    )


def markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """Percent of audits that say no, and in brackets those that say no or see a sign of memory."""
    lines = [["request", "seeds", "shadows", *(f"{100 * share:g} % back" for share in SHARES)]]
    at: dict[tuple, dict[float, Mapping]] = {}
    for row in rows:
        place = row["request"], str(row["seeds"]), str(row["shadows"])
        at.setdefault(place, {})[row["share"]] = row
    for place, each in at.items():
        shown = (f"{100 * each[s]['no']:.0f} ({100 * each[s]['noticed']:.0f})" for s in SHARES)
        lines.append([*place, *shown])
    return tables.aligned(lines)
