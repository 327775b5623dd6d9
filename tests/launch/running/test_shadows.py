"""Shadows of an audit: blocks that are kept, and what they took."""

import shutil
from types import SimpleNamespace

import jax
import numpy as np
import pytest

import jfu
import jfu.io
from launch.running import shadows as audited
from launch.shell.devices import place
from launch.workdir.places import WorkDir


def test_what_training_took_is_read_where_it_is_known(tmp_path):
    work = WorkDir(tmp_path, None)
    rows = [dict(method=m, seed=s, seconds=t) for m, s, t in (("retrain", 0, 9.0), ("not", 0, 2.0))]
    assert audited.one_by_one(work, rows, 0, ["not"]) == (20.0, False)
    work.cell(0, "original").parent.mkdir()
    notes = dict(spent=dict(seconds=7.0))
    jfu.io.save_state(work.cell(0, "original"), {"a": np.zeros(1)}, notes)
    assert audited.one_by_one(work, rows, 0, ["not"]) == (18.0, True)
    assert audited.one_by_one(work, rows, 0, ["ga"]) is None
    assert audited.one_by_one(work, rows, 1, ["not"]) is None


def test_blocks_are_of_one_seed_and_keep_what_they_took(tmp_path, monkeypatch, data, model):
    """Eight shadows in two blocks, a method that joins later, and another seed."""
    many = jfu.stack(data.x, data.y, [range(12), [12, 13], [14, 15]])
    request = place(jfu.split(many, jfu.forget_client(many, [0])))
    study = SimpleNamespace(layout=SimpleNamespace(devices=2, chunk=1), model=model)
    study.config = SimpleNamespace(dp_clip=None)
    calls = []

    def programs(study, methods, rows, chunk):
        def run(shared, numbers, names):
            calls.append((len(numbers[0]), names))
            took = 4.0 * (1 + len(calls))
            phi = np.full((len(numbers[0]), len(rows)), 1.0)
            return dict.fromkeys(dict.fromkeys(["original", *names]), phi), {
                name: took for name in dict.fromkeys(["original", *names])
            }

        run.look = lambda shared, rows: None
        return run

    monkeypatch.setattr(audited, "Programs", programs)
    run = lambda seed, *methods: audited.run(
        WorkDir(tmp_path, None),
        study,
        SimpleNamespace(seed=seed, key=jax.random.key(seed), request=request),
        dict.fromkeys(methods),
        8,
        1,
    )
    phi, seconds, paths = run(0, "not")
    assert [path.name for path in paths] == ["0-8-0-3.safetensors", "0-8-4-7.safetensors"]
    assert phi["not"].shape == (8, 12) and calls == [(4, ["original", "retrain", "not"])] * 2
    assert seconds == 3 * 3.0  # 12 s for four shadows, thrice, in the second block
    # The method that joins took 20 s for four, and training is not counted again.
    assert run(0, "not", "ga")[1] == 9 + 5 and calls[2:] == [(4, ["ga"])] * 2
    assert run(0, "not")[1] == 9 and len(calls) == 4
    # Another seed's shadows are others.
    run(1, "not")
    assert len(calls) == 6 and len(list((tmp_path / "shadows").iterdir())) == 4


def test_parts_from_several_machines_are_one_run(tmp_path, monkeypatch, data, model):
    """Ten shadows in three blocks: the parts of two copies, put together, leave nothing to run."""
    many = jfu.stack(data.x, data.y, [range(12), [12, 13], [14, 15]])
    request = place(jfu.split(many, jfu.forget_client(many, [0])))
    study = SimpleNamespace(layout=SimpleNamespace(devices=2, chunk=1), model=model)
    study.config = SimpleNamespace(dp_clip=None)
    trial, calls = SimpleNamespace(seed=0, key=jax.random.key(0), request=request), []

    def programs(study, methods, rows, chunk):
        def run(shared, numbers, names):
            calls.append(numbers[0].tolist())
            phi = np.repeat(np.asarray(numbers[0], float)[:, None], len(rows), 1)
            return {name: phi for name in names}, dict.fromkeys(names, 1.0)

        run.look = lambda shared, rows: None
        return run

    monkeypatch.setattr(audited, "Programs", programs)
    run = lambda folder, *part: audited.run(
        WorkDir(tmp_path / folder, None), study, trial, {"not": None}, 10, 1, *part
    )
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
    found, _, _ = run("one", (1, 2))
    assert found["not"][:, 0].tolist() == [0, 1, 2, 3, 8, 9]
    _, _, paths = run("two", (2, 2))
    assert [path.name for path in paths] == ["0-10-4-7.safetensors"]
    assert calls == [[0, 1, 2, 3], [8, 9], [4, 5, 6, 7]]
    for path in paths:
        shutil.copy(path, tmp_path / "one" / "shadows")
    whole, _, paths = run("one")
    assert len(paths) == len(calls) == 3
    assert whole["not"][:, 0].tolist() == list(range(10)) and whole["held"].shape == (10, 12)
    np.testing.assert_array_equal(whole["held"][[0, 1, 2, 3, 8, 9]], found["held"])


@pytest.mark.parametrize("text", ["3/2", "0/2", "2", "1/0", "a/b", "1/2/3", "-1/2"])
def test_what_is_no_part_is_refused(text):
    with pytest.raises(ValueError, match=f"--shadows_part={text} is no part"):
        audited.part_of(text)


def test_more_parts_than_blocks_are_refused():
    with pytest.raises(ValueError, match="10 shadow federations are 3 blocks of at most 4"):
        audited.blocks_of(10, 4, (4, 4))


def test_holdings_are_of_candidates_whoever_has_them():
    """Rows 7 and 3 leave with clients 0 and 1, row 3 with both of them; row 5 is padding."""
    forget = SimpleNamespace(
        index=np.array([[7, 3], [3, 5]]), mask=np.array([[True, True], [True, False]])
    )
    request, rows = SimpleNamespace(forget=forget), np.array([3, 7])
    held = np.array([[[1, 0], [0, 1]], [[0, 1], [1, 1]], [[0, 0], [1, 0]]], bool)
    expected = [[False, True], [True, False], [True, False]]
    assert audited.holdings(request, rows, held).tolist() == expected


def test_as_many_shadows_run_at_once_as_fit(model):
    trial = SimpleNamespace(
        key=jax.random.key(0),
        request=SimpleNamespace(retain=SimpleNamespace(id=np.arange(10))),
    )
    layout = SimpleNamespace(backend="gpu", devices=2, chunk=None)
    study = SimpleNamespace(layout=layout, model=model)
    size = sum(leaf.size for leaf in jax.tree.leaves(model.init(trial.key)))
    assert audited.at_once(study, trial, 9) == jfu.clients_at_once("gpu", 5, 10 * size)
