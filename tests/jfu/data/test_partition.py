"""The division of examples among clients."""

import numpy as np
import pytest

from jfu.data import partition

Y = np.random.default_rng(7).integers(0, 10, 1000)

SPECS = ["iid", "dirichlet:0.5", "dirichlet:1e-6", "dirichlet:1e6", "shards:2"]


def skew(lists, y):
    """Mean total variation between a client's labels and all labels, weighted by examples."""
    overall = np.bincount(y, minlength=10) / len(y)
    parts = [np.bincount(y[rows], minlength=10) / len(rows) for rows in lists]
    each = [0.5 * np.abs(part - overall).sum() for part in parts]
    return np.average(each, weights=[len(rows) for rows in lists])


def assert_partition(lists, examples, clients, minimum=1):
    assert len(lists) == clients
    assert all(rows.dtype == np.int32 and rows.ndim == 1 for rows in lists)
    assert all(len(rows) >= minimum for rows in lists)
    assert np.array_equal(np.sort(np.concatenate(lists)), np.arange(examples))


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("clients", [1, 7, 100, 500])
def test_every_example_has_one_client(spec, clients):
    lists = partition.partition(spec, Y, clients, seed=3)
    assert_partition(lists, len(Y), clients)
    again = partition.partition(spec, Y, clients, seed=3)
    assert all(np.array_equal(a, b) for a, b in zip(lists, again, strict=True))
    if clients > 1:
        other = partition.partition(spec, Y, clients, seed=4)
        assert any(not np.array_equal(a, b) for a, b in zip(lists, other, strict=True))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("beta", [5e-324, 1e-300, 1e-6, 0.01, 1.0, 1e6, 1e308])
@pytest.mark.parametrize("clients, minimum", [(10, 1), (1000, 1), (100, 10), (50, 7)])
def test_dirichlet_always_ends(beta, clients, minimum):
    lists = partition.dirichlet(Y, clients, beta, seed=1, minimum=minimum)
    assert_partition(lists, len(Y), clients, minimum)


def test_dirichlet_skew_falls_with_beta():
    skews = [skew(partition.dirichlet(Y, 10, beta, seed=0), Y) for beta in (0.01, 0.1, 1, 10, 1e4)]
    assert all(a > b for a, b in zip(skews, skews[1:], strict=False)), skews
    assert skews[0] > 0.6 and skews[-1] < 0.05


@pytest.mark.parametrize("beta", [0.05, 0.5, 5.0])
def test_dirichlet_proportions_have_the_right_moments(beta):
    rng, clients = np.random.default_rng(0), 8
    draws = np.stack([partition._proportions(rng, clients, beta) for _ in range(20000)])
    assert np.allclose(draws.sum(1), 1)
    mean = 1 / clients
    assert np.allclose(draws.mean(0), mean, atol=0.01)
    variance = mean * (1 - mean) / (clients * beta + 1)
    assert np.allclose(draws.var(0), variance, rtol=0.1)


def test_dirichlet_favours_no_client():
    y = np.zeros(7, int)  # few examples of a class, so that rounding decides
    sizes = [[len(r) for r in partition.dirichlet(y, 4, 1e6, seed=s)] for s in range(400)]
    assert np.allclose(np.mean(sizes, 0), 7 / 4, atol=0.15)


def test_shards_keep_the_minimum_or_are_refused():
    """Ten clients of two shards: 1,000 examples in 20 shards of 50 are 100 each, and no more."""
    y = np.arange(1000) % 10
    assert min(map(len, partition.partition("shards:2", y, 10, minimum=100))) == 100
    with pytest.raises(ValueError, match="shards:3 leaves a client 99 examples, and each is to"):
        partition.partition("shards:3", y, 10, minimum=100)


def test_iid_is_even_and_shards_limit_the_classes():
    lists = partition.iid(Y, 7, seed=0)
    assert {len(rows) for rows in lists} == {142, 143} and skew(lists, Y) < 0.15
    y = np.repeat(np.arange(10), 100)
    lists = partition.shards(y, 50, 2, seed=0)
    assert all(len(rows) == 20 and len(set(y[rows])) <= 2 for rows in lists)
    assert skew(lists, y) > 0.7
    assert sum(len(set(y[rows])) == 2 for rows in lists) > 25  # dealt, not in order


