"""Native code that ends a process: one sentence and an exit status, not pages and a signal."""

import os
import signal
import socket
import threading
import time

import pytest

from helpers.crashes import TRAIN, until
from helpers.scripts import ended, planted, started
from launch.shell import address, watch
from launch.shell.interrupt import STOPPED

SENTENCE = STOPPED.decode()
GB = 10**9


def limited(size):
    import resource

    return lambda: resource.setrlimit(resource.RLIMIT_AS, (size, size))


def watched(code, size=64 * GB):
    """``(status, out, err)`` of a script under a limit on memory, which is why it is watched."""
    return ended(planted(f"def script():\n    {code}", preexec_fn=limited(size)))


@pytest.mark.parametrize(
    ("code", "status", "words"),
    [
        ('os.write(2, b"a page\\n" * 9999); os.abort()', 1, "memory ran out, of which the system"),
        ("os.kill(os.getpid(), signal.SIGSEGV)", 1, "allows this process 64 GB; allow more"),
        (
            "os.kill(os.getpid(), signal.SIGKILL)",
            1,
            "this process was killed, perhaps by the system",
        ),
        ('os.write(2, b"cannot\\n"); os._exit(127)', 1, "memory ran out"),
        ('os.write(2, b"pthread_create failed"); signal.raise_signal(2)', 1, "memory ran out"),
        ('raise MemoryError("Unable to allocate 9 TiB")', 2, "memory ran out"),
        ('raise ValueError("no such client")', 2, "no such client"),
        ('tell("error: told"); os.abort()', 1, "told"),
    ],
)
def test_one_sentence_however_it_ends(code, status, words):
    ended, out, err = watched(code)
    assert (ended, out) == (status, "")
    assert err.startswith("error: ") and err.count("\n") == 1 and words in err


def test_what_a_script_says_and_returns_goes_through():
    code = 'show("a table"); tell("note: this"); raise SystemExit(7)'
    assert watched(code) == (7, "a table\n", "note: this\n")
    status, _, err = watched("raise LookupError('a fault of ours')")
    assert status == 1 and "Traceback" in err and "error: " not in err


