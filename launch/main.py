"""What every script's entry does: flags in, one sentence out where something is wrong."""

import sys
from collections.abc import Callable

from absl import app, flags, logging


def run(main: Callable[[], None]) -> None:
    """Runs a script; an error that a user can mend is one sentence and exit status 2."""

    def guarded(argv: list[str]) -> None:
        logging.set_verbosity(logging.ERROR)  # libraries hint at what the error will say
        if len(argv) > 1:
            complain(f"{argv[1]!r} is no flag; flags are written --name=value, see --help")
        try:
            main()
        except (ValueError, OSError) as error:
            if flags.FLAGS.debug:
                raise
            complain(str(error))
        except KeyboardInterrupt:
            complain("stopped; the same command goes on from the last checkpoint", status=130)

    def among_others(argv: list[str]) -> None:
        """On several hosts: none waits for one that has failed, and none leaves before all can."""
        try:
            guarded(argv)
            if joined():
                from launch import hosts

                hosts.leave()
        except BaseException as error:
            if not joined():
                raise
            from launch import hosts

            hosts.failed(error)

    app.run(among_others)


def joined() -> bool:
    """Whether this is one of several hosts; imports nothing."""
    jax = sys.modules.get("jax")
    return jax is not None and jax.distributed.is_initialized()


def complain(sentence: str, status: int = 2) -> None:
    print(f"error: {sentence}", file=sys.stderr)
    raise SystemExit(status)


def say(text: str) -> None:
    """A line of progress; on several hosts the first one's."""
    if joined():
        from launch import hosts

        if not hosts.first():
            return
    print(text, file=sys.stderr, flush=True)
