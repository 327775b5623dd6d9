"""Ctrl-C: at any moment one sentence, and exit status 130.

By default Python raises KeyboardInterrupt in the code that is running. An import, a callback or a
``__del__`` may swallow it or turn it into another error, and native code must return first. Here a
thread waits only for the signal, and ends the process at once. No file is lost by this. Every file
is written whole or not at all (``jfu.io.write_bytes``), as for a process that is killed.
"""

import atexit
import contextlib
import os
import select
import signal
import threading

WATCHED = "JFU_WATCHED"  # environment variable of a child that launch.shell.watch watches
STOPPED = b"error: stopped; the same command continues from the last checkpoint\n"


def catch() -> None:
    """Handles Ctrl-C from now on, unless the process ignores the signal or has its own handler."""
    if os.name != "posix" or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        return
    if WATCHED in os.environ:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # the signal ends it, and the parent says so
        return
    waking, wake = os.pipe()
    os.set_blocking(wake, False)

    def end(*_) -> None:
        with contextlib.suppress(OSError):
            if select.select([], [2], [], 1)[1]:  # do not wait for a pipe without a reader
                os.write(2, STOPPED)
        os._exit(130)

    def wait() -> None:
        while signal.SIGINT not in os.read(waking, 1):
            pass
        end()

    waiting = threading.Thread(target=wait, daemon=True)
    # Meanwhile Python code waits here, and prints nothing more.
    handler = lambda *_: waiting.join(10)
    try:
        waiting.start()
    except RuntimeError:  # no thread can be started: handle the signal between two Python steps
        handler = end
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    signal.signal(signal.SIGINT, handler)
    # When a script has finished and written everything, nothing is left to stop.
    atexit.register(signal.signal, signal.SIGINT, signal.SIG_IGN)


def follow() -> None:
    """For a process of multiprocessing: it ends with its parent, and prints nothing."""
    import multiprocessing

    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def wait() -> None:
        multiprocessing.parent_process().join()
        os._exit(130)

    threading.Thread(target=wait, daemon=True).start()
