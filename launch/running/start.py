"""The common start of training and answering: the model's source, the work directory."""

import pathlib
from typing import Any

from launch.records import ledgers, records, verification
from launch.setup.study import Study
from launch.setup.trial import Trial
from launch.shell import hosts
from launch.shell.config import Config
from launch.workdir import workdir
from launch.workdir.places import WorkDir


def check_source(source: str | None) -> None:
    """Refuses a source whose ledger or files are not as they were written."""
    if source:
        path = pathlib.Path(source)
        hosts.agreed(lambda: [ledgers.check(path), verification.read(path)])


def erased(work: WorkDir) -> dict[str, str]:
    """The erased files of a work directory, on every host; refuses an invalid ledger."""
    return hosts.agreed(lambda: ledgers.erased(work.path, ledgers.check(work.path)))


def begin(
    work: WorkDir,
    config: Config,
    script: str,
    study: Study,
    trial: Trial,
    source: str | None,
    more: dict[str, Any],
) -> WorkDir:
    """Opens the work directory for writing, and notes the run and its source in the ledgers.

    Args:
      source: the work directory of the model, None if there is none.
      more: further settings of the run, as ``config.json`` keeps them.
    """
    work = workdir.begin(work, config, script, study.layout, study.data, **more)
    hosts.agreed(lambda: records.reopen(work))
    work = workdir.keep_draws(work, trial.seed, trial.draws)
    records.follow(work, source)
    hosts.agreed(lambda: records.begun(work, config))
    return work
