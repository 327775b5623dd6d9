"""How often an audit's verdicts are wrong, on simulated models.

Of the signs of memory, the simulated models have rounds to relearn, the most memorised examples,
sizes of gradients, and what resurfaces. They have no others (``UNSEEN``): linear probes read
features, a second negation acts on weights, and a canary needs a language model.
"""

import json
from typing import Any, NamedTuple

import numpy as np
from absl import flags

from jfu import attacks, results, tables
from jfu.audit import estimates, probes, rules, verdicts
from jfu.audit.measures import OLD, RETRAINED, TABLE, THIRD, Evidence
from jfu.audit.pairs import areas
from launch.report.terminal import is_small
from launch.shell.printing import show
from launch.shell.say import say

FLAGS = flags.FLAGS
EXAMPLES, MANY, PAIRS = (14, 144, 1000), (5, 10), 32
MODELS = (OLD, "retrain", results.AGAIN, THIRD, "none", "old anew", "half", "exact")
JUDGED = MODELS[4:]  # judged as methods are
COVERED = ("forget", "auc_matched", "rmia")  # measures whose intervals' coverage is counted
UNSEEN = ("probe", "probe_poison", "undo_forget", "undo_asr", "exposure")  # signs of memory
TESTS, LIMIT = 360, 20  # test images; rounds in which the data may be relearnt


class Request(NamedTuple):
    """Scores phi of forgotten and matched test examples, as models give them.

    phi = mean + trigger + example + model + noise. Only the noise is drawn for each example in each
    model. A memorised score is ``phi + heart max(0, 4 - phi)``, on forgotten examples.
    """

    mean: float
    example: float  # deviation over examples, the same in all models of a seed
    model: float  # over models, the same in all examples
    noise: float
    trigger: float = 0.0  # added by a model that saw the trigger, on every example with it
    heart: float = 0.0
    relearn: float = 0.0  # rounds that retrained models need, on average


REQUESTS = dict(
    poison=Request(-11.4, 7.3, 1.8, 2.8, trigger=18.4, heart=0.05, relearn=17.0),
    heart=Request(8.3, 3.2, 0.3, 1.6, heart=1.0),
    faint=Request(8.3, 3.2, 0.3, 1.6, heart=0.25),
)
KNOWN = {OLD: 1.0, "none": 1.0, "old anew": 1.0, "half": 0.5}  # of the memory, by model


def of_seed(request: Request, examples: int, rng: np.random.Generator) -> dict[str, dict]:
    """One seed's models on its own examples: arrays by model and measure.

    Newer signs of memory have a generator of their own, so that other numbers stay as they were.
    """
    (more,) = rng.spawn(1)
    level = request.mean + request.example * rng.normal(size=(2, examples))
    phi = {
        name: scored(request, level, KNOWN.get(name, 0.0), name in KNOWN, rng)
        for name in MODELS
        if name != "none"
    }
    found = {name: measured(request, phi, name, rng) for name in phi}
    for name, arrays in found.items():
        arrays |= later_signs(request, phi[name], arrays, more)
    members = {name: values[0] for name, values in phi.items()}
    right = {name: values > 0 for name, values in members.items()}
    for name, signs in probes.most_memorised(members, right).items():
        found[name] |= signs
    return found | {"none": found[OLD] | {}}


def scored(request, level, known: float, saw: bool, rng) -> np.ndarray:
    """phi of members and non-members, ``[2, n]``, under one model."""
    phi = level + request.model * rng.normal() + request.noise * rng.normal(size=level.shape)
    phi = phi + request.trigger * saw * known
    phi[0] += known * request.heart * np.maximum(0, 4 - phi[0])
    return phi


