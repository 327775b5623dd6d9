"""Several hosts: two processes on this one, joined by JAX's own runtime."""

import itertools
import json
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

import jfu.data
from helpers.forks import launch
from helpers.host_worker import HELD, dataset, federation
from helpers.scripts import ROOT, environment, rows_of
from jfu.io import load_arrays, load_params
from launch.shell.joining import alike, check


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


def begun(command, folder=ROOT, more=None):
    streams = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    env = environment() | (more or {})
    return subprocess.Popen([sys.executable, *command], cwd=folder, env=env, **streams)


def on_hosts(*commands, folders=(ROOT,) * 3, more=({},) * 3):
    """Starts processes, returns ``[(status, stdout, stderr)]`` once all have ended.

    Args:
      folders: where each is started.
      more: what its environment has besides.
    """
    started = [begun(c, f, m) for c, f, m in zip(commands, folders, more, strict=False)]
    try:
        said = [process.communicate(timeout=500) for process in started]
    finally:
        for process in started:
            process.kill()
    return [(p.returncode, *text) for p, text in zip(started, said, strict=True)]


# ---------------------------------------------------------------- flags


@pytest.mark.parametrize(
    ("given", "several"),
    [
        ((None, None, None), False),
        ((None, 1, 0), False),
        (("a.b:1", 2, 0), True),
        (("[::1]:99", 3, 2), True),
        (("auto", None, None), True),
        (("auto", 2, 1), True),
    ],
)
def test_flags_that_fit_together(given, several):
    assert check(*given) is several


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ((None, 2, None), r"^--hosts is for several hosts.*--coordinator=auto"),
        ((None, None, 1), r"^--host_id is for several hosts"),
        (("a:1", None, None), "needs --hosts"),
        (("a:1", 2, None), "needs --hosts"),
        (("a:1", None, 0), "needs --hosts"),
        (("a:1", 2, 2), "--host_id=2 is not one of 2 hosts; give a number from 0 to 1"),
        (("auto", 2, 5), "--host_id=5 is not one of 2 hosts"),
        (("10.0.0.1", 2, 0), "--coordinator=10.0.0.1 is not an address; write auto, or HOST:PORT"),
    ],
)
def test_flags_that_do_not(given, words):
    with pytest.raises(ValueError, match=words):
        check(*given)


def test_hosts_of_unequal_size_are_refused():
    alike([0, 0, 1, 1], "cpu")
    with pytest.raises(ValueError, match="have 1, 2 and 1 devices.*the same --devices"):
        alike([0, 1, 1, 2], "cpu")
    with pytest.raises(ValueError, match="equal numbers of gpu devices"):
        alike([0, 1, 1], "gpu")


# ---------------------------------------------------------------- the library


def two_hosts(folder, devices):
    port, worker = str(free_port()), str(ROOT / "tests" / "helpers" / "host_worker.py")
    ended = on_hosts(*([worker, port, host, str(devices), str(folder)] for host in "01"))
    assert [status for status, _, _ in ended] == [0, 0], ended
    arrays = [dict(np.load(folder / f"{host}.npz")) for host in "01"]
    return arrays, [json.loads((folder / f"{host}.json").read_text()) for host in "01"]


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    return two_hosts(tmp_path_factory.mktemp("hosts"), 1)


def alone():
    """The round and the evaluation on one device of this process, with one pool."""
    import jfu

    fed, variables, clients, apply = federation()
    state, info = jax.jit(fed.round)(fed.init(variables), clients, jax.random.key(3))
    loss, _ = jfu.per_example(apply)(state.variables, clients.x, clients.y)
    one = dict(params=state.variables["params"], loss=np.where(np.arange(12) == 8, 0, loss))
    return one | dict(weight=info.clients.weight, client_loss=info.clients.loss), clients


def same_as_alone(arrays):
    one, _ = alone()
    for host in arrays:
        host["loss"][8] = 0  # no client holds row 8, so nobody judges it
        for name, value in one.items():
            np.testing.assert_allclose(host[name], value, atol=1e-5)


