"""Data sets of tensorflow-datasets, and launch.prepare."""

import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from helpers.datasets import BLOCK, python
from jfu.data import load
from jfu.data import tfds as reader


def test_odd_files_become_plain_images(odd):
    with pytest.raises(ValueError, match=r"differ in size, \[., ., 3\] and .*image_size=S"):
        load("jfu_odd", data_dir=odd)
    data = load("jfu_odd", data_dir=odd, image_size=6)
    assert data.x_train.shape == (6, 6, 6, 3) and data.x_train.dtype == np.uint8
    assert np.abs(data.x_train.astype(int) - [200, 0, 0]).max() <= 32  # web palette, JPEG
    assert data.labels == ("ant", "bee") and sorted(data.y_train) == [0, 0, 0, 1, 1, 1]
    # The test split has no labels, so validation takes its place.
    assert sorted(data.y_test) == [0, 0, 1, 1]


def test_sets_without_supervised_keys_or_test_images(odd, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", odd)
    data = load("jfu_even")
    assert data.x_train.shape == (4, 6, 9, 3) and sorted(data.y_train) == [0, 0, 1, 1]
    with pytest.raises(ValueError, match="no labelled split test.*resplit=0.1"):
        load("jfu_whole")
    data = load("jfu_whole", resplit=0.3)
    assert len(data.y_train) == 3 and len(data.y_test) == 1
    with pytest.raises(ValueError, match="no image-classification set"):
        load("jfu_numbers", resplit=0.5)


def test_train_size_decodes_only_the_chosen(odd, monkeypatch):
    calls = []
    decode = reader._image
    monkeypatch.setattr(reader, "_image", lambda *args: calls.append(0) or decode(*args))
    part = load("jfu_odd", data_dir=odd, image_size=6, train_size=2)
    assert len(calls) == 2 + 4
    full = load("jfu_odd", data_dir=odd, image_size=6)
    rows = np.sort(np.random.default_rng(0).permutation(6)[:2])
    assert np.array_equal(part.x_train, full.x_train[rows])
    assert np.array_equal(part.y_train, full.y_train[rows])
    late = load("jfu_odd", data_dir=odd, image_size=6, train_size=2, drop_labels=["ant"])
    assert late.y_train.tolist() == [0, 0]


def test_what_cannot_be_read_names_the_command(odd, tmp_path):
    def message(name, folder=tmp_path):
        with pytest.raises(ValueError) as caught:
            load(name, data_dir=folder)
        text = str(caught.value)
        assert "\n" not in text
        wanted = name if name.startswith(("jfu", "mnist")) else "NAME"
        assert f"python -m launch.prepare --dataset={wanted} --data_dir={folder}" in text
        return text

    assert "mnist is not prepared in" in message("mnist")
    assert "no data set 'no_such_set'; give digits, synthetic" in message("no_such_set")
    assert "cannot open 'no such/set'" in message("no such/set")
    assert "cannot open 'cifar10:0.0.1'" in message("cifar10:0.0.1")

    shutil.copytree(Path(odd) / "jfu_even", tmp_path / "jfu_even")
    inside = tmp_path / "jfu_even" / "1.0.0"
    shard = next(inside.glob("*train.array_record*"))
    data = shard.read_bytes()
    shard.write_bytes(data[: len(data) // 2])
    assert "damaged or incomplete" in message("jfu_even")
    shard.unlink()
    assert "damaged or incomplete" in message("jfu_even")
    info = json.loads((inside / "dataset_info.json").read_text())
    (inside / "dataset_info.json").write_text(json.dumps({**info, "fileFormat": "tfrecord"}))
    assert "as tfrecord, which cannot be read" in message("jfu_even")


def test_mocked_catalogue_without_tensorflow(tmp_path):
    code = f"""{BLOCK}
import tensorflow_datasets as tfds
from jfu.data import load
with tfds.testing.mock_data(num_examples=64):
    for name, size in (("cifar10", None), ("mnist", None), ("caltech101", 16)):
        data = load(name, data_dir={str(tmp_path)!r}, image_size=size)
        print(name, data.x_train.shape, data.x_train.dtype, data.x_test.shape, len(data.labels))
assert "tensorflow" not in sys.modules
"""
    code, out, err = python(code)
    assert code == 0, err
    assert out.splitlines() == [
        "cifar10 (64, 32, 32, 3) uint8 (64, 32, 32, 3) 10",
        "mnist (64, 28, 28, 1) uint8 (64, 28, 28, 1) 10",
        "caltech101 (64, 16, 16, 3) uint8 (64, 16, 16, 3) 102",
    ]


def test_prepare_says_what_it_did(odd, tmp_path):
    shutil.copytree(Path(odd) / "jfu_even", tmp_path / "jfu_even")
    info = tmp_path / "jfu_even" / "1.0.0" / "dataset_info.json"
    info.write_text(json.dumps({**json.loads(info.read_text()), "fileFormat": "tfrecord"}))
    code = f"""{BLOCK}
from launch.prepare import prepare
print(prepare("jfu_even", {odd!r}))
for name in ("jfu_even", "mnist", "no_such_set"):
    try: print(prepare(name, {str(tmp_path)!r}))
    except ValueError as error: print(error)
"""
    code, out, err = python(code)
    assert code == 0, err
    done, other, missing, unknown = out.splitlines()
    assert re.fullmatch("jfu_even is already prepared in .*; nothing to do.", done)
    assert "already prepared" in other and "as tfrecord" in other and "--data_dir" in other
    assert "needs TensorFlow" in missing and "pip install 'jfu[prepare]'" in missing
    assert "no data set 'no_such_set'" in unknown


def test_prepare_as_a_script(odd):
    code, out, err = python("", "-m", "launch.prepare", "--dataset=jfu_even", f"--data_dir={odd}")
    assert code == 0 and "already prepared" in out, err
    code, out, err = python("", "-m", "launch.prepare", "--dataset=no_such_set")
    assert code == 2 and "error: there is no data set" in err and "Traceback" not in err


# First five labels and sums of pixel values, from the published files.
REAL = {
    "fashion_mnist": (
        (60000, 28, 28, 1),
        ([2, 1, 8, 4, 1], [42826, 53296, 85388, 111903, 46710]),
        ([4, 4, 9, 7, 5], [63356, 91377, 30680, 60473, 25266]),
    ),
    "cifar10": (
        (50000, 32, 32, 3),
        ([7, 8, 4, 4, 6], [447224, 334000, 356345, 342214, 212087]),
        ([7, 0, 6, 9, 5], [434684, 233920, 296401, 601201, 355222]),
    ),
}


@pytest.mark.skipif("TFDS_DATA_DIR" not in os.environ, reason="TFDS_DATA_DIR is not set")
@pytest.mark.parametrize("name", REAL)
def test_real_sets(name):
    (many, *shape), train, test = REAL[name]
    where = reader.folder(None)
    these = reader._Set(name, where, reader.open_builder(name, where), "image")
    source = reader._source(these, "train")
    first = reader._rows(these, source, list(range(5)))
    images = np.stack([reader._image(example["image"], shape[-1]) for example in first])
    assert len(source) == many
    assert ([e["label"] for e in first], images.sum((1, 2, 3)).tolist()) == train
    data = load(name, train_size=100)
    assert data.x_train.shape == (100, *shape) and data.x_test.shape == (10000, *shape)
    assert data.x_train.dtype == np.uint8 and len(data.labels) == 10
    assert (data.y_test[:5].tolist(), data.x_test[:5].sum((1, 2, 3)).tolist()) == test
    assert np.bincount(data.y_test).tolist() == [1000] * 10
    rows = np.sort(np.random.default_rng(0).permutation(many)[:100])
    assert data.y_train.tolist() == [e["label"] for e in source.__getitems__(rows.tolist())]
