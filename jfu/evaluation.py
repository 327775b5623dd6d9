"""The data for evaluation, and all measures of a model in one call.

An ``Evaluation`` is made once for a request and is used for all models. ``measures(apply,
variables, evaluation)`` gives the fields of a row of results (``jfu.results.Row``).
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from jfu import pools
from jfu.metrics import Judge, classes, match, mia, per_example, spread, worst
from jfu.stacking import as_targets, empty_aligned
from jfu.targets import are_numbers
from jfu.types import ClientData, Split, Variables

More = Callable[[dict[str, np.ndarray]], dict[str, float | None]]  # as in jfu.tasks


def nothing_more(losses: dict[str, np.ndarray]) -> dict[str, float | None]:
    """No further measures."""
    return {}


class Evaluation(NamedTuple):
    """The examples for evaluation, and the measures that each is used for.

    ``x`` and ``y`` have E examples. First come M training examples with the clients' labels, then T
    test examples. With a backdoor, the T test examples follow once more with the trigger.
    """

    x: Any  # [E, ...]
    y: Any  # targets [E], as in ClientData; the trigger's label for examples with the trigger
    retain: np.ndarray  # bool [M]: at least one client keeps it
    forget: np.ndarray  # bool [M]: to be forgotten, and no client keeps it
    test_y: np.ndarray  # targets [T]
    forgotten_classes: tuple[int, ...]  # of a request that names classes
    members: np.ndarray  # positions in x of forgotten examples, each paired with one of others,
    others: np.ndarray  # test examples of the same class, and with the trigger if the member has it
    target: int | None  # the trigger's label
    where: np.ndarray | None = None  # positions in x and y, if these are spread over devices
    guess: float | None = None  # percent of retained data in its most frequent class or token
    # Positions in x of examples that clients keep, and the id of the client of each; or None.
    clients: tuple[np.ndarray, np.ndarray] | None = None


class Backdoor(NamedTuple):
    """A trigger that some training examples have, together with a wrong label."""

    x_test: Any  # every test image with the trigger, [T, ...]
    label: int  # the label of images with the trigger
    poisoned: np.ndarray  # bool [M], which training examples have it
    classes: np.ndarray  # int [M], the true classes of the training examples


def of_request(
    clients: ClientData,
    request: Split,
    test: tuple[Any, np.ndarray],
    *,
    backdoor: Backdoor | None = None,
    forgotten_classes: tuple[int, ...] = (),
    kinds: tuple[np.ndarray, np.ndarray] | None = None,
    seed: int = 0,
) -> Evaluation:
    """The evaluation for a request to a federation.

    An example that a retained client also has counts as retained, since no method forgets it.

    Args:
      clients: all clients, before the request.
      request: as ``jfu.split`` makes it.
      test: ``(x, y)``, T examples that no client trains on.
      backdoor: the backdoor, if one was planted.
      forgotten_classes: the classes that the request names; they get their own test accuracies.
      kinds: kinds of training and test examples, ``[M]`` and ``[T]`` integers, such as topics of
        texts. Pairs are of one kind. If not given, they are of one class.
      seed: draws the test examples that are paired with forgotten ones.

    >>> import jfu
    >>> clients = jfu.stack(np.eye(4), np.array([0, 1, 0, 1]), [[0, 1], [1, 2, 3]])
    >>> request = jfu.split(clients, jfu.forget_client(clients, [0]))
    >>> made = of_request(clients, request, (np.eye(4)[:2], np.array([0, 1])))
    >>> made.forget.tolist(), made.retain.tolist(), made.others.tolist()
    ([True, False, False, False], [False, True, True, True], [4])
    """
    from jfu.data.rows import Rows

    many = len(clients.y)
    owned = lambda side: np.bincount(
        np.asarray(side.index)[np.asarray(side.mask)], minlength=many
    ).astype(bool)
    retain = owned(request.retain)
    pool = clients.x if isinstance(clients.x, Rows) else np.asarray(clients.x)
    made = _made(
        pool,
        np.asarray(clients.y),
        retain,
        owned(request.forget) & ~retain,
        test,
        backdoor,
        forgotten_classes,
        seed,
        kinds,
    )
    client, slot = np.nonzero(np.asarray(request.retain.mask))
    rows = np.asarray(request.retain.index)[client, slot]
    return made._replace(clients=(rows, np.asarray(request.retain.id)[client]))


def of_arrays(
    retain: tuple[Any, np.ndarray],
    forget: tuple[Any, np.ndarray],
    test: tuple[Any, np.ndarray],
    *,
    backdoor: Backdoor | None = None,
    forgotten_classes: tuple[int, ...] = (),
    clients: np.ndarray | None = None,
    seed: int = 0,
) -> Evaluation:
    """The evaluation for data in arrays, each ``(x, y)``; other arguments as in ``of_request``.

    In ``backdoor``, training examples are the retained ones followed by the forgotten ones.
    ``clients`` are ids, the client of each retained example ``[n]``, if there are clients.

    >>> x, y = np.eye(3), np.array([0, 1, 0])
    >>> made = of_arrays((x, y), (x[:2], y[:2]), (x[1:], y[1:]))
    >>> made.x.shape, made.forget.tolist(), round(made.guess, 1)
    ((7, 3), [False, False, False, True, True], 66.7)
    """
    parts = [np.asarray(x) for x, _ in (retain, forget)]
    labels = np.concatenate([np.asarray(y) for _, y in (retain, forget)])
    kept = np.arange(len(labels)) < len(parts[0])
    x = np.concatenate(parts)
    made = _made(x, labels, kept, ~kept, test, backdoor, forgotten_classes, seed)
    if clients is None:
        return made
    if len(clients) != len(parts[0]):
        raise ValueError(
            f"clients names the client of {len(clients)} examples, and {len(parts[0])} are "
            "retained; give one id for each"
        )
    return made._replace(clients=(np.arange(len(parts[0])), np.asarray(clients)))


def _whole(parts: Sequence[np.ndarray]) -> np.ndarray:
    """Concatenated arrays, in memory that CPU devices share."""
    parts = [np.asarray(part) for part in parts]
    shape = (sum(map(len, parts)), *parts[0].shape[1:])
    return np.concatenate(parts, out=empty_aligned(shape, np.result_type(*parts)))


def _made(x, y, retain, forget, test, backdoor, forgotten_classes, seed, kinds=None) -> Evaluation:
    """An evaluation with M training examples, test examples and the matched pairs."""
    from jfu.data.rows import Rows, joined

    x_test, y_test = test
    xs, ys = [x, x_test], [y, y_test]
    classes, test_classes = kinds or (y, y_test)
    poisoned = np.zeros(len(y), bool)
    if backdoor is not None:
        classes, poisoned = backdoor.classes, backdoor.poisoned
        xs.append(backdoor.x_test)
        ys.append(np.full(len(y_test), backdoor.label, np.int32))
    rows = np.flatnonzero(forget)
    members, others = match(classes[rows], test_classes, seed)
    members = rows[members]
    # The match has the trigger if the forgotten example has it.
    others = len(y) + others + len(y_test) * poisoned[members]
    lazy = any(isinstance(part, Rows) for part in xs)
    return Evaluation(
        joined(xs) if lazy else _whole(xs),
        as_targets(np.concatenate(ys)),
        retain,
        forget,
        y_test,
        forgotten_classes,
        members,
        others,
        None if backdoor is None else backdoor.label,
        guess=commonest(y[retain]),
    )


def commonest(y: np.ndarray) -> float | None:
    """The share of the most frequent label or token, percent; None without any, 0 of a regression.

    >>> commonest(np.array([3, 1, 3, 3]))
    75.0
    """
    if not len(y):
        return None
    if are_numbers(y):
        return 0.0  # what the mean of all targets explains
    many = np.unique(y[y >= 0], return_counts=True)[1]  # -1 is a place without a next token
    return round(100 * float(many.max() / many.sum()), 10)


def dealt(arrays: tuple[Any, ...], clients: ClientData) -> tuple[tuple[Any, ...], np.ndarray]:
    """Spreads an ``Evaluation``'s examples over the devices of the mesh, also on several hosts.

    Each device gets its own clients' examples and a share of the test examples. A host therefore
    reads no training examples of other hosts' clients.

    Args:
      arrays: ``[E, ...]`` each; the first M rows are the pool of ``clients``.

    Returns:
      ``(arrays, where)``. ``where`` is the position of each example, ``[E]``. Training examples
      that no client has are left out and not measured; their position is 0.
    """
    mesh = jax.sharding.get_mesh()
    parts = pools.rows_by_device(np.asarray(clients.index), np.asarray(clients.mask), mesh.size)
    rest, seen = [], np.zeros(len(arrays[0]), bool)
    shares = np.array_split(np.arange(len(clients.y), len(seen)), mesh.size)
    for device, others in enumerate(shares):
        own = parts[device][~seen[parts[device]]]  # examples of several clients count once
        seen[own] = True
        rest.append(np.concatenate([own, others]))
    where = np.zeros(len(seen), int)
    longest = max(map(len, rest))
    for device, part in enumerate(rest):
        where[part] = device * longest + np.arange(len(part))
    return tuple(pools.deal(a, rest, mesh, flat=True) for a in arrays), where


def of_pool(evaluation: Evaluation) -> Evaluation:
    """The same without test examples: accuracies and losses of training examples only.

    >>> x, y = np.eye(3, dtype=np.float32), np.array([0, 1, 2])
    >>> made = of_pool(of_arrays((x, y), (x[:2], y[:2]), (x, y)))
    >>> found = measures(lambda variables, x: x, {}, made, attack=False)
    >>> len(made.x), found["retain"], found["test"], found["asr"]
    (5, 100.0, None, None)
    """
    if evaluation.where is not None:
        raise ValueError("the examples of this evaluation are spread over devices; take all")
    many = len(evaluation.retain)
    none = np.zeros(0, int)
    first = lambda a: jax.lax.slice_in_dim(a, 0, many) if isinstance(a, jax.Array) else a[:many]
    return evaluation._replace(
        x=first(evaluation.x),
        y=first(evaluation.y),
        test_y=evaluation.test_y[:0],
        forgotten_classes=(),
        members=none,
        others=none,
        target=None,
    )


def sides(evaluation: Evaluation) -> dict[str, np.ndarray]:
    """Positions of the examples for each accuracy.

    With a trigger, ``asr`` uses test images with the trigger whose true class differs from the
    trigger's label. A prediction of the trigger's label counts as right.
    """
    pool, tests = len(evaluation.retain), len(evaluation.test_y)
    rows = dict(
        retain=np.flatnonzero(evaluation.retain),
        forget=np.flatnonzero(evaluation.forget),
        test=np.arange(pool, pool + tests),
    )
    if evaluation.target is not None:
        rows["asr"] = pool + tests + np.flatnonzero(evaluation.test_y != evaluation.target)
    return rows


def measures(
    apply: Callable,
    variables: Variables,
    evaluation: Evaluation,
    *,
    attack: bool = True,
    judge: Judge = classes,
    more: More = nothing_more,
) -> dict[str, float | None]:
    """All measures of a model: accuracies, backdoor success, losses, membership attacks.

    Args:
      apply: ``(variables, x) -> logits [B, C]``, or ``-> (logits, changed)``. Each function is
        compiled once, so pass the same one for all models.
      variables: the model's variables.
      evaluation: as ``of_request`` or ``of_arrays`` makes it.
      attack: whether to run the attacks ``mia`` and ``mia_matched``, which take longer.
      judge: the task's loss and score of an example (``jfu.tasks``); classes if not given.
      more: the task's further measures, such as perplexity.

    Returns:
      ``retain``, ``forget``, ``test``, ``mia``, ``mia_matched``, ``asr``, ``loss_retain``,
      ``loss_forget`` and ``guess``. Requests for classes also have ``test_kept`` and
      ``test_forgotten``. Where the client of each retained example is known, ``worst_client`` and
      ``client_spread`` follow. Units are those of ``jfu.results.Row``. A measure is None if there
      are no such examples, or too few for an attack.

    >>> apply = lambda variables, x: variables["params"] * x
    >>> x, y = np.eye(3, dtype=np.float32), np.array([0, 1, 2])
    >>> made = of_arrays((x, y), (x[:2], np.array([2, 2])), (x[:1], y[:1]))
    >>> found = measures(apply, {"params": 5.0}, made)
    >>> found["retain"], found["forget"], found["test"], found["mia"]
    (100.0, 0.0, 100.0, None)
    """
    x = evaluation.x if isinstance(evaluation.x, jax.Array) else np.asarray(evaluation.x)
    loss, correct = _per_example(apply, judge, variables, x, evaluation.y)
    return measures_of(evaluation, loss, correct, attack=attack, more=more)


def measures_of(
    evaluation: Evaluation,
    loss: Any,
    correct: Any,
    *,
    attack: bool = True,
    more: More = nothing_more,
) -> dict[str, float | None]:
    """``measures`` from the losses and correctness of ``per_example``, ``[E]`` each.

    Losses are rounded to six digits. Percentages are rounded to one.
    """
    loss, correct = (np.asarray(a) for a in (loss, correct))
    if evaluation.where is not None:
        loss, correct = loss[evaluation.where], correct[evaluation.where]
    rows = sides(evaluation)
    found: dict[str, float | None] = dict(
        retain=_share(correct[rows["retain"]]),
        forget=_share(correct[rows["forget"]]),
        test=_share(correct[rows["test"]]),
        mia=None,
        mia_matched=None,
        asr=_share(correct[rows["asr"]]) if "asr" in rows else None,
        loss_retain=_mean(loss[rows["retain"]]),
        loss_forget=_mean(loss[rows["forget"]]),
    )
    found |= more({name: loss[of] for name, of in rows.items()})
    if evaluation.guess is not None:
        found["guess"] = evaluation.guess
    if attack:
        found["mia"] = mia(loss[rows["forget"]], loss[rows["test"]])
        found["mia_matched"] = mia(loss[evaluation.members], loss[evaluation.others])
    if evaluation.forgotten_classes:
        gone = np.isin(evaluation.test_y, evaluation.forgotten_classes)
        right = correct[rows["test"]]
        found |= dict(test_kept=_share(right[~gone]), test_forgotten=_share(right[gone]))
    if evaluation.clients is not None and len(evaluation.clients[0]):
        kept, owner = evaluation.clients
        found |= dict(
            worst_client=round(worst(correct[kept], owner), 10),
            client_spread=round(spread(correct[kept], owner), 10),
        )
    return found


# jit caches the program of each function.
_per_example = jax.jit(
    lambda apply, judge, *rest: per_example(apply, judge=judge)(*rest), static_argnums=(0, 1)
)


def _share(correct: np.ndarray) -> float | None:
    return round(100 * float(correct.mean()), 10) if correct.size else None


def _mean(loss: np.ndarray) -> float | None:
    return float(f"{loss.mean():.6g}") if loss.size and np.isfinite(loss).all() else None