def measured(request: Request, phi: dict, name: str, rng) -> dict[str, tuple]:
    """The samples of one model, as ``jfu.audit.collect`` makes them."""
    members, others = phi[name]
    p = {other: 1 / (1 + np.exp(-phi[other])) for other in (name, *RETRAINED)}
    references = [p[other] for other in RETRAINED if other != name]
    scores = attacks.rmia(
        p[name][0],
        np.stack([r[0] for r in references]),
        p[name][1],
        np.stack([r[1] for r in references]),
    )
    # The loss attack's accuracy, with one threshold in the middle instead of ten learnt ones.
    middle = np.median(phi[name])
    hits = np.concatenate([members > middle, others <= middle])
    out = dict(
        forget=(members > 0,),
        mia_matched=(np.array([100 * hits.mean()]),),
        auc_matched=(members, others),
        rmia=scores,
        relearn=relearnt(request, members, name, rng),
    )
    if len(members) >= 1000:
        out |= dict(tpr_1=(members, others), rmia_tpr_1=scores)
    if request.trigger:
        rate = np.clip(rng.normal(0.91, 0.06), 0, 1) if name in KNOWN else abs(rng.normal(0, 0.004))
        out["asr"] = (rng.random(TESTS) < rate * KNOWN.get(name, 1.0),)
    return out


def later_signs(request: Request, phi, found: dict, rng) -> dict[str, tuple]:
    """How small gradients are, and what a model shows after further rounds on retained data.

    The size of an example's gradient goes with 1 - p. In further rounds what is remembered stays,
    and there is new noise.
    """
    small = np.logaddexp(0, phi) + 0.3 * rng.normal(size=phi.shape)
    later = phi + request.noise * rng.normal(size=phi.shape) / np.sqrt(2)
    onward = dict(forget=(later[0] > 0,), auc_matched=(later[0], later[1]))
    if "asr" in found:
        onward["asr"] = (found["asr"][0] ^ (rng.random(TESTS) < 0.01),)
    out = {f"resurfacing.{key}": arrays for key, arrays in onward.items()}
    return out | dict(gradient_auc_matched=(small[0], small[1]))


def relearnt(request: Request, members, name: str, rng) -> tuple[np.ndarray, np.ndarray]:
    """Rounds until a model knows 95 in 100 of the members; what it knew comes back at once."""
    rounds = 0
    if (members > 0).mean() < 0.95:
        slow = request.relearn * np.exp(rng.normal(-0.1, 0.45))
        rounds = 1 + rng.poisson(1) if name in KNOWN else 1 + round(slow + rng.poisson(1))
    return np.array([min(rounds, LIMIT + 1)]), np.array([LIMIT])


def of_pairs(request: Request, examples: int, rng, pairs: int = PAIRS) -> dict[str, dict]:
    """The samples of pairs of shadow federations for every model, on one split of the data."""
    level = request.mean + request.example * rng.normal(size=(2, examples))
    phi = lambda known, saw: np.stack(
        [scored(request, level, known, saw, rng)[0] for _ in range(pairs)]
    )
    retrained, other = phi(0.0, False), phi(0.0, False)
    found: dict[str, dict] = {}
    for name in (OLD, THIRD, "old anew", "half", "exact"):
        known = KNOWN.get(name, 0.0)
        inside = phi(known, name in KNOWN)
        # Without an example, a shadow learnt the trigger from others, and memorised nothing.
        bare = request._replace(heart=0.0)
        outside = np.stack([scored(bare, level, known, known > 0, rng)[0] for _ in range(pairs)])
        if name == THIRD:
            inside, outside = retrained, other
        found[name] = areas("ulira", inside, retrained)
        found[name] |= areas("lira", inside, outside)
    return found | {"none": found[OLD] | {}}


def audit(request: Request, seeds: list[dict], pairs: dict[str, dict]) -> tuple[dict, dict]:
    """Verdicts on every judged model and on the third retraining, and their measures."""
    found: Evidence = {name: {} for name in MODELS}
    for number, seed in enumerate(seeds):
        for name, arrays in seed.items():
            for key, value in arrays.items():
                found[name].setdefault(key, {})[number] = value
    for name, more in pairs.items():
        found[name] |= more
    measures, *_ = estimates.estimate(found, TABLE, 100)
    asked = bool(request.trigger)
    known = verdicts.controls(measures, {}, asked)
    out = {name: verdicts.forgotten(measures[name], {}, asked, known) for name in JUDGED}
    return out | {THIRD: known.third}, measures