@pytest.mark.parametrize(
    "spec, clients, message",
    [
        ("", 4, "partition is ''; it must be iid"),
        ("iid:2", 4, "partition is 'iid:2'"),
        ("dirichlet", 4, "partition is 'dirichlet'"),
        ("dirichlet:x", 4, "dirichlet:B with a beta > 0"),
        ("dirichlet:0", 4, "beta > 0"),
        ("dirichlet:-1", 4, "beta > 0"),
        ("dirichlet:nan", 4, "beta > 0"),
        ("dirichlet:inf", 4, "beta > 0"),
        ("shards:1.5", 4, "whole number"),
        ("shards:0", 4, "whole number"),
        ("shards:251", 4, "between 1 and 250"),
        ("iid", 1001, "1001 clients cannot share 1000 examples"),
        ("dirichlet:1", 1001, "1001 clients"),
        ("iid", 0, "0 clients"),
    ],
)
def test_wrong_partitions_say_what_is_possible(spec, clients, message):
    with pytest.raises(ValueError, match=message):
        partition.partition(spec, Y, clients)


def test_wrong_arguments_of_single_partitions():
    with pytest.raises(ValueError, match="beta is 0"):
        partition.dirichlet(Y, 4, 0)
    with pytest.raises(ValueError, match="minimum must be between 1 and 250"):
        partition.dirichlet(Y, 4, 1.0, minimum=251)
    with pytest.raises(ValueError, match="labels must be integers"):
        partition.iid(Y.astype(float), 4)
    with pytest.raises(ValueError, match="client ids are float64"):
        partition.from_ids(np.zeros(3))


def test_own_lists_from_files(tmp_path):
    np.savez(tmp_path / "a.npz", anna=np.array([4, 0]), ben=np.array([1], np.uint8))
    lists, ids = partition.from_file(tmp_path / "a.npz", 5)
    assert ids == ("anna", "ben") and [r.tolist() for r in lists] == [[0, 4], [1]]
    assert lists[1].dtype == np.int32
    (tmp_path / "b.json").write_text('{"7": [4, 0], "ben": [1]}')
    lists, ids = partition.from_file(tmp_path / "b.json", 5)
    assert ids == ("7", "ben") and [r.tolist() for r in lists] == [[0, 4], [1]]
    (tmp_path / "c.json").write_text("[[4, 0], [1]]")
    lists, ids = partition.from_file(tmp_path / "c.json", 5)
    assert ids == (0, 1) and [r.tolist() for r in lists] == [[0, 4], [1]]


@pytest.mark.parametrize(
    "text, message",
    [
        ("{", "no JSON that jfu reads"),
        ("3", "must hold an object"),
        ("[]", "holds no clients"),
        ("{}", "holds no clients"),
        ("[[0], []]", "client 1 .* not empty"),
        ("[[0], 1]", "client 1 .* list of integers"),
        ("[[0.5]]", "client 0 .* list of integers"),
        ("[[true]]", "client 0 .* list of integers"),
        ("[[[0]]]", "client 0 .* list of integers"),
        ('{"a": [5]}', "client a .* names row 5; the rows are 0 to 4"),
        ('{"a": [-1]}', "client a .* names row -1"),
        ('{"a": [1, 1]}', "client a .* names a row twice"),
        ('{"a": [1], "a": [2]}', "names the client a twice"),
    ],
)
def test_wrong_own_lists_are_named(tmp_path, text, message):
    (tmp_path / "own.json").write_text(text)
    with pytest.raises(ValueError, match=message):
        partition.from_file(tmp_path / "own.json", 5)


def test_wrong_list_files_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="no file"):
        partition.from_file(tmp_path / "none.json", 5)
    (tmp_path / "own.csv").write_text("1,2")
    with pytest.raises(ValueError, match="must end in .npz or .json"):
        partition.from_file(tmp_path / "own.csv", 5)
    (tmp_path / "own.npz").write_bytes(b"PK broken")
    with pytest.raises(ValueError, match="is no whole .npz file"):
        partition.from_file(tmp_path / "own.npz", 5)
    np.savez(tmp_path / "own.npz", a=np.zeros((2, 2), int))
    with pytest.raises(ValueError, match="client a .* list of integers"):
        partition.from_file(tmp_path / "own.npz", 5)


@pytest.mark.parametrize("seed", [-1, None, 0.5, True])
def test_seeds_that_fix_nothing_are_refused(seed):
    with pytest.raises(ValueError, match="it must be a whole number from 0 on"):
        partition.iid(np.zeros(4, int), 2, seed)


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (np.arange(6) < 2, r"has bool \[6\]; of a mask they are np.flatnonzero"),
        (np.array([0.0, 1.0]), r"has float64 \[2\]"),
    ],
)
def test_lists_that_are_no_rows_are_named(tmp_path, rows, words):
    np.savez(tmp_path / "own.npz", anna=rows)
    with pytest.raises(ValueError, match="client anna .*" + words):
        partition.from_file(tmp_path / "own.npz", 6)
    (tmp_path / "own.json").write_text('{"ben": [0, true]}')
    with pytest.raises(ValueError, match="client ben .* not empty, and has True"):
        partition.from_file(tmp_path / "own.json", 6)
