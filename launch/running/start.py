"""What training and answering a request begin with: the model's source, the work directory."""

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
    """Refuses a work directory to begin from whose ledger or files are not as they were written."""
    if source:
        path = pathlib.Path(source)
        hosts.agreed(lambda: [ledgers.check(path), verification.read(path)])


def erased(work: WorkDir) -> dict[str, str]:
    """What of a work directory was erased, on every host; refuses what is not as it was written."""
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
    """Takes the work directory and notes in its ledger what is begun, and from which model.

    Args:
      source: the work directory of the model, None if there is none.
      more: what else the run depends on, as ``config.json`` keeps it.
    """
    work = workdir.begin(work, config, script, study.layout, study.data, **more)
    hosts.agreed(lambda: records.reopen(work))
    work = workdir.keep_draws(work, trial.seed, trial.draws)
    records.follow(work, source)
    hosts.agreed(lambda: records.begun(work, config))
    return work