def rates(name: str, examples: int, seeds: int, runs: int, pool: list[dict]) -> dict[str, Any]:
    """Shares of audits by verdict and model, and of intervals that contain the true value.

    Shadow federations take long, and are independent of the seeds' models. So each one of a pool is
    used with several draws of those models.
    """
    request = REQUESTS[name]
    rng = np.random.default_rng([[*REQUESTS].index(name), examples, seeds])
    said: dict[str, dict[str, int]] = {}
    entries: dict[tuple[str, str], list] = {}
    for run in range(runs):
        models = [of_seed(request, examples, rng) for _ in range(seeds)]
        found, measures = audit(request, models, pool[run % len(pool)])
        for model, (verdict, why) in found.items():
            label = "too small" if is_small(verdict, why) else verdict
            said.setdefault(model, {}).setdefault(label, 0)
            said[model][label] += 1
        for model in (OLD, "exact"):
            for key in COVERED:
                entries.setdefault((model, key), []).append(measures[model][key])
    shares = {model: {k: n / runs for k, n in counts.items()} for model, counts in said.items()}
    held = {f"{model}: {key}": coverage(found) for (model, key), found in entries.items()}
    about = dict(request=name, examples=examples, seeds=seeds, runs=runs, shadows=len(pool))
    return about | dict(shares=shares, held=held)


def coverage(entries: list[dict[str, Any]]) -> dict[str, float]:
    """How many intervals contain the mean over all audits: of values, and of differences."""

    def within(found):
        truth = np.mean([one["value"] for one in found])
        return float(np.mean([one["low"] - 1e-9 <= truth <= one["high"] + 1e-9 for one in found]))

    return dict(value=within(entries), difference=within([one["difference"] for one in entries]))


def measure() -> None:
    import jfu.io

    if not FLAGS.json:
        raise ValueError(
            "--json is missing; give a file, such as --json=launch/results/audit-rates.json"
        )
    lines = []
    for name in FLAGS.requests:
        for examples in map(int, FLAGS.examples):
            # Audits of many examples take longest, mostly for shadow federations.
            runs = FLAGS.runs if examples < 1000 else max(1, 2 * FLAGS.runs // 5)
            rng = np.random.default_rng([[*REQUESTS].index(name), examples])
            pool = [of_pairs(REQUESTS[name], examples, rng) for _ in range(max(1, runs // 20))]
            for seeds in MANY:
                lines.append(rates(name, examples, seeds, runs, pool))
                say(json.dumps(lines[-1]))
                text = json.dumps(lines, indent=1)  # the results so far, if it is stopped
                jfu.io.write_bytes(FLAGS.json, (text + "\n").encode())
    show(markdown(lines))


def markdown(lines: list[dict[str, Any]]) -> str:
    """Shares of audits in percent, and the lowest share of intervals with the true value."""
    shown = {
        "old: yes": ("none", "yes"),
        "no": ("none", "no"),
        "old anew: yes": ("old anew", "yes"),
        "half: yes": ("half", "yes"),
        "third: no": (THIRD, "no"),
        "exact: no": ("exact", "no"),
        "yes": ("exact", "yes"),
        "too small": ("exact", "too small"),
        "nothing there": ("exact", rules.NOT_SHOWN),
    }
    rows = [["request", "examples", "seeds", *shown, "95 % hold", "90 % hold"]]
    for line in lines:
        found = [line["shares"][model].get(label, 0) for model, label in shown.values()]
        held = [min(each[k] for each in line["held"].values()) for k in ("value", "difference")]
        begin = [line["request"], str(line["examples"]), str(line["seeds"])]
        rows.append(begin + [f"{100 * share:.1f}" for share in (*found, *held)])
    return tables.aligned(rows)