def test_a_round_on_two_hosts_is_the_round_on_one_device(pair):
    """Model, every client's scalars, and every example's loss, on both hosts."""
    same_as_alone(pair[0])


def test_a_host_reads_and_holds_its_own_clients_examples_only(pair):
    """To train on and to judge, zeros behind them. The first host judges row 2, which both hold."""
    x = np.asarray(federation()[2].x)
    rows = [[0, 2, 4, 7, 9], [1, 3, 5, 6, 10, 11]]
    assert [sorted({*itertools.chain(*part)}) for part in (HELD[:3], HELD[3:])] == rows
    assert [facts["read"] for facts in pair[1]] == rows
    for host, mine in zip(pair[0], rows, strict=True):
        for name in ("shards", "judged"):
            shown = host[name].reshape(-1, 3)
            np.testing.assert_array_equal(shown[: len(mine)], x[mine])
            assert not shown[len(mine) :].any()
            assert len(shown) == 6


def test_hosts_exchange_one_all_reduce(pair):
    for facts in pair[1]:
        assert facts["devices"] == 2
        assert facts["collectives"] == ["all-reduce"]


def test_what_the_first_host_says_and_reads_all_hosts_know(pair):
    for host, facts in zip("01", pair[1], strict=True):
        assert facts["first"] == (host == "0")
        assert facts["agreed"] == ["said by", "0"]
        assert facts["opened"] == [f"{host}-only", "from 0" * 100]


def test_one_hosts_error_is_every_hosts(pair):
    """On any of them, on the first, of a file, and flags that differ."""
    for facts in pair[1]:
        one, first, missing, flags, *_ = facts["errors"]
        assert one == "host 1: invalid literal for int() with base 10: 'x'"
        assert first == "invalid literal for int() with base 10: 'y'"
        assert missing == "there is no file /nowhere/at/all"
        assert flags.startswith("host 1: it was given --rounds=8 and host 0 --rounds=7; give all")


def test_what_hosts_compute_with_and_have_read_is_compared(pair):
    """The same digests as one host's; whatever differs is named on both hosts."""
    from launch.setup import identity

    assert pair[1][0]["errors"] == pair[1][1]["errors"]
    *_, software, fewer, one, other, owners, lists = pair[1][0]["errors"]
    assert pair[1][0]["digest"] == pair[1][1]["digest"] == identity.of_data(dataset())
    assert software == (
        "host 1: it has jax_enable_x64 True and host 0 jax_enable_x64 False; install the same "
        "software on all hosts"
    )
    end = "; give all hosts the same data, lists and masks"
    fewest = "the number, kind or labels of the training examples"
    assert fewer == f"host 1: it differs from host 0 in {fewest}{end}"
    for image in (one, other):  # of the second host's half, and of the first's
        assert (
            image == "host 1 differs from host 0 in the training examples; give all hosts the "
            "same data"
        )
    assert owners == f"host 1: it differs from host 0 in the clients of the examples{end}"
    assert lists == f"host 1: it differs from host 0 in the clients' examples (seed 3){end}"


@pytest.mark.slow
def test_two_devices_on_each_of_two_hosts(tmp_path):
    arrays, facts = two_hosts(tmp_path, 2)
    same_as_alone(arrays)
    for host, said in zip(arrays, facts, strict=True):
        assert host["shards"].shape[:2] == (2, 1)
        assert said["devices"] == 4
        assert said["collectives"] == ["all-reduce"]


# ---------------------------------------------------------------- the scripts

SMALL = ["--dataset=synthetic", "--clients=4", "--train_size=64", "--test_size=32", "--model=mlp"]
SMALL += ["--rounds=3"]


def commands(script, folders, *flags, devices=1, own=((), ())):
    """The start lines of two hosts, each with a work directory of its own."""
    port = free_port()
    joined = [f"--coordinator=127.0.0.1:{port}", "--hosts=2", f"--devices={devices}"]
    return [
        [
            "-m",
            f"launch.{script}",
            *flags,
            *joined,
            f"--host_id={k}",
            f"--workdir={folder}",
            *own[k],
        ]
        for k, folder in enumerate(folders)
    ]


