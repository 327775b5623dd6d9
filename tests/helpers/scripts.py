"""The scripts as a user runs them: in processes of their own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest

ROOT = Path(__file__).resolve().parents[2]

# Compiling is most of the time in these tests, so XLA is to take little trouble over it: the
# programs are slower and as exact. Newer JAX has no fusion emitters to do without.
CHEAP = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
CHEAP += " --xla_cpu_parallel_codegen_split_count=1"
if jax.__version_info__ < (0, 11):
    CHEAP += " --xla_cpu_use_fusion_emitters=false"

SMALL = ["--dataset=synthetic", "--train_size=200", "--clients=4", "--rounds=4"]


def compiled(of: str) -> dict[str, str]:
    """Settings of JAX that keep compiled programs in a folder of the tests' own.

    ``JFU_TEST_CACHE`` may name a folder that several calls of pytest share. What tests compile
    themselves all processes share. What scripts compile has a folder for each process of tests,
    since scripts are killed, and half of a program that is left behind is told to whoever reads it.
    """
    return {
        "JAX_COMPILATION_CACHE_DIR": str(Path(os.environ["JFU_TEST_CACHE"]) / of),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }


def of_scripts() -> dict[str, str]:
    return compiled(f"scripts-{os.environ.get('PYTEST_XDIST_WORKER', 'gw0')}")


def environment(cached: bool = True) -> dict[str, str]:
    # Not what these tests' own devices were given: a script decides for itself.
    env = {k: v for k, v in os.environ.items() if k not in ("PJRT_NPROC", "XLA_FLAGS")}
    env |= dict(PYTHONPATH=str(ROOT), JAX_PLATFORMS="cpu")
    env["PYTHONWARNINGS"] = ",".join(  # of the scripts' own calls
        f"error::DeprecationWarning:{module}" for module in ("__main__", "launch", "jfu")
    )
    if cached:
        env |= of_scripts()
        env["TF_CPP_MIN_LOG_LEVEL"] = "3"
        env["XLA_FLAGS"] = CHEAP
    return env


def fresh_launch(script: str, *flags: str, cwd: Path = ROOT) -> str:
    """What a script prints that is started as users start it, and compiles in full."""
    command = [sys.executable, "-m", f"launch.{script}", *map(str, flags)]
    env = environment(cached=False)
    done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def rows_of(workdir: Path, *, without: tuple[str, ...] = ()) -> list[dict]:
    lines = (workdir / "results.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k not in without} for line in lines]


def rare(*values):
    """Cases that are left to the slow tests."""
    return [pytest.param(value, marks=pytest.mark.slow) for value in values]


def started(*command, **more):
    pipes, env = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True), environment()
    if "preexec_fn" in more:  # under a limit it would leave half of a compiled program behind
        del env["JAX_COMPILATION_CACHE_DIR"]
    return subprocess.Popen([sys.executable, *command], cwd=ROOT, env=env, **pipes, **more)


def planted(code, **more):
    """A process of a script, whose first line "now" was read if it says that."""
    head = "import os, signal, time\nfrom absl import flags\nfrom launch.shell import entry\n"
    head += 'from launch.shell.printing import show, tell\nflags.DEFINE_bool("debug", False, "")\n'
    process = started("-c", f"{head}{code}\nentry.run(script)", **more)
    if 'show("now")' in code:
        assert process.stdout.readline() == "now\n"
    return process


def ended(process):
    with process:  # a line that was read may have brought more, which only the stream knows
        out, err = process.stdout.read(), process.stderr.read()
        return process.wait(60), out, err


def fresh(code, **env):
    """The last line that a fresh process prints, read as JSON."""
    kept = {k: v for k, v in os.environ.items() if k not in ("PJRT_NPROC", "NPROC", "XLA_FLAGS")}
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, env=kept | env
    )
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout.splitlines()[-1])
