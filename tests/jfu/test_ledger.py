"""The ledger: what breaks its chain, and who can write a line."""

import hashlib
import hmac
import json

import pytest

from jfu import ledger

TIME = "2026-01-01T00:00:00Z"
KEY = b"a key of enough bytes"


def lines_of(*contents, key=None):
    entries = []
    for content in contents:
        entries.append(ledger.chained(content, entries, time=TIME, key=key))
    return [ledger.canonical(entry) for entry in entries]


def text(lines):
    return "".join(line + "\n" for line in lines)


THREE = [dict(event="trained", model="m"), dict(event="asked", n=1.5), dict(event="answered")]


def test_hashes_and_macs_are_what_another_computation_gives():
    line = lines_of(dict(event="trained", note="ü"), key=KEY)[0]
    bare = '{"event":"trained","note":"\\u00fc","number":1,"previous":"' + "0" * 64
    bare += '","time":"2026-01-01T00:00:00Z"}'
    own = hashlib.sha256(bare.encode()).hexdigest()
    entry = json.loads(line)
    assert entry["hash"] == own
    assert entry["mac"] == hmac.new(KEY, own.encode(), "sha256").hexdigest()
    assert lines_of(*THREE)[1].count(json.loads(lines_of(*THREE)[0])["hash"]) == 1


def test_a_chain_that_holds_is_read_back():
    entries = ledger.verify(text(lines_of(*THREE)))
    assert [entry["event"] for entry in entries] == ["trained", "asked", "answered"]
    assert ledger.verify("") == []


ALTERED = {
    "altered": lambda a, b, c: [a, b.replace("1.5", "1.6"), c],
    "follow|put in or removed": lambda a, b, c: [a, c],
    "does not follow": lambda a, b, c: [a, a, b, c],
    "line 2 of the ledger does not follow": lambda a, b, c: [a, c, b],
    "line 1 of the ledger does not follow": lambda a, b, c: [b, c],
    "line 2 of the ledger is none that jfu wrote": lambda a, b, c: [a, b.replace(",", ", "), c],
    "line 3 of the ledger is none": lambda a, b, c: [a, b, ""],
    "line 1 of the ledger is none that": lambda a, b, c: ["[]", b, c],
    "line 1 of the ledger is none": lambda a, b, c: ["[" * 100_000, b, c],
    "2 of the ledger is none": lambda a, b, c: [a, b.replace("{", '{"event":"x",', 1), c],
}


@pytest.mark.parametrize("why", ALTERED)
def test_a_line_that_was_touched_is_found(why):
    with pytest.raises(ValueError, match=why):
        ledger.verify(text(ALTERED[why](*lines_of(*THREE))))


def test_half_a_line_is_found():
    with pytest.raises(ValueError, match="line 3 of the ledger is cut off"):
        ledger.verify(text(lines_of(*THREE))[:-1])


def test_a_rewritten_chain_or_a_cut_end_needs_a_head():
    """The files alone cannot show it either; --head can."""
    head = json.loads(lines_of(*THREE)[-1])["hash"]
    rewritten = text(lines_of(THREE[0], dict(event="asked", n=2.5), THREE[2]))
    cut = text(lines_of(*THREE)[:2])
    for wrong in (rewritten, cut):
        assert ledger.verify(wrong)
        with pytest.raises(ValueError, match="no line of the ledger has the hash"):
            ledger.verify(wrong, head=head)
    grown = text(lines_of(*THREE, dict(event="erased")))
    assert len(ledger.verify(grown, head=head)) == 4


def test_nobody_without_the_key_writes_a_line():
    good = text(lines_of(*THREE, key=KEY))
    assert len(ledger.verify(good, key=KEY)) == 3
    for forged in (lines_of(*THREE), lines_of(*THREE, key=b"another key of bytes")):
        with pytest.raises(ValueError, match="line 1 of the ledger was not written with this key"):
            ledger.verify(text(forged), key=KEY)


def test_a_line_is_appended_once_and_never_to_a_broken_chain(tmp_path):
    path = tmp_path / "ledger.jsonl"
    first = ledger.append(path, dict(event="trained", seeds=(0, 1)))
    assert ledger.append(path, dict(event="trained", seeds=(0, 1))) == first
    ledger.append(path, dict(event="trained", seeds=(0, 2)))
    entries = ledger.read(path)
    assert [entry["number"] for entry in entries] == [1, 2]
    before = path.read_bytes()
    with pytest.raises(ValueError, match="line 1 of the ledger was not written with this key"):
        ledger.append(path, dict(event="asked"), key=KEY)
    with pytest.raises(ValueError, match="number is the ledger's own"):
        ledger.append(path, dict(event="asked", number=7))
    assert path.read_bytes() == before
    path.write_bytes(before.replace(b"trained", b"drained", 1))
    with pytest.raises(ValueError, match=r"ledger.jsonl does not hold: line 1 .* altered"):
        ledger.append(path, dict(event="asked"))