def close(ours, theirs):
    """The same models to 1e-6, losses to 1e-5 and shares to the last example, except attacks.

    Losses of examples differ by 5e-7. If a fold of twelve or sixteen examples a side has no signal,
    these last bits decide whether a classifier stops at its start or a step later. Its four
    answers, 10 points, may then be others. On average over rows this is little.
    """
    assert_same_models(ours / "cells", theirs / "cells")
    rows, others = (rows_of(path, without=("seconds",)) for path in (ours, theirs))
    assert len(rows) == len(others) > 0
    moved = []
    for row, other in zip(rows, others, strict=True):
        assert row.keys() == other.keys()
        for name, value in row.items():
            if isinstance(value, float):
                near = 1e-5 * max(1, abs(value)) if name.startswith("loss") else 1e-6
                near = 10 if name.startswith("mia") else near
                assert other[name] == pytest.approx(value, abs=near), (row["method"], name)
                moved += [abs(value - other[name])] if name.startswith("mia") else []
            else:
                assert other[name] == value, (row["method"], name)
    assert not moved or np.mean(moved) < 2.5


def assert_same_models(ours, theirs):
    names = sorted(path.name for path in ours.iterdir())
    assert names == sorted(path.name for path in theirs.iterdir()) != []
    for name in names:
        one, other = (load_arrays(folder / name) for folder in (ours, theirs))
        assert one.keys() == other.keys()
        for place, array in one.items():
            np.testing.assert_allclose(array, other[place], rtol=1e-5, atol=1e-6, err_msg=name)


COMPARE = [*SMALL, "--seeds=1", "--methods=retrain,not", "--checkpoint_every=1", "--sample=3"]


@pytest.mark.slow
def test_a_comparison_on_two_hosts_stopped_and_gone_on_with(tmp_path):
    """The rows of one process with two devices; the second host writes nothing and says nothing."""
    launch("compare", *COMPARE, "--devices=2", f"--workdir={tmp_path / 'one'}")
    both = tmp_path / "both", tmp_path / "other"
    started = [
        subprocess.Popen(
            [sys.executable, *command],
            cwd=ROOT,
            env=environment(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for command in commands("compare", both, *COMPARE)
    ]
    until = time.monotonic() + 300
    while len(list(both[0].glob("cells/*.safetensors"))) < 2 and time.monotonic() < until:
        time.sleep(0.02)
    for process in started:
        process.send_signal(signal.SIGKILL)
        process.wait()
    cells = list(both[0].glob("cells/*.safetensors"))
    assert 2 <= len(cells) < 4
    assert not (both[0] / "table.md").exists()
    ended = on_hosts(*commands("compare", both, *COMPARE))
    assert [status for status, _, _ in ended] == [0, 0], ended
    assert "2 cpu devices on 2 hosts" in ended[0][2]
    assert "seed 0" not in ended[1][2] and "|" not in ended[1][1]
    assert not both[1].exists()
    close(both[0], tmp_path / "one")
    assert (both[0] / "table.md").exists() and (both[0] / "curves.png").exists()


@pytest.mark.slow
def test_training_and_a_request_on_two_hosts(tmp_path):
    """The second host has neither the trained model nor its history, and needs none; each reads the
    images of its own clients from the file."""
    data = jfu.data.load("synthetic")._asdict()
    scaled = {name: data[name].astype(np.float32) / 255 for name in ("x_train", "x_test")}
    labels = {name: data[name] for name in ("y_train", "y_test")}
    np.savez(tmp_path / "own.npz", **scaled, **labels)
    small = [f"--dataset={tmp_path / 'own.npz'}", "--backdoor", *SMALL[1:]]
    keep, method = "--keep_history=start,norms,first", "--method=federaser"
    ended = on_hosts(*commands("train", (tmp_path / "a", tmp_path / "x"), *small, keep))
    assert [status for status, _, _ in ended] == [0, 0], ended
    ask = [method, "--stop=budget", f"--export_params={tmp_path / 'new.msgpack'}"]
    own = [f"--init_from={tmp_path / 'a'}"], [f"--init_from={tmp_path / 'a'}"]
    ended = on_hosts(*commands("unlearn", (tmp_path / "b", tmp_path / "y"), *ask, own=own))
    assert [status for status, _, _ in ended] == [0, 0], ended
    assert (tmp_path / "new.msgpack").exists()
    launch("train", *small, keep, "--devices=2", f"--workdir={tmp_path / 'c'}")
    launch(
        *("unlearn", f"--init_from={tmp_path / 'c'}", method, "--stop=budget", "--devices=2"),
        f"--workdir={tmp_path / 'd'}",
    )
    for ours, theirs in (("a", "c"), ("b", "d")):
        close(tmp_path / ours, tmp_path / theirs)
    assert not (tmp_path / "x").exists() and not (tmp_path / "y").exists()


@pytest.mark.slow
def test_two_hosts_share_a_secret_that_the_first_one_keeps(tmp_path):
    """Stopped after a round, and gone on with on both and in one process: the same noise."""
    paths = [tmp_path / name for name in ("first", "other")]
    private = [*SMALL, "--dp_clip=1", "--absent=0.2", "--nobackdoor", "--checkpoint_every=1"]
    ended = on_hosts(*commands("train", paths, *private, "--max_minutes=0"))
    assert [status for status, _, _ in ended] == [0, 0], ended
    assert (paths[0] / "secret" / "0-train").is_file() and not paths[1].exists()
    alone = tmp_path / "alone"
    shutil.copytree(paths[0], alone)
    launch("train", *private, "--devices=2", f"--workdir={alone}")
    ended = on_hosts(*commands("train", paths, *private))
    assert [status for status, _, _ in ended] == [0, 0], ended
    both, one = (load_params(path / "model.safetensors") for path in (paths[0], alone))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), both, one)
    assert not any((path / "secret").exists() for path in (paths[0], alone))


