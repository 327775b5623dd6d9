"""Requests one after another, what their ledger says, and what is left after erasing."""

import json
import os
import shutil

import numpy as np
import pytest

import jfu
import jfu.io
from helpers.comparisons import written
from helpers.forks import Runs, launch
from helpers.scripts import SMALL, rows_of
from jfu import ledger
from launch.records import ledgers

KEY = b"a key of enough bytes"


# ---------------------------------------------------------------- what came before


def clients():
    labels = np.array([0, 1, 0, 1, 0, 1])
    return jfu.stack(np.zeros((6, 2)), labels, [[0, 1], [2, 3], [4, 5]])


# ---------------------------------------------------------------- the scripts


@pytest.fixture(scope="module")
def chain(tmp_path_factory):
    """Trained, one client out, another out on a request that was received, the first back."""
    root = tmp_path_factory.mktemp("chain")
    launch("train", *SMALL, f"--workdir={root / 'A'}")
    launch("unlearn", f"--init_from={root / 'A'}", f"--workdir={root / 'B'}", "--stop=budget")
    out = "--method=retrain", "--forget=client:1"
    launch("ledger", f"--workdir={root / 'B'}", "--receive=client:1", "--requester=p-17")
    launch("unlearn", f"--init_from={root / 'B'}", *out, f"--workdir={root / 'C'}")
    back = "--returns=client:0", "--rounds=1"
    launch("train", f"--init_from={root / 'C'}", *back, f"--workdir={root / 'D'}")
    return root


@pytest.fixture
def copy(chain, tmp_path):
    """The same in its place, to be altered; it is as it was when the test has ended."""
    kept = shutil.copytree(chain, tmp_path / "kept")
    yield chain
    shutil.rmtree(chain)
    shutil.copytree(kept, chain)


def test_the_ledger_tells_what_was_asked_and_done(chain):
    entries = ledger.read(chain / "D" / "ledger.jsonl")
    events = ["trained", "asked", "answered", "received", "asked", "answered", "trained"]
    assert [entry["event"] for entry in entries] == events
    digest = {name: ledger.digest(chain / name / "model.safetensors") for name in "ABCD"}
    steps = [(e.get("from"), e.get("model")) for e in entries if "model" in e]
    a, b, c, d = digest.values()
    assert steps == [(None, a), (a, b), (b, c), (c, d)]
    assert [e["request"] for e in entries if e["event"] == "answered"] == ["client:0", "client:1"]
    rows = rows_of(chain / "B")
    evidence = ("retain", "forget", "test", "mia_matched", "asr")
    assert entries[2]["before"] == {name: rows[0][name] for name in evidence}
    assert entries[2]["after"] == {name: rows[-1][name] for name in evidence}
    assert entries[2]["rounds"] == rows[-1]["round"] == 2
    assert entries[-1]["clients"] == 3
    out, _ = launch("ledger", f"--workdir={chain / 'D'}")
    assert "answered client:1 by retrain" in out
    assert "client:0 back" in out
    assert "7 lines are valid, checked against its files." in out
    assert "could rewrite all" in out


def test_a_received_request_is_followed_to_its_answer(chain):
    """B's ledger does not have the answer; C's, which was begun from it, does."""
    received, asked, answered = ledger.read(chain / "C" / "ledger.jsonl")[3:6]
    name = received["subject_request_id"]
    assert asked["subject_request_ids"] == answered["subject_request_ids"] == [name]
    assert "subject_request_ids" not in ledger.read(chain / "B" / "ledger.jsonl")[1]
    for place in "BCD":
        out, _ = launch("ledger", f"--workdir={chain / place}")
        assert "1 requests were received, and 0 are or were late:" in out
        days = [line["time"][:10] for line in (received, asked, answered)]
        assert f"{name}  client:1 by p-17: received {days[0]}, due " in out
        assert f", decided {days[1]}, answered {days[2]} by retrain" in out
    flags = [f"--workdir={chain / 'B'}", "--reason=no"]
    _, error = launch("ledger", *flags, f"--refuse={name[:6]}", expect=2)
    assert f"the request {name} is not open: it was answered" in error


def test_the_next_request_trains_without_those_before(chain):
    """Two of four clients retrain for four rounds, three go on for one; each sends its model."""
    parameters = (9 * 16 + 16) + (9 * 16 * 32 + 32) + (128 * 64 + 64) + (64 * 10 + 10)
    sent = 4 * parameters + 4 + 5 * 4
    assert rows_of(chain / "C")[-1]["bytes_up"] == 4 * 2 * sent
    assert rows_of(chain / "D")[1]["bytes_up"] == 3 * sent


