"""Flower's commands, forked off one process that has imported them: importing takes longest.

A folder of small scripts with the names of Flower's commands comes first in ``PATH``. Each asks the
process to fork, and ends with what was forked off. So Flower starts its own processes as ever, and
each is a process of its own. One that is killed takes what it had forked off with it. The process
ends, with all forks, once the tests that started it are gone.
"""

import contextlib
import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

COMMANDS = {
    "flower-superlink": "flwr.superlink.cli:flower_superlink",
    "flower-supernode": "flwr.supernode.cli:flower_supernode",
    "flower-superexec": "flwr.supercore.cli:flower_superexec",
    "flwr-serverapp": "flwr.superlink.cli:flwr_serverapp",
    "flwr-clientapp": "flwr.supernode.cli:flwr_clientapp",
    "flwr": "flwr.cli.app:app",
}
SCRIPT = """\
#!{python} -SEI
import json, os, socket, sys
with socket.socket(socket.AF_UNIX) as one:
    one.connect({path!r})
    task = json.dumps([sys.argv, dict(os.environ), os.getcwd()]).encode()
    socket.send_fds(one, [len(task).to_bytes(4, "little")], [0, 1, 2])
    one.sendall(task)
    os._exit((one.recv(1) or b"\\1")[0])
"""


@contextlib.contextmanager
def commands(folder: Path):
    """The folder of the scripts; the process behind them ends with the block."""
    path = folder / "socket"
    for name in COMMANDS:
        (folder / name).write_text(SCRIPT.format(python=sys.executable, path=str(path)))
        (folder / name).chmod(0o700)
    own = dict(FLWR_TELEMETRY_ENABLED="0", OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1")
    own |= dict(PYTHONPATH=os.pathsep.join(place for place in sys.path if place))
    with open(folder / "log", "w") as log:
        process = subprocess.Popen(
            [sys.executable, __file__, str(path), str(os.getpid())],
            **dict(env=dict(os.environ, **own), stdout=log, stderr=log),
        )
    try:
        until = time.monotonic() + 300
        while not path.exists():
            assert process.poll() is None and time.monotonic() < until, (folder / "log").read_text()
            time.sleep(0.05)
        yield folder
    finally:
        process.terminate()
        process.wait(30)


def received(one: socket.socket) -> tuple[list, list[int]]:
    """What a script asks for, and its standard streams."""
    head, streams, _, _ = socket.recv_fds(one, 4, 3)
    content, length = b"", int.from_bytes(head, "little")
    while len(content) < length:
        content += one.recv(length - len(content))
    return json.loads(content), streams


def serve(path: str, parent: int) -> tuple[list, list[int]]:
    """Forks on request; returns in each fork, with its task."""
    selector, forks = selectors.DefaultSelector(), {}
    with socket.socket(socket.AF_UNIX) as door:
        door.bind(path)
        door.listen(64)
        selector.register(door, selectors.EVENT_READ)
        while os.getppid() == parent:
            for key, _ in selector.select(0.02):
                if key.fileobj is door:
                    one, _ = door.accept()
                    task, streams = received(one)
                    if not (pid := os.fork()):
                        for other in (door, one, *forks.values()):
                            other.close()
                        return task, streams
                    for stream in streams:
                        os.close(stream)
                    forks[pid] = one
                    selector.register(one, selectors.EVENT_READ, pid)
                else:  # the script has ended, so its fork ends
                    selector.unregister(key.fileobj)
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(key.data, signal.SIGKILL)
            with contextlib.suppress(ChildProcessError):
                while found := os.waitpid(-1, os.WNOHANG):
                    if not found[0]:
                        break
                    one = forks.pop(found[0])
                    with contextlib.suppress(KeyError):
                        selector.unregister(one)
                    with contextlib.suppress(OSError):
                        one.send(bytes([os.waitstatus_to_exitcode(found[1]) & 255]))
                    one.close()
    for pid in forks:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    os._exit(1)


def run(task: list, streams: list[int]) -> None:
    """What a command of Flower does."""
    argv, environment, folder = task
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    sys.argv = argv
    module, _, name = COMMANDS[os.path.basename(argv[0])].partition(":")
    status = 0
    try:
        getattr(sys.modules[module], name)()
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else bool(end.code)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


if __name__ == "__main__":
    import importlib

    for place in COMMANDS.values():
        importlib.import_module(place.partition(":")[0])
    for module in ("flwr.serverapp.strategy", "flwr.clientapp", "sklearn.datasets", "jfu.flower"):
        importlib.import_module(module)
    for module in (
        "flwr.cli.run.run",
        "flwr.superlink.main",
        "flwr.supernode.main",
        "numpy.random",
    ):
        importlib.import_module(module)
    run(*serve(sys.argv[1], int(sys.argv[2])))
