"""The processes of a Flower federation on the loopback address.

    SuperLink  <- SuperNode 0, 1, 2 ...     each a process of its own, with Flower's own commands
       \\- ServerApp                         started by the SuperLink when a run is submitted

Every process is ended when the block ends. On Linux they also end if the launcher is killed
(``launch.live.watch``).
"""

import contextlib
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from typing import NamedTuple

from launch.live import keys, watch

APP = pathlib.Path(__file__).parent / "app"
TOOLS = [str(pathlib.Path(sys.executable).parent)]  # where Flower's commands are looked for first
PROJECT = """\
[project]
name = "digits"
version = "1.0.0"
description = "Digits in parts, one of them poisoned"
license = "Apache-2.0"
dependencies = ["flwr>=1.42.0"]

[tool.flwr.app]
publisher = "jfu"

[tool.flwr.app.components]
serverapp = "live_app.server:app"
clientapp = "live_app.client:app"

[tool.flwr.app.config]
"""


class Federation(NamedTuple):
    """Processes that run, and where they write what they say."""

    folder: pathlib.Path
    environment: dict[str, str]
    running: list[subprocess.Popen]


def installed(clients: str) -> None:
    """Refuses to go on without Flower, or without what clients train with."""
    import importlib.util

    if importlib.util.find_spec("flwr") is None:
        raise ValueError("Flower is not installed; pip install 'jfu[flower]' installs it")
    if importlib.util.find_spec(clients) is None:
        raise ValueError(f"--clients={clients} needs {clients}; install it, or give other clients")


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens at. They are free until somebody takes them."""
    with contextlib.ExitStack() as stack:
        some = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in some:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in some]


def app(folder: pathlib.Path, config: Mapping[str, object]) -> pathlib.Path:
    """Writes the project that is submitted: this package's app, and its configuration."""
    place = folder / "app"
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(APP, place / "live_app", ignore=shutil.ignore_patterns("__pycache__"))
    (place / "live_app" / "__init__.py").write_text("")
    written = lambda value: repr(value).lower() if isinstance(value, bool) else repr(value)
    lines = [f"{name} = {written(value)}" for name, value in config.items()]
    (place / "pyproject.toml").write_text(PROJECT + "\n".join(lines) + "\n")
    return place


def environment(folder: pathlib.Path, connection: str) -> dict[str, str]:
    """Variables for Flower's commands, and its configuration with one connection, ``live``."""
    home = folder / "home"
    home.mkdir(parents=True, exist_ok=True)
    (home / "config.toml").write_text(f'[superlink]\ndefault = "live"\n\n{connection}\n')
    tools = os.pathsep.join([*TOOLS, os.environ.get("PATH", "")])
    own = dict(PATH=tools, FLWR_HOME=str(home), FLWR_TELEMETRY_ENABLED="0")
    own |= dict(FLWR_DISABLE_UPDATE_CHECK="1", FLWR_SUPEREXEC_TASK_POLL_INTERVAL="0.5")
    path = os.pathsep.join(
        place for place in sys.path if place
    )  # where jfu is, also if not installed
    return dict(os.environ, PYTHONPATH=path, **own)


@contextlib.contextmanager
def simulation(folder: pathlib.Path, nodes: int) -> Generator[Federation]:
    """A SuperLink with Flower's simulation engine in place of SuperNodes."""
    (port,) = free_ports(1)
    connection = f'[superlink.live]\naddress = "127.0.0.1:{port}"\ninsecure = true\n'
    variables = environment(folder, connection + f"options.num-supernodes = {nodes}")
    here = ["--host=127.0.0.1", f"--port={port}", "--disable-runtime-dependency-installation"]
    command = ["flower-superlink", "--insecure", "--simulation", *here]
    with watched(variables):
        link = started(command, variables, folder / "superlink.log")
        try:
            wait(lambda: listening(port), [link], folder / "superlink.log")
            yield Federation(folder, variables, [link])
        finally:
            stop(link)


