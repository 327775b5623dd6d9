"""A parent that watches a script, so that every end has one sentence and an exit status.

Native code may end a process by a signal, with pages of output for its developers. JAX's runtime
does so when another host is lost, and XLA when no memory is left. So the script runs in a child
process if there are several hosts, or a limit on memory. Python's output in the child is passed on.
What native code writes to file descriptor 2 is hidden from the user. Its last lines are read for
the reason why the child died.

A signal that ends the parent also ends the child, which sees that its parent has gone.
"""

import collections
import contextlib
import faulthandler
import os
import re
import signal
import sys
import threading

from launch.shell.interrupt import WATCHED, catch

try:
    import resource  # at once: without memory left, it could no longer be loaded
except ImportError:  # as on Windows
    resource = None

BY_ITSELF = "jfu: the script has ended\n"
KEPT = 500  # last lines of native code's output
PASSED_ON = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)  # the sender of these knows why

NO_MEMORY = (
    r"bad_alloc|[Oo]ut of memory|RESOURCE_EXHAUSTED|[Cc]annot allocate memory|pthread_create"
)
NO_MEMORY += r"|mmap error|failed to map segment|can't start new thread|Unable to allocate"


def is_child() -> bool:
    """Whether this process is such a child; if so, prepares it. Must be called first."""
    ends = os.environ.get(WATCHED, "")
    if not ends:
        return False
    catch()
    del os.environ[WATCHED]  # a process that it starts is not such a child
    native, lifeline = map(int, ends.split(","))
    sys.stderr.flush()
    sys.stderr = open(os.dup(2), "w", encoding=sys.stderr.encoding, buffering=1)  # noqa: SIM115
    os.dup2(native, 2)
    os.close(native)

    def follow() -> None:
        os.read(lifeline, 1)  # returns when the parent ends
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=follow, daemon=True).start()
    return True


def silence() -> None:
    """Sends Python's crash report, which absl turns on, to where native code's output goes."""
    faulthandler.enable(file=2)


def by_itself() -> None:
    """Signals to the parent that the script has ended by itself, whatever its status."""
    _write(BY_ITSELF.encode())


def wanted(coordinator: str | bool | None) -> bool:
    """Whether a script is to be watched: on several hosts, or under a limit on memory."""
    return bool(coordinator) or limit() is not None


def limit() -> int | None:
    """The most bytes of memory that the system allows this process; None if there is no limit."""
    if resource is None:
        return None
    sizes = [resource.getrlimit(kind)[0] for kind in (resource.RLIMIT_AS, resource.RLIMIT_DATA)]
    return min((size for size in sizes if size != resource.RLIM_INFINITY), default=None)


def over(*, show_all: bool = False) -> int:
    """Runs this process's own command in a child.

    Args:
      show_all: also print native code's output, as it comes.

    Returns:
      the child's exit status, or 1 if it died. Signals that a user sends end this process too.
    """
    import subprocess

    words, its_words = os.pipe()
    native, its_native = os.pipe()
    its_lifeline, _ = os.pipe()
    child = subprocess.Popen(
        [sys.executable, *sys.orig_argv[1:]],
        env=os.environ | {WATCHED: f"{its_native},{its_lifeline}"},
        stderr=its_words,
        pass_fds=(its_native, its_lifeline),
    )
    for end in (its_words, its_native, its_lifeline):
        os.close(end)
    said, last = listen(words, native, show_all)
    status = child.wait()
    # OpenBLAS interrupts its own process if it cannot start a thread.
    if -status in PASSED_ON and not re.search(NO_MEMORY, last):
        if -status != signal.SIGINT:  # for SIGINT this process says that it was stopped
            signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    if status and not said and BY_ITSELF not in last:
        _write(f"error: {why(max(-status, 0), last)}\n".encode())
        return 1
    return status if status >= 0 else 1


def listen(words: int, native: int, show_all: bool) -> tuple[bool, str]:
    """Passes on a child's output until it ends, except a second sentence about an error.

    Returns:
      whether the child reported an error, and the last lines of native code's output.
    """
    said, last = False, collections.deque(maxlen=KEPT)

    def keep() -> None:
        with open(native, errors="replace") as lines:
            for line in lines:
                last.append(line)
                if show_all:
                    _write(line.encode())

    keeper = threading.Thread(target=keep, daemon=True)
    keeper.start()
    with open(words, "rb") as lines:
        for line in lines:
            if not (said and line.startswith(b"error: ")):
                _write(line)
            said |= line.startswith((b"error: ", b"Traceback "))
    keeper.join()
    return said, "".join(last)


def why(number: int, native: str) -> str:
    """The error message for a process that a signal has ended.

    >>> why(6, "F1 client.h:80] ... absl::Status: UNAVAILABLE: Socket closed [type.goo")[:66]
    'this host failed or lost another one (UNAVAILABLE: Socket closed);'
    >>> why(6, "terminate called after throwing an instance of 'std::bad_alloc'")[:14]
    'memory ran out'
    """
    if "different incarnation" in native:
        return (
            "two processes have the same --host_id; give every host its own, and start all of them "
            "again to continue from the last checkpoint"
        )
    if "Unexpected task registered" in native:
        return (
            "the first host expects no host with this --host_id; give all hosts the same --hosts, "
            "and start all of them again"
        )
    if status := re.search(r"absl::Status: (.+?)(?: \[type\.|\s*$)", native, re.MULTILINE):
        return lost(status[1])
    limited = limit() is not None and number != signal.SIGKILL
    if limited or re.search(NO_MEMORY, native):
        return no_memory()
    if number == signal.SIGKILL:
        return (
            "this process was killed, perhaps by the system because memory ran out; the same "
            "command continues from the last checkpoint"
        )
    how = f" ({signal.Signals(number).name})" if number else ""
    return (
        f"native code has ended this process{how}; --debug shows more, and the same command "
        "continues from the last checkpoint"
    )


def lost(reason: str) -> str:
    """The error message when another host is lost.

    >>> lost("Socket closed [type.googleapis.com/more]")[:53]
    'this host failed or lost another one (Socket closed);'
    """
    gist = " ".join(reason.partition("[type.")[0].split())
    return (
        f"this host failed or lost another one ({gist}); read the messages of the other hosts, and "
        "start all of them again to continue from the last checkpoint"
    )


def no_memory() -> str:
    """The error message when no memory is left."""
    most = limit()
    allowed = f", of which the system allows this process {most / 1e9:.3g} GB" if most else ""
    return (
        f"memory ran out{allowed}; allow more, or use less with a smaller --chunk or --batch_size "
        "or fewer --devices; the same command continues from the last checkpoint"
    )


def tells_of_memory(error: BaseException) -> bool:
    """Whether an error of Python, of JAX or of an import means that no memory is left.

    >>> tells_of_memory(MemoryError()), tells_of_memory(RuntimeError("can't start new thread"))
    (True, True)
    >>> tells_of_memory(RuntimeError("no such device"))
    False
    """
    return isinstance(error, MemoryError) or bool(re.search(NO_MEMORY, str(error)))


def _write(content: bytes) -> None:
    with contextlib.suppress(OSError):
        while content:
            content = content[os.write(2, content) :]