@pytest.mark.slow
@pytest.mark.parametrize("host", [0, 1])
def test_a_host_that_never_comes_is_one_sentence(tmp_path, host):
    command = commands("compare", (tmp_path / "w",) * 2, *COMPARE, "--host_timeout=5")[host]
    ((status, _, said),) = on_hosts(command)
    assert status == 2
    assert said.startswith("error: not all of 2 hosts met at 127.0.0.1:")
    assert "within 5 s" in said and len(said.splitlines()) == 1
    assert not (tmp_path / "w").exists()


@pytest.mark.slow
def test_unequal_hosts_are_one_sentence(tmp_path):
    folders = tmp_path / "a", tmp_path / "b"
    ended = on_hosts(*commands("compare", folders, *COMPARE, own=((), ["--devices=2"])))
    for status, _, said in ended:
        assert status == 2
        assert [line for line in said.splitlines() if line.startswith("error: ")] == [
            "error: the hosts have 1 and 2 devices, and clients are spread evenly over all "
            "devices; give all hosts the same --devices"
        ]
        assert "Traceback" not in said
    assert not any(map(pathlib.Path.exists, folders))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("script", "flags", "own", "words"),
    [
        ("compare", ["--test_size=9999"], ((), ()), "test_size is 9999"),
        ("compare", [], ((), ["--rounds=9"]), "host 1: it was given --rounds=9 and host 0"),
        ("compare", [], (["--init_params=no.msgpack"],) * 2, "there is no file no.msgpack"),
    ],
    ids=["on all", "other flags", "no file"],
)
def test_errors_end_all_hosts_with_the_same_sentence(tmp_path, script, flags, own, words):
    folders = tmp_path / "a", tmp_path / "b"
    ended = on_hosts(*commands(script, folders, *COMPARE, *flags, own=own))
    for status, _, said in ended:
        assert status == 2
        (error,) = [line for line in said.splitlines() if line.startswith("error: ")]
        assert words in error
        assert "Traceback" not in said
    assert not any(map(pathlib.Path.exists, folders))


def one_error(said):
    """The sentence of a process that says one, and nothing native code would say."""
    (error,) = [line for line in said.splitlines() if line.startswith("error: ")]
    for word in ("Traceback", "Fatal", "Check failure", "F1", "E1"):
        assert not any(line.startswith(word) for line in said.splitlines()), said
    return error.removeprefix("error: ")


