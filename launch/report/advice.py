"""Forecasts for NoT before it starts, from what is known then.

Two rules need no retrained model. They come from the map of ``launch.pays``
(``results/pays-digits-cpu.jsonl``: small networks on small images). A test compares the numbers
here with that file.

* Training reaches 0.5 points below its last accuracy after some number of rounds. NoT took 0.7
  times as many rounds to recover (0.5 to 1.0 in eight of ten cases).
* The excess is what the model shows of the data to forget beyond what it shows of unseen data.
  Up to ten points of excess, fine-tuning for as many rounds came as close to retraining as NoT.
  Above sixty points it never did.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jfu
from jfu.results import learnt

# Rounds that NoT needed, as a share of training's: median, first and last decile.
USUAL, FEWEST, MOST = 0.7, 0.5, 1.0
# Points of excess up to which fine-tuning did as well, and above which it never did.
LITTLE, MUCH = 10.0, 60.0


def outlook(
    config: Mapping[str, Any],
    row: Mapping[str, Any],
    training: Sequence[Mapping[str, Any]],
    poisoned: bool,
) -> list[str]:
    """Sentences for a user who is about to answer a request with NoT.

    Args:
      config: the request's configuration, with the fields of ``launch.shell.config.Config``.
      row: measures of the original model.
      training: rows of its training, by round; empty if they are not known.
      poisoned: whether the request names every image with the trigger.

    >>> training = [dict(round=number, retain=float(number)) for number in range(1, 101)]
    >>> row = dict(retain=100.0, forget=99.0, test=97.5, asr=None)
    >>> config = dict(forget="client:0", recovery_rounds=50)
    >>> for line in outlook(config, row, training, poisoned=False):
    ...     print(line)
    outlook: back after about 70 rounds (50 to 100), more than the 50 there are: training took 100
    outlook: the model shows 1.5 points more on data to forget than on unseen data: fine-tuning \
alone (--method=finetune --stop=budget) may come as close
    """
    if not learnt(row):
        how = "naming one class gets as much right; train anew, with another --lr"
        return [f"outlook: the model retains {row['retain']:.1f} % and has learnt nothing: {how}"]
    lines, budget = [], config["recovery_rounds"]
    if took := jfu.first_round_within(training, row["retain"]):
        usual, fewest, most = (max(1, round(share * took)) for share in (USUAL, FEWEST, MOST))
        words = f", more than the {budget} there are" * (usual > budget)
        lines.append(
            f"back after about {usual} rounds ({fewest} to {most}){words}: training took {took}"
        )
    points = excess(config["forget"], row, poisoned)
    if points is not None:
        more = f"{points:.1f} points" if points > 0 else "no"
        shown = f"the model shows {more} more on data to forget than on unseen data"
        if points <= LITTLE:
            how = "--method=finetune --stop=budget"
            lines.append(f"{shown}: fine-tuning alone ({how}) may come as close")
        elif points > MUCH:
            lines.append(f"{shown}: fine-tuning alone would leave much of it")
    return [f"outlook: {line}" for line in lines]


def behind(config: Mapping[str, Any], row: Mapping[str, Any], last: Mapping[str, Any]) -> list[str]:
    """A sentence if retained accuracy has not recovered, with what may help.

    Args:
      row: measures of the original model.
      last: measures after the last round of recovery.

    >>> config = dict(recovery_rounds=40, recovery_warmup_rounds=0)
    >>> behind(config, dict(retain=100.0), dict(retain=99.5, round=31))
    []
    >>> print(*behind(config, dict(retain=100.0), dict(retain=33.3, round=40)))
    not back: retained accuracy is 33.3 % after 40 rounds, and was 100.0 %; try \
--recovery_warmup_rounds=3 (recovery begins at the full rate, which can be too much for what \
negation leaves) or more than --recovery_rounds=40
    """
    if not learnt(last):
        how = "naming one class gets as much right; try a smaller --recovery_lr"
        return [f"not back: the model retains {last['retain']:.1f} % and has learnt nothing: {how}"]
    if last["retain"] >= row["retain"] - 0.5:
        return []
    now, was = f"{last['retain']:.1f} % after {last['round']} rounds", f"{row['retain']:.1f} %"
    line = f"not back: retained accuracy is {now}, and was {was}; try "
    if not config["recovery_warmup_rounds"] and last.get("method") != "not_blend":
        line += "--recovery_warmup_rounds=3 (recovery begins at the full rate, which can be too "
        line += "much for what negation leaves) or "
    return [f"{line}more than --recovery_rounds={config['recovery_rounds']}"]


def excess(forget: str, row: Mapping[str, Any], poisoned: bool) -> float | None:
    """How much more the model shows of the data to forget than of unseen data, in points.

    It is the backdoor's success if the request names all the poison. Else it is the accuracy on
    that data minus that on test images. It is None for requests of classes, because test images
    contain the same classes.
    """
    if poisoned:
        return row["asr"]
    if forget.startswith("class:"):
        return None
    return row["forget"] - row["test"]