def test_a_ledger_that_was_touched_is_refused(copy):
    path = copy / "D" / "ledger.jsonl"
    good = path.read_text()
    head = json.loads(good.splitlines()[-1])["hash"]
    path.write_text(good.replace("client:1", "client:2", 1))
    _, error = launch("ledger", f"--workdir={copy / 'D'}", expect=1)
    assert error.startswith("error: ") and "line 4 of the ledger was altered" in error
    path.write_text("".join(line + "\n" for line in good.splitlines()[:-1]))
    _, error = launch("ledger", f"--workdir={copy / 'D'}", expect=1)
    assert "lines were removed" in error  # the end was cut, and the rest shows it
    path.write_text(good)
    out, _ = launch("ledger", f"--workdir={copy / 'D'}", f"--head={head}")
    assert f"checked against its files and the head {head[:12]}" in out
    _, error = launch("ledger", f"--workdir={copy / 'D'}", f"--head={'0' * 64}", expect=1)
    assert "no line of the ledger has the hash" in error


def test_unlearning_refuses_a_model_that_its_ledger_does_not_name(copy, tmp_path):
    shutil.copy(copy / "A" / "model.safetensors", copy / "B" / "model.safetensors")
    flags = [f"--init_from={copy / 'B'}", "--forget=client:2", f"--workdir={tmp_path / 'X'}"]
    _, error = launch("unlearn", *flags, expect=2)
    assert "is not the model that" in error
    assert not (tmp_path / "X").exists()


def test_what_is_erased_and_what_is_left(copy):
    """Client 1's: the models before its request. Client 0 is back, and in the newest."""
    prove = lambda name, who: ["--workdir=" + str(copy / name), f"--prove_erased=client:{who}"]
    out, error = launch("ledger", *prove("C", 1), expect=1)
    assert "files depend or may depend on client:1" in error
    cells = ("C/cells/0-original", "B/cells/0-not_blend", "A/cells/0-train")
    for name in (*cells, "B/model", "A/model"):
        assert f"DEPENDS   {copy / name}.safetensors" in out
    assert (
        f"free      {copy / 'C' / 'model.safetensors'}: a model that was never trained on client:1"
        in out
    )
    assert f"free      {copy / 'C' / 'cells' / '0-retrain.safetensors'}" in out

    flags = [f"--init_from={copy / 'B'}", "--method=retrain", "--forget=client:1"]
    _, said = launch("unlearn", *flags, f"--workdir={copy / 'C'}", "--erase")
    assert f"erased: {copy / 'A' / 'model.safetensors'}" in said
    left = sorted(str(p.relative_to(copy)) for p in copy.rglob("*.safetensors"))
    kept = ["C/cells/0-retrain", "C/model", "D/cells/0-train", "D/model"]
    assert left == [f"{name}.safetensors" for name in kept]
    out, _ = launch("ledger", *prove("C", 1))
    assert "erased 1 files that depended on client:1" in out
    assert "DEPENDS" not in out
    last = ledger.read(copy / "A" / "ledger.jsonl")[-1]
    assert set(last["files"]) == {"cells/0-train.safetensors", "model.safetensors"}

    _, error = launch("ledger", *prove("D", 0), expect=1)
    assert "2 of" in error and "D/model.safetensors" in error
    _, error = launch("ledger", *prove("C", 2), expect=1)
    assert "no request in" in error
    (copy / "A" / "notes.txt").write_text("what might this be?")
    out, _ = launch("ledger", *prove("C", 1), expect=1)
    assert f"DEPENDS   {copy / 'A' / 'notes.txt'}: unknown" in out
    _, error = launch("train", *SMALL, f"--workdir={copy / 'A'}", expect=2)
    assert "were erased; choose another --workdir" in error
    _, error = launch("unlearn", f"--init_from={copy / 'A'}", f"--workdir={copy / 'X'}", expect=2)
    assert "has no model: it was erased" in error