def own_files(folder, change):
    """Data, lists and a mask in a folder for each host; ``change(arrays, lists, mask)`` on one."""
    for host in "01":
        (folder / host).mkdir()
        data = jfu.data.load("synthetic", train_size=64, test_size=32)
        arrays = {n: np.array(getattr(data, n)) for n in ("x_train", "y_train", "x_test", "y_test")}
        lists = {str(k): list(range(k, 64, 4)) for k in range(4)}
        mask = np.arange(64) % 8 == 0
        if host == "1":
            change(arrays, lists, mask)
        np.savez(folder / host / "own.npz", **arrays)
        (folder / host / "lists.json").write_text(json.dumps(lists))
        np.save(folder / host / "mask.npy", mask)
    return folder / "0", folder / "1"


def another_list(arrays, lists, mask):
    lists["0"].append(lists["1"].pop())


def another_image(arrays, lists, mask):
    arrays["x_train"][40] += 1


def another_test_label(arrays, lists, mask):
    arrays["y_test"][3] += 1


def another_request(arrays, lists, mask):
    mask[16] = False


OTHERS = [
    (another_list, "host 1: it differs from host 0 in the clients' examples (seed 0)"),
    (another_image, "host 1 differs from host 0 in the training examples; give all hosts"),
    (another_test_label, "host 1: it differs from host 0 in the test examples"),
    (another_request, "host 1: it differs from host 0 in the examples to forget"),
]


@pytest.mark.parametrize(
    ("change", "words"),
    [OTHERS[0], *(pytest.param(*other, marks=pytest.mark.slow) for other in OTHERS[1:])],
)
def test_what_one_host_has_otherwise_is_told_before_the_first_round(tmp_path, change, words):
    folders = own_files(tmp_path, change)
    given = ["--dataset=own.npz", "--partition=file:lists.json", "--nobackdoor", "--model=mlp"]
    given += ["--forget=mask:mask.npy", "--rounds=3"]
    lines = commands("train", (tmp_path / "w", tmp_path / "x"), *given)
    for status, _, said in on_hosts(*lines, folders=folders):
        assert status == 2, said
        assert one_error(said).startswith(words)
    assert not (tmp_path / "w").exists() and not (tmp_path / "x").exists()


def test_an_example_that_is_another_is_told_when_it_is_read():
    from launch.setup import identity

    hashes = identity._rows(dataset().x_train, 0, 12)
    same, other = (identity.as_hashed(dataset(k).x_train, hashes) for k in (None, 7))
    assert same[:].tolist() == dataset().x_train[:].tolist()
    assert other[[3, 6, 8]].tolist() == [[6, 7], [12, 13], [16, 17]]
    for rows in ([6, 7], slice(None)):
        with pytest.raises(ValueError, match="it differs from other hosts in the training exampl"):
            other[rows]


@pytest.mark.slow
def test_of_three_hosts_one_trains_on_what_the_others_have_hashed(tmp_path):
    """Image 32 is of the third host's client; the first two hosts hash the middle third of 64."""
    port, lines, folders = free_port(), [], []
    for host in range(3):
        folders.append(tmp_path / f"{host}")
        folders[-1].mkdir()
        data = jfu.data.load("synthetic", train_size=64, test_size=32)
        arrays = {n: np.array(getattr(data, n)) for n in ("x_train", "y_train", "x_test", "y_test")}
        arrays["x_train"][32] += np.uint8(host == 2)
        np.savez(folders[-1] / "own.npz", client=np.arange(64) % 3, **arrays)
        given = ["--dataset=own.npz", "--nobackdoor", "--model=mlp", "--rounds=3", "--devices=1"]
        given += [f"--coordinator=127.0.0.1:{port}", "--hosts=3", f"--host_id={host}"]
        lines.append(["-m", "launch.train", *given, f"--workdir={tmp_path / 'w'}"])
    for status, _, said in on_hosts(*lines, folders=folders, more=({}, {}, {})):
        assert status == 2, said
        assert one_error(said).startswith("host 2: it differs from other hosts in the training ex")
    assert not (tmp_path / "w").exists()


