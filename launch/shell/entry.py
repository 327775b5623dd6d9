"""What every script's entry does: flags in, one sentence out where something is wrong."""

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


def run(main: Callable[[], None], *, private: bool = True) -> None:
    """Runs a script; an error that a user can mend is one sentence and exit status 2.

    Args:
      private: what it makes, folders and files, is for their owner alone: models, and what they
        say of single people's data. ``open_up`` opens what a user asked for by name.
    """
    if private:
        os.umask(0o077)
    watched = watch.held()
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
        logging.set_verbosity(logging.ERROR)  # libraries hint at what the error will say
        warnings.filterwarnings("ignore", module="joblib")  # which tries what it can write, too
        check_words(argv)
        try:
            door.check(flags.FLAGS)
            main()
        except OutOfTime as stop:
            show(f"stopped: {stop}; the same command goes on")
        except Exception as error:
            if debugged() or not (why := known(error)):
                raise
            complain(why)
        except KeyboardInterrupt:
            complain("stopped; the same command goes on from the last checkpoint", status=130)

    def among_others(argv: list[str]) -> None:
        """On several hosts: none waits for one that has failed, and none leaves before all can."""
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
    except BrokenPipeError:  # of --help, which nobody reads to its end
        raise SystemExit(1) from None
    finally:
        if watched:
            watch.by_itself()


def check_words(argv: list[str]) -> None:
    """Ends the script where a word of the command line is no flag.

    Args:
      argv: the script's name and what absl has left of its words.
    """
    if len(argv) > 1:
        complain(f"{argv[1]!r} is no flag; flags are written --name=value, see --help")
    if name := passed_over(sys.argv[1:]):
        complain(f"--{name} is no flag of this script, see --help")


def debugged() -> bool:
    """Whether a user wants tracebacks; no script must have the flag."""
    return "debug" in flags.FLAGS and flags.FLAGS.debug


def passed_over(words: list[str]) -> str:
    """The first flag typed that this script lacks and that a preset's --undefok has let pass.

    A preset names flags that only some scripts have; one that is typed is meant.

    >>> passed_over(["--flagfile=a.flags", "--methodz=not"])
    'methodz'
    """
    names = [word[2:].partition("=")[0] for word in words if word.startswith("--")]
    known = {"", "flagfile", "undefok", *flags.FLAGS}
    lacking = [n for n in names if n not in known and n.removeprefix("no") not in known]
    return lacking[0] if lacking and "undefok" not in names else ""


def known(error: Exception) -> str:
    """What a user can do about an error; empty for one that nobody expects."""
    if not isinstance(error, ValueError) and watch.tells_of_memory(error):
        return watch.no_memory()
    if isinstance(error, ValueError | OSError):
        return sentence(error)
    return no_device() if isinstance(error, RuntimeError | AssertionError) else ""


def no_device() -> str:
    """Why JAX cannot start, in a sentence; empty where it can."""
    jax = sys.modules.get("jax")
    try:
        _ = jax and jax.default_backend()
        return ""
    except (RuntimeError, AssertionError) as error:
        asked = os.environ.get("JAX_PLATFORMS") or "the default"
        told = " ".join(str(error).split()) or "no such device was found"
        return (
            f"JAX cannot start on {asked} ({told}); unset JAX_PLATFORMS to take what there is, or "
            "install JAX for that device, as its documentation says"
        )


class OutOfTime(Exception):
    """``--max_minutes`` is over, and what was run is in the work directory; exit status 0."""


def deadline(minutes: float | None) -> float:
    """When ``--max_minutes`` are over, on the clock of ``time.perf_counter``; never without."""
    return math.inf if minutes is None else time.perf_counter() + 60 * minutes
