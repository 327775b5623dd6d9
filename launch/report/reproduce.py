"""The commands that reproduce a work directory, from its configuration."""

import dataclasses
import shlex

from launch.setup.idle import idle
from launch.shell.config import flag_of, having


def command(run, seeds: list[int], names: list[str]) -> str:
    """The commands that reproduce the work directory of a run, one on each line."""
    left = (*having("derived"), "data_dir", "further")
    alone = [run.more["method"]] if run.script == "unlearn" else []
    left += tuple(idle(run.config, alone))  # flags that do nothing would be refused
    words = [f"python -m launch.{run.script}"]
    for name, value in dataclasses.asdict(run.config).items():
        flag = flag_of(name)
        if value in (None, (), "") or name in left or flag in left:
            continue
        if isinstance(value, bool):
            words.append(f"--{flag}" if value else f"--no{flag}")
        else:
            text = ",".join(map(str, value)) if isinstance(value, tuple) else value
            words.append(f"--{flag}={text}")
    if run.script == "compare":
        methods = [n for n in names if n not in ("original", "retrain_again", "retrain_third")]
        words.append(f"--methods={','.join(methods)}")
        if run.more.get("keep_history"):
            words.append(f"--keep_history={','.join(run.more['keep_history'])}")
        begins = [s for s in seeds if s - 1 not in seeds]
        ends = [s for s in seeds if s + 1 not in seeds]
        spans = [
            [f"--first_seed={a}", f"--seeds={b - a + 1}"] for a, b in zip(begins, ends, strict=True)
        ]
    else:
        spans = [[]]
        words += [
            f"--{name}={','.join(v) if isinstance(v, list) else v}"
            for name, v in run.more.items()
            if v not in ([], None) and name not in left
        ]
    line = " ".join([words[0], *map(shlex.quote, words[1:])])
    return "\n".join(" ".join([line, *span]) for span in spans)