def test_a_ledger_with_a_key_is_not_gone_on_with_without(tmp_path):
    path = tmp_path / "ledger.jsonl"
    ledger.append(path, dict(event="trained"), key=KEY)
    with pytest.raises(ValueError, match="is kept with a key, and none was given"):
        ledger.append(path, dict(event="asked"))
    assert len(ledger.read(path, key=KEY)) == 1


NEW = b"another key of enough bytes"


@pytest.mark.parametrize("old", [None, KEY])
def test_a_key_begins_later_or_changes_by_a_line_that_both_vouch_for(tmp_path, old):
    path = tmp_path / "ledger.jsonl"
    for content in THREE:
        ledger.append(path, content, key=old)
    line = ledger.rekey(path, dict(event="key"), new=NEW, key=old)
    assert line["next"] == hmac.new(NEW, line["hash"].encode(), "sha256").hexdigest()
    assert line.get("mac") == (old and hmac.new(old, line["hash"].encode(), "sha256").hexdigest())
    for wrong in (None, old, b"a third key of enough bytes"):
        with pytest.raises(ValueError, match="kept with a key|not written with this key"):
            ledger.append(path, dict(event="erased"), key=wrong)
    ledger.append(path, dict(event="erased"), key=NEW)
    assert len(ledger.read(path, key=NEW)) == len(ledger.read(path)) == 5
    with pytest.raises(ValueError, match=r"line \d of the ledger .* not written with this key"):
        ledger.read(path, key=KEY)
    third = ledger.rekey(path, dict(event="key"), new=b"a third key of enough bytes", key=NEW)
    assert len(ledger.read(path, key=b"a third key of enough bytes")) == third["number"] == 6


@pytest.mark.parametrize("what", ["a line before", "the change", "a line after", "another change"])
def test_nobody_without_the_new_key_changes_a_line(tmp_path, what):
    """Not even the lines of before it was the key: its line holds their hash."""
    path = tmp_path / "ledger.jsonl"
    for content in THREE:
        ledger.append(path, content)
    ledger.rekey(path, dict(event="key"), new=NEW)
    ledger.append(path, dict(event="erased"), key=NEW)
    entries = [{k: v for k, v in e.items() if k not in ledger.CHAIN} for e in ledger.read(path)]
    path.unlink()
    if what == "a line before":
        entries[1]["n"] = 2.5
    for content in entries:
        if content["event"] != "key":
            ledger.append(path, content, key=KEY if ledger.keyed(ledger.read(path)) else None)
        elif what == "another change":
            ledger.rekey(path, content, new=KEY)
        elif what != "the change":
            ledger.append(path, content)
    assert ledger.read(path)
    with pytest.raises(ValueError, match="was not written with this key"):
        ledger.read(path, key=NEW)


def test_a_key_that_is_there_or_a_ledger_that_is_not_is_told(tmp_path):
    path = tmp_path / "ledger.jsonl"
    with pytest.raises(ValueError, match="has no lines yet"):
        ledger.rekey(path, dict(event="key"), new=KEY)
    ledger.append(path, THREE[0], key=KEY)
    with pytest.raises(ValueError, match="is kept with this key already"):
        ledger.rekey(path, dict(event="key"), new=KEY, key=KEY)
    with pytest.raises(ValueError, match="is kept with a key, and none was given"):
        ledger.rekey(path, dict(event="key"), new=NEW)


def test_times_that_run_backwards_are_noted(tmp_path):
    times = ["2026-01-02T00:00:00Z", "2026-01-01T23:59:59Z", "2026-01-01T23:59:59Z"]
    entries = []
    for content, time in zip(THREE, times, strict=True):
        entries.append(ledger.chained(content, entries, time=time))
    found = ledger.verify(text(map(ledger.canonical, entries)))
    assert ledger.backwards(found) == [2]
    assert ledger.backwards([]) == ledger.backwards(found[:1]) == []


@pytest.mark.parametrize("time", ["yesterday", "2026-1-1T00:00:00Z", "\u0662026-01-01T00:00:00Z"])
def test_times_that_are_none_are_found(time):
    entry = ledger.chained(THREE[0], [], time=time)
    with pytest.raises(ValueError, match="line 1 of the ledger is none that jfu wrote"):
        ledger.verify(ledger.canonical(entry) + "\n")
