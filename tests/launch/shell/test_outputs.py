"""Tables, figures and reports: what a user has put in their place is kept."""

import json
import os

import pytest

from launch.shell import outputs


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(dict(sealed=True)))
    return tmp_path


def named(folder):
    return sorted(name for name in os.listdir(folder) if name.startswith("table"))


def test_what_jfu_wrote_is_replaced_and_what_it_did_not_is_kept(folder, capsys):
    table = folder / "table.md"
    for content in (b"one", b"two", b"two", b"one"):
        outputs.put(table, content)
        assert table.read_bytes() == content and named(folder) == ["table.md"]
    table.write_bytes(b"one, and what I think of it")
    outputs.put(table, b"three")
    assert table.read_bytes() == b"three"
    assert (folder / "table.md.yours-1").read_bytes() == b"one, and what I think of it"
    assert "table.md is not as jfu wrote it; it is" in capsys.readouterr().err
    table.write_bytes(b"again")
    outputs.put(table, b"four")
    assert (folder / "table.md.yours-2").read_bytes() == b"again"


def test_the_first_of_a_name_may_be_a_users_too(folder):
    (folder / "table.md").write_bytes(b"mine")
    outputs.put(folder / "table.md", b"one")
    assert (folder / "table.md.yours-1").read_bytes() == b"mine"


@pytest.mark.parametrize("kind", ["link", "folder", "pipe"])
def test_what_is_no_file_is_kept_as_it_is(folder, kind):
    (folder / "else").write_bytes(b"elsewhere")
    make = dict(
        link=lambda path: path.symlink_to(folder / "else"),
        folder=lambda path: path.mkdir(),
        pipe=os.mkfifo,
    )
    make[kind](folder / "table.md")
    outputs.put(folder / "table.md", b"one")
    assert (folder / "table.md").read_bytes() == b"one"
    assert (folder / "else").read_bytes() == b"elsewhere"
    assert named(folder) == ["table.md", "table.md.yours-1"]


def test_a_kill_between_the_digest_and_the_file_makes_nothing_a_users(folder, monkeypatch):
    outputs.put(folder / "table.md", b"one")
    write, left = outputs.jfu.io.write_bytes, [1]

    def killed(path, content):
        if not left:
            raise KeyboardInterrupt
        left.pop()
        write(path, content)

    monkeypatch.setattr(outputs.jfu.io, "write_bytes", killed)
    with pytest.raises(KeyboardInterrupt):
        outputs.put(folder / "table.md", b"two")
    monkeypatch.undo()
    assert (folder / "table.md").read_bytes() == b"one"
    outputs.put(folder / "table.md", b"three")
    assert named(folder) == ["table.md"] and (folder / "table.md").read_bytes() == b"three"


def test_older_work_directories_and_other_places_are_written_as_before(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "table.md").write_bytes(b"of before")
    outputs.put(tmp_path / "table.md", b"one")
    assert named(tmp_path) == ["table.md"]
    (tmp_path / "plots").mkdir()
    for content in (b"one", b"two"):
        outputs.put(tmp_path / "plots" / "table.png", content)
    assert os.listdir(tmp_path / "plots") == ["table.png"]


def test_digests_that_were_changed_are_a_sentence(folder):
    for text in ("[]", "{", json.dumps({"table.md": ["x"]}), json.dumps({"a/b": ["0" * 64]})):
        (folder / "outputs.json").write_text(text)
        assert not outputs.holds_digests(folder / "outputs.json")
        with pytest.raises(ValueError, match="outputs.json"):
            outputs.put(folder / "table.md", b"one")