@pytest.mark.slow
def test_a_setting_of_one_host_is_told(tmp_path):
    lines = commands("compare", (tmp_path / "w", tmp_path / "x"), *COMPARE)
    for status, _, said in on_hosts(*lines, more=({}, dict(JAX_ENABLE_X64="1"))):
        assert status == 2
        assert one_error(said).startswith("host 1: it has jax_enable_x64 True and host 0 jax_ena")


LONG = [*SMALL[:-1], "--rounds=20000", "--eval_every=20000", "--checkpoint_every=5"]


def working(folder, *, within=300):
    """Waits until a run has kept a round."""
    until = time.monotonic() + within
    while not list(folder.glob("cells/*.safetensors")):
        assert time.monotonic() < until
        time.sleep(0.02)


@pytest.mark.slow
@pytest.mark.parametrize("dies", [0, 1])
def test_a_host_that_dies_ends_the_other(tmp_path, dies):
    """With a sentence, not a wait; what it has done is kept."""
    both = list(map(begun, commands("train", (tmp_path / "w", tmp_path / "x"), *LONG)))
    working(tmp_path / "w")
    both[dies].kill()
    both[dies].communicate()
    other = both[1 - dies]
    said = other.communicate(timeout=300)[1]
    assert other.returncode == 1
    assert one_error(said).startswith("this host failed or lost another one (")
    assert list((tmp_path / "w").glob("cells/*.safetensors"))


@pytest.mark.slow
def test_a_third_that_claims_a_taken_place_ends_all_with_a_sentence(tmp_path):
    lines = commands("train", (tmp_path / "w", tmp_path / "x"), *LONG)
    both = list(map(begun, lines))
    working(tmp_path / "w")
    third = begun([*lines[1], "--host_timeout=10"])
    errors = [one_error(process.communicate(timeout=300)[1]) for process in (*both, third)]
    assert errors.pop().startswith("not all of 2 hosts met")
    # The host that learns of it first ends, and the other may learn of that before its cause.
    cause = [error.startswith("two processes have the same") for error in errors]
    assert any(cause)
    for error, named in zip(errors, cause, strict=True):
        assert named or error.startswith("this host failed or lost another one (")
    assert all(process.returncode in (1, 2) for process in (*both, third))


@pytest.mark.slow
def test_a_stopped_host_is_a_sentence_on_both(tmp_path):
    both = list(map(begun, commands("train", (tmp_path / "w", tmp_path / "x"), *LONG)))
    working(tmp_path / "w")
    both[1].send_signal(signal.SIGINT)
    stopped, other = (process.communicate(timeout=300)[1] for process in reversed(both))
    assert (both[1].returncode, both[0].returncode) == (130, 1)
    assert one_error(stopped).startswith("stopped; the same command continues")
    assert one_error(other).startswith("this host failed or lost another one (")


@pytest.mark.slow
def test_a_port_that_something_else_has_taken(tmp_path):
    """And says nothing: the first host cannot listen there, the other is not answered."""
    lines = commands("train", (tmp_path / "w", tmp_path / "x"), *SMALL)
    (port,) = (int(word.rpartition(":")[2]) for word in lines[0] if "coordinator" in word)
    with socket.create_server(("127.0.0.1", port)):
        ended = on_hosts(*lines)
    words = f"port {port} of 127.0.0.1 is taken", f"another program answers at 127.0.0.1:{port}"
    for (status, _, said), begin in zip(ended, words, strict=True):
        assert status == 2
        assert one_error(said).startswith(begin)


@pytest.mark.slow
def test_scripts_for_one_host_say_so(tmp_path):
    flags = ["--coordinator=127.0.0.1:1", "--hosts=2", "--host_id=0", f"--workdir={tmp_path / 'w'}"]
    ((status, _, said),) = on_hosts(["-m", "launch.tune", *flags])
    assert status == 2
    assert said.startswith("error: launch.tune runs on one host; leave --coordinator")