@pytest.mark.slow
def test_a_key_is_asked_for_from_the_first_line_to_the_last(tmp_path):
    key, other = tmp_path / "key", tmp_path / "other"
    key.write_bytes(KEY)
    other.write_bytes(b"some other key, long enough")
    given = f"--key_file={key}"
    launch("train", *SMALL, f"--workdir={tmp_path / 'A'}", given)
    start = [f"--init_from={tmp_path / 'A'}", f"--workdir={tmp_path / 'B'}"]
    _, error = launch("unlearn", *start, expect=2)
    assert "has a key; give it with --key_file" in error
    assert not (tmp_path / "B").exists()
    launch("unlearn", *start, given)
    out, _ = launch("ledger", f"--workdir={tmp_path / 'B'}", given)
    assert "checked against its files and the key" in out
    _, error = launch("ledger", f"--workdir={tmp_path / 'B'}", f"--key_file={other}", expect=1)
    assert "line 1 of the ledger was not written with this key" in error
    other.write_bytes(b"short")
    _, error = launch("ledger", f"--workdir={tmp_path / 'B'}", f"--key_file={other}", expect=2)
    assert "has 5 bytes; it must have at least 16" in error


def test_a_key_begins_and_changes_by_flags(tmp_path, monkeypatch):
    """launch.ledger: a first key, then another, each refused without the one before it."""
    with monkeypatch.context() as patched:
        patched.setattr(ledgers, "key", lambda *_: None)
        work = written(tmp_path / "W")
    monkeypatch.setenv("HOME", str(tmp_path))  # of the scripts that are started now
    for name in ("first", "second"):
        (tmp_path / name).write_bytes(f"the {name} key of enough bytes\n".encode())
        (tmp_path / name).chmod(0o600)
    first, second = (f"--key_file={tmp_path / name}" for name in ("first", "second"))
    path, forks = work.path / "ledger.jsonl", Runs(tmp_path / "runs")

    def asked(*flags, status=0):
        before = path.read_bytes()
        ended = forks.run("ledger", f"--workdir={work.path}", *flags)
        assert ended.status == status, ended.said
        assert path.read_bytes().startswith(before) and (status == 0 or path.read_bytes() == before)
        return ended.said

    assert "could rewrite all" in asked()
    assert "from here on with a key" in asked("--new_key_file=~/first")
    assert "was not written with this key" in asked(second, status=1)
    assert "and none was given; give --key_file" in asked("--new_key_file=~/second", status=2)
    assert "is kept with this key already" in asked(first, "--new_key_file=~/first", status=2)
    assert "leave --head and --prove_erased out" in asked(
        "--new_key_file=~/first", "--head=x", status=2
    )
    assert "from here on with another key" in asked(first, "--new_key_file=~/second")
    assert "was not written with this key" in asked(first, status=1)
    assert "3 lines are valid, checked against its files and the key" in asked(second)
    # The lines of before are the second key's as well, though none was written with it.
    text = path.read_text()
    path.write_text(text.replace('"seeds":[0,1]', '"seeds":[0,7]', 1))
    assert path.read_text() != text
    assert "line 1 of the ledger was altered" in asked(second, status=1)
    path.write_text(text)
    with pytest.raises(ValueError, match="was not written with this key"):
        ledger.append(path, dict(event="x"), key=(tmp_path / "first").read_bytes().strip())
    ledger.append(path, dict(event="x"), key=(tmp_path / "second").read_bytes().strip())
    forks.end()


@pytest.mark.slow
def test_comparing_writes_its_line_once(tmp_path):
    flags = [*SMALL, "--seeds=1", "--methods=not", f"--workdir={tmp_path / 'W'}"]
    for _ in range(2):
        launch("compare", *flags)
    (line,) = ledger.read(tmp_path / "W" / "ledger.jsonl")
    assert (line["event"], line["methods"], line["seeds"]) == ("compared", ["not", "original"], [0])
    assert line["results"] == ledger.digest(tmp_path / "W" / "results.jsonl")
    launch("compare", *[f.replace("=1", "=2") if "seeds" in f else f for f in flags])
    assert len(ledger.read(tmp_path / "W" / "ledger.jsonl")) == 2


def test_returning_wants_somebody_who_left(chain, tmp_path):
    flags = [f"--init_from={chain / 'B'}", f"--workdir={tmp_path / 'X'}"]
    for wrong in ("class:0", "client:0,1"):
        _, error = launch("train", *flags, f"--returns={wrong}", expect=2)
        assert (
            f"--returns={wrong} names clients that were not taken out; those taken "
            "out are: client:0" in error
        )
    _, error = launch("train", *flags, "--lr=0.7", expect=2)
    assert "leave --lr out" in error
    _, error = launch("unlearn", *flags, expect=2)
    assert "has answered a request; name the next" in error
    _, error = launch("unlearn", *flags, "--forget=client:0", expect=2)
    assert "names no example of any client" in error
    assert not os.path.exists(tmp_path / "X")
