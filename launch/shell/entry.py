"""The start of every script: reads flags, and turns an error into one sentence."""

import gc
import math
import os
import sys
import time
import warnings
from collections.abc import Callable

from absl import app, flags, logging

from launch.shell import door, help, interrupt, watch
from launch.shell.printing import prepare, show
from launch.shell.say import complain, joined, sentence

# Python's thresholds for a search for cycles of objects. JAX makes hundreds of thousands of objects
# that stay, and with Python's own (700, 10, 10) a sixth of a script's start goes into searches.
SELDOM = (50_000, 20, 100)


def run(main: Callable[[], None], *, private: bool = True) -> None:
    """Runs a script. An error that a user can repair is one sentence, with exit status 2.

    Args:
      private: only the owner may read the files and folders that the script makes, because they
        have models and data about single people. ``open_up`` opens the files that a user named.
    """
    if private:
        os.umask(0o077)
    gc.set_threshold(*SELDOM)
    watched = watch.is_child()
    prepare()
    if help.wanted(sys.argv[1:]):
        show(help.text(flags.FLAGS, sys.argv[0], sys.modules["__main__"].__doc__ or ""))
        raise SystemExit(1)
    interrupt.catch()

    def guarded(argv: list[str]) -> None:
        if watched:
            watch.silence()
        elif watch.wanted("coordinator" in flags.FLAGS and flags.FLAGS.coordinator):
            raise SystemExit(watch.over(show_all=debugged()))
        logging.set_verbosity(logging.ERROR)  # libraries warn of what the error will say anyway
        warnings.filterwarnings(
            "ignore", module="joblib"
        )  # joblib warns after it has tested where it can write
        check_words(argv)
        try:
            door.check(flags.FLAGS)
            main()
        except OutOfTime as stop:
            show(f"stopped: {stop}; the same command continues")
        except Exception as error:
            if debugged() or not (why := known(error)):
                raise
            complain(why)
        except KeyboardInterrupt:
            complain("stopped; the same command continues from the last checkpoint", status=130)

    def among_others(argv: list[str]) -> None:
        """On several hosts: no host waits for a failed one, and none leaves before all can."""
        try:
            guarded(argv)
            if joined():
                from launch.shell import joining

                joining.leave()
        except BaseException as error:
            if not joined():
                raise
            from launch.shell import joining

            joining.failed(error)

    try:
        door.check_files(sys.argv[1:])
    except (ValueError, OSError) as error:
        complain(sentence(error))
    try:
        app.run(among_others)
    except BrokenPipeError:  # the reader of --help has gone away
        raise SystemExit(1) from None
    finally:
        if watched:
            watch.by_itself()
        gc.freeze()  # or Python would search all objects for cycles before it ends


def check_words(argv: list[str]) -> None:
    """Ends the script if a word of the command line is not a flag.

    Args:
      argv: the script's name, and the words that absl did not read.
    """
    if len(argv) > 1:
        complain(f"{argv[1]!r} is not a flag; write flags as --name=value, see --help")
    if name := passed_over(sys.argv[1:]):
        complain(f"--{name} is not a flag of this script, see --help")


def debugged() -> bool:
    """Whether a user wants tracebacks; a script need not have the flag."""
    return "debug" in flags.FLAGS and flags.FLAGS.debug


def passed_over(words: list[str]) -> str:
    """The first typed flag that this script lacks, and that a preset's --undefok let pass.

    A preset may name flags that only some scripts have. A typed flag must exist.

    >>> passed_over(["--flagfile=a.flags", "--methodz=not"])
    'methodz'
    """
    names = [word[2:].partition("=")[0] for word in words if word.startswith("--")]
    known = {"", "flagfile", "undefok", *flags.FLAGS}
    lacking = [n for n in names if n not in known and n.removeprefix("no") not in known]
    return lacking[0] if lacking and "undefok" not in names else ""


def known(error: Exception) -> str:
    """The message for an error that a user can repair; empty for an unexpected error."""
    if not isinstance(error, ValueError) and watch.tells_of_memory(error):
        return watch.no_memory()
    if isinstance(error, ValueError | OSError):
        return sentence(error)
    return no_device() if isinstance(error, RuntimeError | AssertionError) else ""


def no_device() -> str:
    """Why JAX cannot start, in a sentence; empty if it can."""
    jax = sys.modules.get("jax")
    try:
        _ = jax and jax.default_backend()
        return ""
    except (RuntimeError, AssertionError) as error:
        platform = os.environ.get("JAX_PLATFORMS") or "the default"
        reason = " ".join(str(error).split()) or "no such device was found"
        return (
            f"JAX cannot start on {platform} ({reason}); unset JAX_PLATFORMS to use the devices "
            "that exist, or install JAX for that device, as its documentation says"
        )


class OutOfTime(Exception):
    """``--max_minutes`` is over; the results so far are in the work directory; exit status 0."""


def deadline(minutes: float | None) -> float:
    """When ``--max_minutes`` end, on the clock of ``time.perf_counter``; infinity by default."""
    return math.inf if minutes is None else time.perf_counter() + 60 * minutes
