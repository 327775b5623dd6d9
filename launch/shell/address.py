"""Where hosts meet: the first host listens at the given address, and the others connect to it.

By default JAX listens on all interfaces, and anyone who can reach the port can speak to it.
"""

import errno
import os
import socket
import time

PATIENCE = 10.0  # seconds within which a gRPC server sends its first bytes
SETTINGS = 4  # the type of HTTP/2's first frame, which is its fourth byte


def split(address: str) -> tuple[str, int]:
    """
    >>> split("10.0.0.1:1234"), split("[::1]:99")
    (('10.0.0.1', 1234), ('::1', 99))
    """
    host, _, port = address.rpartition(":")
    return host.removeprefix("[").removesuffix("]"), int(port)


def join(host: str, port: int) -> str:
    """
    >>> join("10.0.0.1", 1234), join("::1", 99)
    ('10.0.0.1:1234', '[::1]:99')
    """
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def listening(coordinator: str) -> str | None:
    """Where the first host listens: the address that was given, if it is this machine's.

    Some names mean the machine itself only on that machine (127.0.1.1 on Debian). They do not
    count.

    Returns:
      the address and port; None if the address is not this machine's, for example a service's.

    Raises:
      ValueError: another process listens there.
    """
    host, port = split(coordinator)
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError:
        return None
    for family, *_, place in found:
        own = place[0].startswith("127.") or place[0] == "::1"
        if own and host != place[0] and host.partition(".")[0] != "localhost":
            continue
        try:
            check_free(join(place[0], port), family)
        except OSError as error:
            if error.errno != errno.EADDRNOTAVAIL:
                raise
        else:
            return join(place[0], port)
    return None


def check_free(address: str, family: int | None = None) -> None:
    """Refuses an address at which this process cannot listen.

    Raises:
      ValueError: another process listens there, or this process may not.
      OSError: EADDRNOTAVAIL, the address is not this machine's.
    """
    host, port = split(address)
    family = family or (socket.AF_INET6 if ":" in host else socket.AF_INET)
    with socket.socket(family, socket.SOCK_STREAM) as tried:
        tried.setsockopt(
            socket.SOL_SOCKET, socket.SO_REUSEADDR, 1
        )  # the port of a run that has just ended is free
        try:
            tried.bind((host, port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise ValueError(
                    f"port {port} of {host} is taken by another process; choose a free port for "
                    "--coordinator, the same on all hosts"
                ) from None
            if error.errno == errno.EACCES:
                raise ValueError(
                    f"this user may not listen on port {port}; choose a port above 1023 for "
                    "--coordinator, the same on all hosts"
                ) from None
            raise


def wait_for_first(coordinator: str, seconds: float) -> None:
    """Waits until the first host answers.

    Raises:
      ValueError: another program answers.
      TimeoutError: no answer in time.
    """
    until = time.monotonic() + seconds
    while True:
        try:
            connection = socket.create_connection(split(coordinator), PATIENCE)
        except OSError as error:
            if time.monotonic() > until:
                raise TimeoutError(error.strerror or str(error)) from None
            time.sleep(0.2)
            continue
        with connection:
            connection.settimeout(PATIENCE)
            if speaks(connection):
                return
        raise ValueError(
            f"another program answers at {coordinator}, not the first host; give --coordinator on "
            "all hosts a port that is free on the host with --host_id=0"
        )


def speaks(connection: socket.socket) -> bool:
    """Whether a gRPC server is at the other end: it sends its settings before any request."""
    try:
        head = connection.recv(9)
    except OSError:
        return False
    return len(head) == 9 and head[3] == SETTINGS and head[5:] == bytes(4)


def bound(coordinator: str, bind: str | None) -> tuple[str | None, str]:
    """Where JAX shall listen on the first host, and a note if that is at all addresses.

    Args:
      bind: the value of ``--coordinator_bind``.

    Raises:
      ValueError: another process listens there, or ``bind`` is not an address of this machine.
    """
    if bind:
        try:
            check_free(bind)
        except OSError as error:
            raise ValueError(
                f"this host cannot listen at --coordinator_bind={bind} ({error.strerror}); give "
                "one of its own addresses in numbers, with a port: ADDRESS:PORT"
            ) from None
        return bind, ""
    if os.environ.get("JAX_COORDINATOR_BIND_ADDRESS"):
        return None, ""
    if here := listening(coordinator):
        return here, ""
    host, port = split(coordinator)
    check_free(join("0.0.0.0", port))
    return None, (
        f"note: port {port} is open on all addresses of this machine, because {host} is none that "
        "other hosts can use; protect it by a firewall or a private network, or choose one address "
        "with --coordinator_bind=ADDRESS:PORT"
    )
