"""Ctrl-C: at any moment one sentence, and exit status 130.

Python would raise KeyboardInterrupt in whatever runs: an import, a callback or a ``__del__``, which
swallow it or make another error of it; and not before native code returns. Here a thread that does
nothing else waits for the signal and ends the process at once. No file is lost by that: each is put
in its place whole (``jfu.io.write_bytes``), as for a process that is killed.
"""

import atexit
import contextlib
import os
import select
import signal
import threading

WATCHED = "JFU_WATCHED"  # in the environment of a child whose parent does this (launch.shell.watch)
STOPPED = b"error: stopped; the same command goes on from the last checkpoint\n"


def catch() -> None:
    """From now on; leaves alone whoever ignores the signal or has a handler of his own."""
    if os.name != "posix" or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        return
    if WATCHED in os.environ:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # it dies of it, and the parent says so
        return
    asked, wake = os.pipe()
    os.set_blocking(wake, False)

    def end(*_) -> None:
        with contextlib.suppress(OSError):
            if select.select([], [2], [], 1)[1]:  # a pipe that nobody reads holds nothing up
                os.write(2, STOPPED)
        os._exit(130)

    def wait() -> None:
        while signal.SIGINT not in os.read(asked, 1):
            pass
        end()

    waiting = threading.Thread(target=wait, daemon=True)
    # Meanwhile what runs in Python stands still, and says nothing more.
    handler = lambda *_: waiting.join(10)
    try:
        waiting.start()
    except RuntimeError:  # no room for a thread: then between two steps of Python's
        handler = end
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    signal.signal(signal.SIGINT, handler)
    # What is left once all of a script's own is done and written is not to be stopped.
    atexit.register(signal.signal, signal.SIGINT, signal.SIG_IGN)


def follow() -> None:
    """For a process that multiprocessing has started: its parent stops it, and it says nothing."""
    import multiprocessing

    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def wait() -> None:
        multiprocessing.parent_process().join()
        os._exit(130)

    threading.Thread(target=wait, daemon=True).start()