@contextlib.contextmanager
def deployment(folder: pathlib.Path, nodes: int, secure: bool) -> Generator[Federation]:
    """A SuperLink and SuperNodes that are connected to it.

    Args:
      folder: for logs, keys, and Flower's own files.
      secure: TLS, and SuperNodes that are known by their keys, with the names node-0, node-1, ...

    Raises:
      ValueError: a process has ended, or a node is not connected within five minutes.
    """
    port, *others = free_ports(nodes + 1)
    address = f"127.0.0.1:{port}"
    if secure:
        own = keys.certificate(folder / "keys")
        link = [f"--ssl-ca-certfile={own.root}", f"--ssl-certfile={own.certificate}"]
        link += [f"--ssl-keyfile={own.key}", "--enable-supernode-auth"]
        node, how = [f"--root-certificates={own.root}"], f'root-certificates = "{own.root}"'
    else:
        link, node, how = ["--insecure"], ["--insecure"], "insecure = true"
    variables = environment(folder, f'[superlink.live]\naddress = "{address}"\n{how}')
    with contextlib.ExitStack() as stack:
        stack.enter_context(watched(variables))

        def begin(name: str, *command: str) -> subprocess.Popen:
            process = started(command, variables, folder / f"{name}.log")
            stack.callback(stop, process)
            return process

        here = ["--host=127.0.0.1", f"--port={port}", "--disable-runtime-dependency-installation"]
        running = [begin("superlink", "flower-superlink", *link, *here)]
        wait(lambda: listening(port), running, folder / "superlink.log")
        private = keys.of_nodes(folder / "keys", nodes) if secure else []
        for number, path in enumerate(private):
            register(number, path, variables, folder)
        for number, other in enumerate(others):
            mine = [f"--auth-supernode-private-key={private[number]}"] if secure else []
            config = f"partition-id={number} num-partitions={nodes}"
            mine += [f"--superlink={address}", "--host=127.0.0.1", f"--port={other}"]
            mine += [f"--node-config={config}"]
            running.append(begin(f"supernode-{number}", "flower-supernode", *node, *mine))
        for number in range(nodes):
            log = folder / f"supernode-{number}.log"
            wait(lambda log=log: id_in(log), running, log)
        yield Federation(folder, variables, running)


@contextlib.contextmanager
def watched(variables: Mapping[str, str]) -> Generator[None]:
    """Ends what was started with these variables and is left, after the block or without it."""
    home = variables["FLWR_HOME"]
    command = [sys.executable, watch.__file__, str(os.getpid()), home]
    watcher = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)
    try:
        yield
    finally:
        watcher.kill()
        watcher.wait()
        watch.end(home)


def started(
    command: Sequence[str], variables: Mapping[str, str], log: pathlib.Path
) -> subprocess.Popen:
    """A process in a group of its own that writes into a log."""
    with open(log, "w") as file:
        own = dict(stdin=subprocess.DEVNULL, stdout=file, stderr=file, start_new_session=True)
        where = shutil.which(command[0], path=variables["PATH"]) or command[0]
        return subprocess.Popen([where, *command[1:]], env=dict(variables), cwd=log.parent, **own)


def register(
    number: int, private: pathlib.Path, variables: Mapping[str, str], folder: pathlib.Path
) -> None:
    """Tells the SuperLink a node's public key and name."""
    public = private.with_suffix(".pub")
    command = ["flwr", "supernode", "register", str(public), "live", f"--name=node-{number}"]
    log = folder / f"register-{number}.log"
    if started(command, variables, log).wait():
        raise ValueError(f"node {number} could not be registered; see {log}")


def id_in(log: pathlib.Path) -> str:
    """The id that a SuperNode says it has; empty until it does."""
    found = re.search(r"SuperNode ID: (\d+)", log.read_text())
    return found[1] if found else ""


def listening(port: int) -> bool:
    with socket.socket() as one:
        return one.connect_ex(("127.0.0.1", port)) == 0


def wait(
    happened: Callable, running: Sequence[subprocess.Popen], log: pathlib.Path, seconds: float = 300
):
    """What ``happened`` gives, once it is true and while all processes run."""
    began = time.monotonic()
    while not (found := happened()):
        if any(process.poll() is not None for process in running):
            last = log.read_text().splitlines()[-1:]
            raise ValueError(f"a process of the federation has ended; {log} ends with {last}")
        if time.monotonic() - began > seconds:
            raise ValueError(f"nothing has happened within {seconds:g} seconds; see {log}")
        time.sleep(0.05)
    return found


def submit(there: Federation, project: pathlib.Path) -> subprocess.Popen:
    """Submits a run to the SuperLink; the process ends with the run."""
    command = ["flwr", "run", str(project), "live", "--stream"]
    return started(command, there.environment, there.folder / "run.log")


def stop(process: subprocess.Popen) -> None:
    """Ends a process and those that it started."""
    for sign in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, sign)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=3)