def test_a_run_under_a_limit_that_is_too_small(tmp_path):
    command = ["-m", "launch.train", *TRAIN[1:], f"--workdir={tmp_path / 'w'}"]
    status, _, err = ended(started(*command, preexec_fn=limited(12 * GB // 10)))
    assert status in (1, 2)
    assert err.splitlines()[-1].startswith("error: memory ran out, of which the system allows this")
    assert err.count("error: ") == 1 and "Traceback" not in err and "Fatal" not in err


def test_a_limit_of_no_bytes_for_files(tmp_path):
    """Of whatever is written: one sentence, also where libraries try what they can write."""
    import resource

    none = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    flags = ["--dataset=digits", "--model=mlp1", "--rounds=1", f"--workdir={tmp_path / 'w'}"]
    status, out, err = ended(started("-m", "launch.train", *flags, preexec_fn=none))
    assert (status, out) == (2, "")
    assert err.splitlines()[-1].startswith(f"error: {tmp_path / 'w'}/config.json could not be writ")
    assert err.count("error: ") == 1 and "Traceback" not in err and "joblib" not in err


NUMBERS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL]


@pytest.mark.parametrize(
    ("number", "whom"), [*((n, "parent") for n in NUMBERS), *((n, "child") for n in NUMBERS[:2])]
)
def test_signals_end_both(tmp_path, number, whom):
    code = f"open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid())); show('on')"
    process = planted(f"def script():\n    {code}; time.sleep(60)", preexec_fn=limited(64 * GB))
    assert process.stdout.readline() == "on\n"
    child = int((tmp_path / "pid").read_text())
    assert child != process.pid
    os.kill(child if whom == "child" else process.pid, number)
    wanted = (130, "", SENTENCE) if number == signal.SIGINT else (-number, "", "")
    assert ended(process) == wanted
    until(lambda: not os.path.exists(f"/proc/{child}") or "Z" in state(child), 10)


def state(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().split()[2]
    except OSError:
        return "Z"


def test_words_of_native_code():
    third = "F1 absl::Status: ABORTED: 1 unexpectedly tried with a different incarnation. It has"
    assert watch.why(6, third).startswith("two processes have the same --host_id")
    many = "F1 absl::Status: INVALID_ARGUMENT: Unexpected task registered with task=2"
    assert "give all hosts the same --hosts" in watch.why(6, many)
    assert "(SIGSEGV); --debug shows more" in watch.why(11, "*** stack ***")
    for words in ("what():  std::bad_alloc", "creation via pthread_create() failed."):
        assert watch.why(6, words).startswith("memory ran out; allow more")


# ---------------------------------------------------------------- addresses


@pytest.fixture
def taken():
    """A port of this machine at which somebody listens, and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server


def free():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def answering(server, words):
    def answer():
        connection, _ = server.accept()
        with connection:
            connection.sendall(words)
            time.sleep(0.5)

    threading.Thread(target=answer, daemon=True).start()


def test_the_first_host_listens_where_it_is_said_and_nowhere_else():
    port = free()
    assert address.bound(f"127.0.0.1:{port}", None) == (f"127.0.0.1:{port}", "")
    assert address.bound(f"localhost:{port}", None)[0] in (f"127.0.0.1:{port}", f"[::1]:{port}")
    assert address.bound(f"192.0.2.77:{port}", f"127.0.0.1:{port}") == (f"127.0.0.1:{port}", "")


def test_an_address_of_others_is_told(monkeypatch):
    """One that is not this machine's, and a name that means it to itself alone."""
    for name in ("203.0.113.9", "no.such.name.invalid", "lonely"):
        given = f"{name}:{free()}"
        if name == "lonely":
            here = (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.1.1", 1))
            monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: [here])
        listen, note = address.bound(given, None)
        assert listen is None
        assert note.startswith(f"note: port {given.rpartition(':')[2]} is open on all addresses")
        assert f"{name} is none that other hosts can use" in note and "firewall" in note


def test_a_port_that_is_taken_or_forbidden(taken):
    port = taken.getsockname()[1]
    for given, asked in ((f"127.0.0.1:{port}", None), (f"203.0.113.9:{port}", None)):
        with pytest.raises(ValueError, match=f"port {port} of .* is taken by another process"):
            address.bound(given, asked)
    with pytest.raises(
        ValueError, match=r"--coordinator_bind=203.0.113.9:1 .*; give one of its own addresses"
    ):
        address.bound("a:1", "203.0.113.9:1")


def test_who_answers_is_looked_at(taken, monkeypatch):
    monkeypatch.setattr(address, "PATIENCE", 0.3)
    given = f"127.0.0.1:{taken.getsockname()[1]}"
    with pytest.raises(
        ValueError, match="another program answers at 127.*, not the first host; give"
    ):
        address.wait_for_first(given, 5)
    taken.accept()[0].close()
    answering(taken, b"HTTP/1.1 400 Bad Request\r\n\r\n")
    with pytest.raises(ValueError, match=", not the first host"):
        address.wait_for_first(given, 5)
    answering(taken, b"\0\0\x18\x04\0\0\0\0\0" + bytes(24))  # settings, as gRPC sends them
    address.wait_for_first(given, 5)
    with pytest.raises(TimeoutError, match="refused"):
        address.wait_for_first(f"127.0.0.1:{free()}", 0.3)


def test_what_the_first_host_really_listens_at(tmp_path):
    """Until the others come: the address that was given, of all that this machine has."""
    port = free()
    join = [f"--coordinator=127.0.0.1:{port}", "--hosts=2", "--host_id=0", "--host_timeout=60"]
    process = started("-m", "launch.train", *TRAIN[1:], *join, f"--workdir={tmp_path / 'w'}")
    until(lambda: listened(port) or process.poll() is not None, 60)
    assert listened(port) == {"0100007F"}
    process.kill()
    ended(process)


def listened(port):
    """Addresses of IPv4, as hexadecimal digits, at which somebody listens on a port."""
    found = set()
    for name in ("/proc/net/tcp", "/proc/net/tcp6"):
        with open(name) as file:
            rows = [line.split() for line in list(file)[1:]]
        found |= {row[1][-13:-5] for row in rows if row[3] == "0A" and row[1][-4:] == f"{port:04X}"}
    return found
