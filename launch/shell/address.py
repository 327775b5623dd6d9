"""Where hosts meet: the first listens at the address that was given, the others look who answers.

JAX listens on all interfaces unless told otherwise, and whoever reaches the port can speak to it.
"""

import errno
import os
import socket
import time

PATIENCE = 10.0  # seconds within which a server of gRPC has said its first words
SETTINGS = 4  # the kind of HTTP/2's first frame, its fourth byte


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
    """Where the first host listens: the address that all were given, where it is this machine's.

    A name that means this machine by itself alone (127.0.1.1 on Debian) means another to others.

    Returns:
      the address and port; None if it is none of this machine's, as that of a service before it.

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
      ValueError: another process does, or this one may not.
      OSError: EADDRNOTAVAIL, it is no address of this machine.
    """
    host, port = split(address)
    family = family or (socket.AF_INET6 if ":" in host else socket.AF_INET)
    with socket.socket(family, socket.SOCK_STREAM) as tried:
        tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # after a run that has ended
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
                    f"this user may not listen on port {port}; choose one above 1023 for "
                    "--coordinator, the same on all hosts"
                ) from None
            raise


def wait_for_first(coordinator: str, seconds: float) -> None:
    """Waits until the first host answers.

    Raises:
      ValueError: somebody else does.
      TimeoutError: nobody does.
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
            f"what answers at {coordinator} is not the first host; choose a port for --coordinator "
            "that is free on the host with --host_id=0, the same on all hosts"
        )


def speaks(connection: socket.socket) -> bool:
    """Whether a server of gRPC is at the other end: it sends settings before it is asked."""
    try:
        head = connection.recv(9)
    except OSError:
        return False
    return len(head) == 9 and head[3] == SETTINGS and head[5:] == bytes(4)


def bound(coordinator: str, asked: str | None) -> tuple[str | None, str]:
    """What JAX is told to listen at on the first host, and a note where that is everywhere.

    Raises:
      ValueError: another process listens there, or an address was asked for that is none here.
    """
    if asked:
        try:
            check_free(asked)
        except OSError as error:
            raise ValueError(
                f"this host cannot listen at --coordinator_bind={asked} ({error.strerror}); name "
                "an address of its own as numbers, with a port: ADDRESS:PORT"
            ) from None
        return asked, ""
    if os.environ.get("JAX_COORDINATOR_BIND_ADDRESS"):
        return None, ""
    if here := listening(coordinator):
        return here, ""
    host, port = split(coordinator)
    check_free(join("0.0.0.0", port))
    return None, (
        f"note: {host} is no address of this machine by which others know it, so port {port} is "
        "open on all that it has, to whoever reaches them; a firewall or a private network must "
        "stand before it, or --coordinator_bind=ADDRESS:PORT"
    )
