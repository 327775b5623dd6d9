"""A parent that watches a script: however that ends, there is one sentence and an exit status.

Native code ends a process by a signal, with pages for its developers: JAX's runtime where another
host is lost, XLA where no memory is left. So with several hosts, or under a limit on memory, the
script runs in a child. What Python says there goes through; what native code writes to file
descriptor 2 is kept from the user, and what is left of it tells why the child has died.

A signal that ends the parent ends the child too, which sees that its parent has gone.
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

BY_ITSELF = "jfu: the script has ended\n"
KEPT = 500  # lines of what native code said last
PASSED_ON = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)  # whoever sent these knows why

NO_MEMORY = (
    r"bad_alloc|[Oo]ut of memory|RESOURCE_EXHAUSTED|[Cc]annot allocate memory|pthread_create"
)
NO_MEMORY += r"|mmap error|failed to map segment|can't start new thread|Unable to allocate"


def held() -> bool:
    """Whether this is such a child, which it then prepares; before anything else is done."""
    told = os.environ.get(WATCHED, "")
    if not told:
        return False
    catch()
    del os.environ[WATCHED]  # whatever it starts is no such child
    native, lifeline = map(int, told.split(","))
    sys.stderr.flush()
    sys.stderr = open(os.dup(2), "w", encoding=sys.stderr.encoding, buffering=1)  # noqa: SIM115
    os.dup2(native, 2)
    os.close(native)

    def follow() -> None:
        os.read(lifeline, 1)  # which ends with the parent
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=follow, daemon=True).start()
    return True


def silence() -> None:
    """Sends Python's own dump at a crash, which absl asks for, where native code's goes."""
    faulthandler.enable(file=2)


def by_itself() -> None:
    """Tells the parent that the script has come to its end, whatever status it has."""
    _write(BY_ITSELF.encode())


def wanted(coordinator: str | bool | None) -> bool:
    """Whether a script is to be watched: among several hosts, or where memory is limited."""
    return bool(coordinator) or limit() is not None


def limit() -> int | None:
    """Bytes of memory that the system lets this process have at most, if it says."""
    with contextlib.suppress(ImportError):
        import resource

        asked = [resource.getrlimit(kind)[0] for kind in (resource.RLIMIT_AS, resource.RLIMIT_DATA)]
        return min((size for size in asked if size != resource.RLIM_INFINITY), default=None)
    return None


def over(*, show_all: bool = False) -> int:
    """Runs this process' own command in a child.

    Args:
      show_all: native code's words too, as they come.

    Returns:
      its exit status, or 1 where it has died. Signals that a user sends end this process too.
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
    # OpenBLAS interrupts its own process where it can start no thread.
    if -status in PASSED_ON and not re.search(NO_MEMORY, last):
        if -status != signal.SIGINT:  # of which this process says that it was stopped
            signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    if status and not said and BY_ITSELF not in last:
        _write(f"error: {why(max(-status, 0), last)}\n".encode())
        return 1
    return status if status >= 0 else 1


def listen(words: int, native: int, show_all: bool) -> tuple[bool, str]:
    """Hands on what a child says until it has ended, but for a second sentence about an error.

    Returns:
      whether an error was told, and the last that native code said.
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
    """What a user is told of a process that a signal has ended.

    >>> why(6, "F1 client.h:80] ... absl::Status: UNAVAILABLE: Socket closed [type.goo")[:66]
    'this host failed or lost another one (UNAVAILABLE: Socket closed);'
    >>> why(6, "terminate called after throwing an instance of 'std::bad_alloc'")[:14]
    'memory ran out'
    """
    if "different incarnation" in native:
        return (
            "two processes came with the same --host_id; give every host its own, and start all of "
            "them again to go on from the last checkpoint"
        )
    if "Unexpected task registered" in native:
        return (
            "the first host expects nobody with this --host_id; give all hosts the same --hosts, "
            "and start all of them again"
        )
    if status := re.search(r"absl::Status: (.+?)(?: \[type\.|\s*$)", native, re.MULTILINE):
        return lost(status[1])
    limited = limit() is not None and number != signal.SIGKILL
    if limited or re.search(NO_MEMORY, native):
        return no_memory()
    if number == signal.SIGKILL:
        return (
            "this process was killed, as the system does where memory runs out; the same command "
            "goes on from the last checkpoint"
        )
    how = f" ({signal.Signals(number).name})" if number else ""
    return (
        f"native code has ended this process{how}; with --debug it says more, and the same command "
        "goes on from the last checkpoint"
    )


def lost(reason: str) -> str:
    """What a user is told where another host has gone.

    >>> lost("Socket closed [type.googleapis.com/more]")[:53]
    'this host failed or lost another one (Socket closed);'
    """
    gist = " ".join(reason.partition("[type.")[0].split())
    return (
        f"this host failed or lost another one ({gist}); see what the others say, and start all of "
        "them again to go on from the last checkpoint"
    )


def no_memory() -> str:
    """What a user is told where no memory is left."""
    most = limit()
    allowed = f", of which the system allows this process {most / 1e9:.3g} GB" if most else ""
    return (
        f"memory ran out{allowed}; allow more, or ask for less with --chunk, --batch_size or fewer "
        "--devices, and the same command goes on from the last checkpoint"
    )


def tells_of_memory(error: BaseException) -> bool:
    """Whether an error of Python's, of JAX's or of an import says that no memory is left.

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
