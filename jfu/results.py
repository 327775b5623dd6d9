"""Rows of results and their summary: means, gaps to retraining, costs, stopping rules.

A row has the measures of one method on one seed after one round. A work directory has rows as lines
of results.jsonl. Your own program makes them from ``jfu.evaluation.measures``. ``jfu.tables`` turns
a summary into Markdown.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NotRequired, TypedDict

import numpy as np

from jfu import unlearn
from jfu.metrics import GAP_MEASURES, first_round_within, gap, gap_per_seed
from jfu.types import Needs

AGAIN = "retrain_again"  # the second retraining, whose gap is the noise floor

# Measures of a model, in the order of tables. All are in percent or points of it, except
# errors, perplexities and exposure.
MEASURES = ("retain", "forget", "test", "test_kept", "test_forgotten", "mia", "mia_matched", "asr")
MEASURES += ("worst_client", "client_spread", "rmse_forget", "rmse_test")
MEASURES += ("perplexity_forget", "perplexity_test", "exposure", "extracted")
# Measures of every evaluated round; membership attacks run in some rounds only.
BRIEF = ("retain", "forget", "test", "asr")
# Costs of a method up to a round; they are the same on every machine.
SPENT = ("bytes_down", "bytes_up", "flops")
COSTS = (*SPENT, "storage", "seconds")
# All fields of a row that are numbers or None.
NUMBERS = (*MEASURES, "loss_retain", "loss_forget", "guess", *COSTS)


class Row(TypedDict):
    """One line of results.jsonl. None means not measured, or not finite.

    Accuracies are shares of right predictions. Costs count from the beginning of the method.
    """

    method: str
    seed: int
    round: int  # communication rounds so far; 0 is before the first
    retain: float | None  # accuracy on retained data, percent
    forget: float | None  # accuracy on data to forget, percent
    test: float | None  # accuracy on test data, percent
    mia: float | None  # accuracy of the loss attack on membership, percent; 50 is a coin toss
    mia_matched: float | None  # the same against test data of the same classes and poison, percent
    asr: float | None  # backdoor success, percent of triggered test images of other classes
    bytes_down: int  # from server to clients, bytes
    bytes_up: int  # from clients to server, bytes
    flops: float  # operations of clients
    storage: int  # history that training had to keep for the method, bytes
    seconds: float  # on this machine, without evaluation and compilation
    worst_client: NotRequired[float | None]  # lowest accuracy of a client that stays, percent
    client_spread: NotRequired[float | None]  # its standard deviation over these clients, points
    test_kept: NotRequired[float | None]  # test accuracy on retained classes, percent
    test_forgotten: NotRequired[float | None]  # test accuracy on classes to forget, percent
    rmse_forget: NotRequired[float | None]  # of a regression, on data to forget; targets' units
    rmse_test: NotRequired[float | None]  # on test data
    perplexity_forget: NotRequired[float | None]  # of a language model, on data to forget
    perplexity_test: NotRequired[float | None]  # on test data
    exposure: NotRequired[float | None]  # of a canary, bits (jfu.canary)
    extracted: NotRequired[float | None]  # 100 if greedy decoding gives its code, else 0
    loss_retain: NotRequired[float | None]  # mean cross-entropy on retained data, nats
    loss_forget: NotRequired[float | None]  # mean cross-entropy on data to forget, nats
    guess: NotRequired[float | None]  # retained data in its most frequent class, percent
    own: NotRequired[bool]  # whether this is one of the method's own rounds
    left_out: NotRequired[int]  # clients' updates that were not used; by reason:
    late: NotRequired[int]
    not_finite: NotRequired[int]
    too_long: NotRequired[int]
    not_applied: NotRequired[int]  # rounds whose mean was not finite
    calmed: NotRequired[int]  # rounds after which recovery started again, closer to a fresh model
    epsilon: NotRequired[float | None]  # of differential privacy; None if it is not bounded
    epsilon_is: NotRequired[str]  # why it is not bounded
    outside_epsilon: NotRequired[str]  # names of fields that epsilon does not cover


class MeanStd(TypedDict):
    """A mean over seeds, and the sample standard deviation (n - 1), which is 0 for one seed."""

    mean: float
    std: float


class Summary(TypedDict):
    """What ``summarise`` returns, and further fields for tables of a work directory."""

    seeds: list[int]
    methods: Mapping[
        str, dict[str, Any] | None
    ]  # None for a method that is not finished on any seed
    floor: dict[str, Any] | None
    config: Mapping[str, Any] | None
    cells: NotRequired[dict[str, dict[str, dict[str, int] | None]]]  # method -> seed -> progress
    paper: NotRequired[dict[str, dict[str, float]]]  # published numbers by method
    outside_epsilon: NotRequired[str]


def as_original(row: Mapping[str, Any]) -> dict[str, Any]:
    """The last row of training as the original model's row: round and costs are 0.

    The counts of updates left out of training, and training's epsilon, stay.

    >>> row = as_original(dict(method="train", round=30, retain=98.0, bytes_up=4096))
    >>> row["method"], row["round"], row["retain"], row["bytes_up"]
    ('original', 0, 98.0, 0)
    """
    nothing_yet = dict(round=0, bytes_down=0, bytes_up=0, flops=0.0, storage=0, seconds=0.0)
    return dict(row) | dict(method="original") | nothing_yet


def summarise(
    rows: Iterable[Mapping[str, Any]], config: Mapping[str, Any] | None = None
) -> Summary:
    """Means and standard deviations over seeds, gaps, costs to recover, and the noise floor.

    Args:
      rows: of all methods, seeds and evaluated rounds, as in ``Row``, in any order. The original
        model is ``method="original"`` and retraining is ``"retrain"``. A second retraining with
        other randomness is ``"retrain_again"``. All three may be missing.
      config: the configuration, which becomes part of the summary; None if there is none.

    Returns:
      ``methods.<name>`` with these entries:

      * each measure and cost after the method's last round, as ``{mean, std}``
      * ``gap``: the paper's gap, of the means over seeds; ``differences``: its terms
      * ``gap_per_seed``, ``rounds_to_recover`` and the costs up to that round
      * ``rounds_too_many``: by how much that may be too large, if a rule left rounds out
      * ``compared``: the number of seeds, of ``of``, that retraining has too; gaps and rounds are
        over these
      * ``epsilon`` of a private run: the largest over seeds, None if it is not bounded
      * ``left_out``: updates of clients that were not used
      * ``needs``: what the method needs
      * ``stopped``: the same measures at the round where each of four rules would stop
      * ``sound``: whether its models learned anything

      ``floor`` has the gaps of the second retrained model. Standard deviations are those of a
      sample (n - 1), 0 for one seed.

    >>> costs = dict(bytes_down=10, bytes_up=10, flops=1.0, storage=0, seconds=1.0)
    >>> def row(method, seed, retain, forget):
    ...     measures = dict(retain=retain, forget=forget, test=90.0, mia=50.0, asr=None)
    ...     return dict(method=method, seed=seed, round=5, **measures, **costs)
    >>> rows = [row("retrain", 0, 98.0, 90.0), row("retrain", 1, 96.0, 90.0)]
    >>> rows += [row("not", 0, 98.0, 92.0), row("not", 1, 98.0, 92.0)]
    >>> summary = summarise(rows)
    >>> summary["methods"]["retrain"]["retain"]["mean"], summary["methods"]["not"]["gap"]
    (97.0, 0.75)
    >>> summary["methods"]["not"]["rounds_to_recover"]
    {'mean': 5.0, 'std': 0.0}
    """
    runs: dict[str, dict[int, list]] = {}
    for row in rows:
        runs.setdefault(row["method"], {}).setdefault(row["seed"], []).append(row)
    last = lambda name: {s: max(r, key=lambda x: x["round"]) for s, r in runs[name].items()}
    reference = last("retrain") if "retrain" in runs else {}
    begin = last("original") if "original" in runs else {}
    by_rule = (config or {}).get("eval_every") == 0
    methods = {n: _of_method(runs[n], last(n), reference, by_rule) for n in runs if n != AGAIN}
    for name in methods:
        if name in unlearn.UNLEARNERS:
            methods[name]["needs"] = needs_in_words(unlearn.needs_of(name))
        if name not in ("original", "retrain", "none"):
            methods[name]["stopped"] = _stopped(runs[name], reference, begin)
    floor = None
    if AGAIN in runs and reference:
        floor = _of_method(runs[AGAIN], last(AGAIN), reference)
        # It is evaluated only at its end, so its round of recovery is not known.
        floor = {k: None if k.endswith("_to_recover") else v for k, v in floor.items()}
    seeds = sorted({seed for by_seed in runs.values() for seed in by_seed})
    return Summary(seeds=seeds, methods=methods, floor=floor, config=config)


def _of_method(
    runs: dict[int, list],
    last: dict[int, Any],
    reference: dict[int, Any],
    by_rule: bool = False,
) -> dict:
    """A method's entry, from its rows by seed, its last rows, and retraining's last rows.

    Args:
      by_rule: whether a rule decided which rounds were evaluated.
    """
    names = [m for m in (*MEASURES, *COSTS) if any(m in row for row in last.values())]
    # Runs that an earlier version finished lack measures of this one.
    out: dict[str, Any] = {m: mean_std([row.get(m) for row in last.values()]) for m in names}
    if epsilons := [row["epsilon"] for row in last.values() if "epsilon" in row]:
        out["epsilon"] = None if None in epsilons else max(epsilons)
    out["rounds"] = mean_std([row["round"] for row in last.values()])
    out["sound"] = all(learnt(row) for row in last.values())
    out["left_out"] = mean_std([row.get("left_out") for row in last.values()])
    seeds = [s for s in last if s in reference]
    ends, references = [last[s] for s in seeds], [reference[s] for s in seeds]
    out["of"], out["compared"] = len(last), len(seeds)
    out["gap"] = gap(ends, references) if seeds else None
    out["differences"] = {m: difference(ends, references, m) for m in GAP_MEASURES}
    out["gap_per_seed"] = mean_std(gap_per_seed(ends, references) or [None]) if seeds else None
    rounds = {s: first_round_within(runs[s], reference[s]["retain"]) for s in seeds}
    out["rounds_to_recover"] = mean_std(list(rounds.values()))
    if by_rule:
        most = max((_unseen(runs[s], r) for s, r in rounds.items() if r), default=0)
        out |= dict(rounds_too_many=most) if most else {}
    at = {s: next(row for row in runs[s] if row["round"] == r) for s, r in rounds.items() if r}
    traffic = [at[s]["bytes_down"] + at[s]["bytes_up"] if s in at else None for s in seeds]
    out["bytes_to_recover"] = mean_std(traffic)
    for cost in ("flops", "seconds"):
        out[f"{cost}_to_recover"] = mean_std([at[s][cost] if s in at else None for s in seeds])
    return out


def _unseen(rows: Sequence[Mapping[str, Any]], number: int) -> int:
    """The rounds just before an evaluated round that were not evaluated."""
    earlier = [row["round"] for row in rows if row["round"] < number]
    return number - max(earlier, default=0) - 1


def mean_std(values: Sequence[float | None]) -> MeanStd | None:
    """Mean and sample standard deviation; None if there are no values, or if one is None.

    >>> mean_std([1.0, 3.0])["mean"], mean_std([1.0, None])
    (2.0, None)
    """
    numbers = [value for value in values if value is not None]
    if not numbers or len(numbers) < len(values):
        return None
    std = float(np.std(numbers, ddof=1)) if len(numbers) > 1 else 0.0
    return MeanStd(mean=float(np.mean(numbers)), std=std)


def learnt(row: Mapping[str, Any]) -> bool:
    """Whether a model predicts retained data better than its most frequent class; True if unknown.

    A model that has diverged may have the same retained accuracy as a retrained model that has
    diverged too.

    >>> learnt(dict(retain=12.9, guess=12.9)), learnt(dict(retain=90.0, guess=12.9))
    (False, True)
    >>> learnt(dict(retain=90.0, loss_retain=None))
    False
    """
    guess, finite = row.get("guess"), row.get("loss_retain", 0.0) is not None
    return finite and (guess is None or row["retain"] > guess + 0.5)


def difference(
    rows: Sequence[Mapping[str, Any]], others: Sequence[Mapping[str, Any]], measure: str
) -> float | None:
    """Absolute difference of the means of a measure; None if a row has no value.

    >>> difference([dict(test=90.0), dict(test=92.0)], [dict(test=90.5)], "test")
    0.5
    """
    one, other = (mean_std([row[measure] for row in some]) for some in (rows, others))
    return None if one is None or other is None else abs(one["mean"] - other["mean"])


# ---------------------------------------------------------------- where to stop

RULES = dict(
    budget="the last round there was",
    recovered="first round with retained accuracy within 0.5 points of retraining's last",
    regained="first round with retained accuracy within 0.5 points of the original model's",
    oracle="the round with the smallest gap to retraining, which nobody could know",
)


def stops(
    rows: Sequence[Mapping[str, Any]], reference: Mapping[str, Any], begin: Mapping[str, Any]
) -> dict[str, Mapping[str, Any] | None]:
    """The row at which each of ``RULES`` stops one run; None if it never does.

    Args:
      rows: a method's rows of one seed, in any order.
      reference: retraining's last row of the seed.
      begin: the original model's row.

    >>> row = lambda number, retain: dict(round=number, retain=retain, forget=9, test=9, mia=50)
    >>> found = stops([row(1, 90.0), row(2, 96.0), row(3, 97.0)], row(9, 95.0), row(0, 97.0))
    >>> {rule: at["round"] for rule, at in found.items()}
    {'budget': 3, 'recovered': 2, 'regained': 3, 'oracle': 2}
    """
    at = {row["round"]: row for row in rows}
    last = at[max(at)]
    gaps = {r: gap([row], [reference]) for r, row in at.items() if r}
    known = {r: value for r, value in gaps.items() if value is not None}
    # Known only if the attack was run at every evaluated round.
    best = min(known, key=lambda r: known[r]) if known and len(known) == len(gaps) else None
    recovered = first_round_within(rows, reference["retain"])
    regained = first_round_within(rows, begin["retain"])
    return dict(
        budget=last,
        recovered=None if recovered is None else at[recovered],
        # In practice it continues to the budget if the accuracy never comes back.
        regained=last if regained is None else at[regained],
        oracle=None if best is None else at[best],
    )


def _stopped(
    runs: dict[int, list], reference: dict[int, Any], begin: dict[int, Any]
) -> dict[str, Any]:
    """Measures over seeds where each rule stops; None unless it stops on every seed."""
    seeds = [s for s in runs if s in reference and s in begin]
    found = {s: stops(runs[s], reference[s], begin[s]) for s in seeds}
    out: dict[str, Any] = {}
    for rule in RULES:
        rows = [row for s in seeds if (row := found[s][rule]) is not None]
        if not rows or len(rows) < len(seeds):
            out[rule] = None
            continue
        references = [reference[s] for s in seeds]
        gaps = gap_per_seed(rows, references)
        out[rule] = dict(
            rounds=mean_std([row["round"] for row in rows]),
            gap=gap(rows, references),
            gap_per_seed=mean_std(gaps) if gaps else None,
            **{m: mean_std([row[m] for row in rows]) for m in BRIEF},
        )
    return out


# ---------------------------------------------------------------- what methods need

NEEDS = dict(
    history="stored history",
    target="the leaving client takes part",
    forget_data="its data is read",
    per_client="the server sees single updates",
    proxy_data="data at the server",
)


def needs_in_words(needs: Needs) -> list[str]:
    """What a method needs, in words: the fields of ``Needs`` that are set, histories by name.

    >>> needs_in_words(Needs(history=("last",), target=True))
    ['history:last', 'target']
    """
    words = [name for name in NEEDS if getattr(needs, name) and name != "history"]
    return [f"history:{kind}" for kind in needs.history] + words
