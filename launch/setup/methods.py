"""The methods of a study: how they run, what training must keep for them, and their budgets."""

from collections.abc import Sequence
from typing import Any

import jfu
import jfu.history
from jfu.unlearn import UNLEARNERS, first_round, traits_of
from launch.setup import federation
from launch.setup.study import Study
from launch.setup.trial import Trial
from launch.shell.config import Config
from launch.shell.say import say


def build_methods(study: Study, names: list[str]) -> dict[str, jfu.Unlearner]:
    """The methods with these names, as the study runs them.

    Raises:
      ValueError: a method does not exist, or is not possible with the study's flags.
    """
    _check(study, names)
    made = {name: UNLEARNERS[name](study.setting) for name in names}
    for text in notes(study.config, made):
        say(f"note: {text}")
    made = bounded(study.config, made)
    return made | ({"retrain": study.fresh} if "retrain" in made else {})


def _check(study: Study, names: list[str]) -> None:
    if unknown := [n for n in names if n not in UNLEARNERS]:
        raise ValueError(
            f"there is no method {', '.join(unknown)}; the methods are {', '.join(UNLEARNERS)}"
        )
    config = study.config
    federation.check(config, names)
    averaging = config.server == "sgd" and config.server_lr == 1 and config.aggregator == "mean"
    for name in names:
        if UNLEARNERS[name].needs.proxy_data and study.setting.proxy is None:
            raise ValueError(
                f"{name} needs unlabelled images at the server; reserve some with --proxy=0.1"
            )
        if UNLEARNERS[name].traits.of_means and not averaging:
            raise ValueError(
                f"{name} assumes that the model is the mean of the clients' models; that needs "
                "--server=sgd, --server_lr=1 and --aggregator=mean; leave out the method, or the "
                "other values of these flags"
            )


def notes(config: Config, made: dict[str, jfu.Unlearner]) -> list[str]:
    """Sentences that a user should read about these methods before they run."""
    alone = [name for name, method in made.items() if not traits_of(name).solves]
    out = [
        f"{name} has {made[name].own} rounds of its own, and its budget is {budget(config, name)} "
        "rounds: none is left for recovery"
        for name in alone
        if made[name].own and made[name].own >= budget(config, name)
    ]
    # FedEraser has none before recovery; own_now says in which rounds it replays.
    apart = [n for n, m in made.items() if (m.needs.target if m.own else m.own_now is not None)]
    if apart and config.aggregator != "mean":
        out.append(
            f"--aggregator={config.aggregator} is for ordinary rounds; in their own rounds "
            f"{', '.join(apart)} combine clients by their own formulas"
        )
    return out


def bounded(config: Config, made: dict[str, jfu.Unlearner]) -> dict[str, jfu.Unlearner]:
    """The methods as they run: their own rounds stay within ``--max_update_norm``."""
    limit = config.max_update_norm
    if limit is None:
        return made
    return {name: jfu.faults.bounded(method, limit) for name, method in made.items()}


def remembered(names: Sequence[str]) -> tuple[str, ...]:
    """What training must keep for these methods."""
    known = [name for name in names if name in UNLEARNERS]
    wanted = {kind for name in known for kind in jfu.unlearn.needs_of(name).history}
    return tuple(kind for kind in jfu.history.KEPT if kind in wanted)


def remembering(study: Study, keep: Sequence[str], trial: Trial) -> Study:
    """The study with training that records a history."""
    if not keep:
        return study
    clients, rounds = trial.everything.retain, study.config.rounds
    fed = jfu.recorded(study.fed, keep, clients=clients, rounds=rounds)
    return study._replace(train=jfu.unlearn.retrain(fed, study.model.init))


def budget(config: Config, name: str) -> int:
    """The most rounds of a method's run; retraining has as many as training had."""
    trained = 0 if config.init_params else config.rounds
    known = dict.fromkeys(("retrain", "retrain_again", "rollback"), config.rounds)
    known |= dict(original=trained, none=0)
    return known.get(name, config.recovery_rounds)


def rounds_to_run(config: Config, name: str, history: Any, request: jfu.Split) -> int:
    """The rounds of a method's run on a seed, as ``budget``.

    A rollback runs only those that training ran after the state that it returns to, and says so.
    """
    most = budget(config, name)
    if name != "rollback":
        return most
    number = min(int(first_round(history["before"], request.forget)), most)
    if number == most:
        say("note: no client that loses examples took part, so rollback keeps the old model")
    elif number:
        say(
            f"rollback returns to the model after round {number} of {most}: before that, no client "
            "that loses examples took part"
        )
    else:
        say(
            "note: a client that loses examples took part in the first round, so rollback retrains "
            "from the same initial model"
        )
    return most - number
