"""Ctrl-C: at every moment one sentence and exit status 130, and the same command continues."""

import os
import signal
import time

import pytest

from helpers.crashes import POINTS, TRAIN, results
from helpers.scripts import ended, planted, started
from launch.shell.interrupt import STOPPED

SENTENCE = STOPPED.decode()
SMALL = ["-m", "launch.train", *TRAIN[1:]]
# Imports one after another, the first before a flag is read, the last when all are nearly done.
MODULES = ["absl.flags", "numpy", "jax._src.core", "launch.setup.study"]
MANY = [*MODULES, "absl.app", "jaxlib", "jax._src.xla_bridge", "flax.core", "optax", "jfu.types"]


def stopped(status, said):
    """One sentence, its last line; what went before it are notes and lines of progress."""
    assert status == 130, said
    assert said.endswith(SENTENCE) and said.count("error: ") == 1
    assert "Traceback" not in said and "KeyboardInterrupt" not in said
    return True


def test_where_python_would_swallow_it():
    code = """
class Last:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.01)
def script():
    Last()
    print("went on")
"""
    assert ended(planted(code)) == (130, "", SENTENCE)


def test_where_it_would_become_another_error():
    code = """
def script():
    try:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(60)
    except BaseException as error:
        raise RuntimeError("a callback failed") from error
"""
    assert ended(planted(code)) == (130, "", SENTENCE)


def test_in_native_code_that_does_not_return():
    code = """
import hashlib
def script():
    show("now")
    hashlib.pbkdf2_hmac("sha256", b"", b"", 10**9)
"""
    process = planted(code)
    time.sleep(0.5)  # and is there
    process.send_signal(signal.SIGINT)
    assert ended(process) == (130, "", SENTENCE)


def test_twice_in_a_row_and_what_was_shown_was_shown():
    process = planted('def script():\n    show("now"); show("a table"); time.sleep(60)')
    time.sleep(0.2)
    for _ in range(2):
        process.send_signal(signal.SIGINT)
    assert ended(process) == (130, "a table\n", SENTENCE)


def test_nobody_reads_what_it_says():
    """A full pipe, whose reader stands still, does not hold the end up."""
    code = """
def script():
    os.set_blocking(2, False)
    while True:
        try:
            os.write(2, b"x" * 4096)
        except BlockingIOError:
            break
    os.set_blocking(2, True)
    show("now")
    time.sleep(60)
"""
    process = planted(code)
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130
    process.communicate()


def test_who_ignores_it_is_left_alone():
    """As a shell's background jobs and nohup do."""
    ignore = lambda: signal.signal(signal.SIGINT, signal.SIG_IGN)
    code = 'def script():\n    show("now"); time.sleep(0.5); show("went on")'
    process = planted(code, preexec_fn=ignore)
    process.send_signal(signal.SIGINT)
    assert ended(process) == (0, "went on\n", "")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_other_signals_end_it_as_ever(number):
    process = planted('def script():\n    show("now"); time.sleep(60)')
    process.send_signal(number)
    assert ended(process) == (-number, "", "")


@pytest.mark.parametrize("modules", [MODULES, pytest.param(MANY, marks=pytest.mark.slow)], ids=len)
def test_during_imports(tmp_path, modules):
    """Python prints what it has imported, and is stopped as it does."""
    for module in modules:
        process = started("-X", "importtime", *SMALL, f"--workdir={tmp_path / 'w'}")
        imported = (line.rpartition("|")[2].strip() for line in process.stderr)
        assert any(name == module for name in imported), module
        process.send_signal(signal.SIGINT)
        rest = process.stderr.read()
        assert stopped(process.wait(60), rest), module
        process.stdout.close()
        process.stderr.close()
    assert not (tmp_path / "w").exists()


@pytest.mark.slow
@pytest.mark.parametrize("number", [4, 16])
def test_at_any_moment_of_a_training(forks, small_training, tmp_path, number):
    """Compiling, training, writing; all go on to what a training ends at that nobody stopped."""
    folder, ended = tmp_path / "w", 0
    for moment in range(number):
        pid = forks.start(*TRAIN, f"--workdir={folder}")
        time.sleep(3 * (moment + 0.5) / number)
        os.kill(pid, signal.SIGINT)
        end = forks.wait(pid, 60)
        ended += end.status == 0  # all was done before
        assert end.status == 0 or stopped(*end)
    assert ended < number
    assert forks.run(*TRAIN, f"--workdir={folder}").status == 0
    assert results(folder) == results(small_training)


EVERY = [(point, name) for name in ("model.safetensors", "ledger.jsonl") for point in POINTS]
SOME = [("half", "model.safetensors"), ("written", "ledger.jsonl")]


@pytest.mark.parametrize("points", [SOME, pytest.param(EVERY, marks=pytest.mark.slow)], ids=len)
def test_in_the_final_writes(forks, small_training, tmp_path, points):
    """A file is there whole or not at all."""
    folder = tmp_path / "w"
    for point, name in points:
        fault = dict(kill=(point, name, 1), by=int(signal.SIGINT))
        assert stopped(*forks.run(*TRAIN, f"--workdir={folder}", **fault))
        assert (folder / name).exists() == (point == "replaced")
    assert forks.run(*TRAIN, f"--workdir={folder}").status == 0
    assert results(folder) == results(small_training)
