"""Texts as token ids: the corpus, own files, and what is wrong with some."""

import numpy as np
import pytest

from jfu.data import load, npz, oddities, partition, tokens


def test_the_corpus_is_pieces_of_topics():
    from pydoc_data.topics import topics

    data = load("pydoc_topics")
    text = lambda ids: "".join(data.labels[i] for i in ids)
    assert data.x_train.shape[1] == data.y_train.shape[1] == tokens.LENGTH
    np.testing.assert_array_equal(data.x_train[:, 1:], data.y_train[:, :-1])
    first = min(name for name in topics if len(topics[name]) > tokens.LENGTH)
    assert text(data.x_train[0]) == topics[first][: tokens.LENGTH]
    assert text(data.y_train[0]) == topics[first][1 : tokens.LENGTH + 1]
    pieces = sum(len(t) // (tokens.LENGTH + 1) for t in topics.values())
    assert len(data.x_train) + len(data.x_test) == pieces
    for side, kinds in zip((data.x_train, data.x_test), data.topics, strict=True):
        assert len(side) == len(kinds)
    some = load("pydoc_topics", train_size=50, test_size=20)
    assert [len(kind) for kind in some.topics] == [50, 20] and oddities(some) == []
    lists = partition.partition("shards:1", some.topics[0], clients=5)
    assert sorted(np.concatenate(lists)) == list(range(50))
    both = load("pydoc_topics", resplit=0.5)
    assert sum(map(len, both.topics)) == pieces and len(both.topics[1]) == len(both.x_test)
    with pytest.raises(ValueError, match="texts have none"):
        load("pydoc_topics", drop_labels=["a"])


def saved(folder, **arrays):
    np.savez(folder / "own.npz", **arrays)
    return folder / "own.npz"


def test_own_texts_may_end_early_and_name_their_tokens(tmp_path):
    ids = np.array([[0, 2, 1, -1], [1, 1, 0, 2]])
    own = npz.read(saved(tmp_path, x_train=ids, x_test=ids[:1], vocabulary=["a", "b", "c", "d"]))
    assert own.labels == ("a", "b", "c", "d") and own.client is None
    assert own.x_train.tolist() == [[0, 2, 1], [1, 1, 0]]
    assert own.y_train.tolist() == [[2, 1, -1], [1, 0, 2]]
    bare = npz.read(saved(tmp_path, x_train=ids, x_test=ids, client=["x", "y"]))
    assert bare.labels == ("0", "1", "2") and bare.client.tolist() == ["x", "y"]
    with pytest.raises(ValueError, match="goes by classes, and these texts have none"):
        partition.partition("shards:1", bare.y_train, clients=2)
    assert len(partition.partition("iid", bare.y_train, clients=2)) == 2


IDS = np.array([[0, 2, 1], [1, 1, 0]])
WRONG = {
    "has the token 2 in row 0, and the vocabulary of 2": dict(vocabulary=["a", "b"]),
    "has the token -2 in row 1": dict(x_train=np.array([[0, 1, 1], [0, 1, -2]])),
    "tokens after a -1": dict(x_train=np.array([[0, 1, 1], [0, -1, 2]])),
    "fewer than two tokens": dict(x_test=np.array([[1, -1, -1]])),
    "give token ids \\[M, T\\]": dict(x_test=np.float32(IDS)),
    "at least two of each text": dict(x_train=IDS[:, :1]),
    "x_train is int64; give uint8 .* or token ids without y_train": dict(
        y_train=np.zeros(2), y_test=np.zeros(2)
    ),
    "vocabulary is int64": dict(vocabulary=np.arange(3)),
    "x_train has texts of 3 tokens and x_test of 2": dict(x_test=IDS[:, :2]),
    "client is float64": dict(client=np.zeros(2)),
}


@pytest.mark.parametrize("said", WRONG)
def test_texts_that_are_none_are_a_sentence(said, tmp_path):
    with pytest.raises(ValueError, match=said):
        npz.read(saved(tmp_path, **(dict(x_train=IDS, x_test=IDS) | WRONG[said])))


def test_unknown_characters_are_named():
    with pytest.raises(
        ValueError, match="'caf\u00e9' has '\u00e9', which the vocabulary of 3 tokens lacks"
    ):
        tokens.encode("caf\u00e9", ("a", "c", "f"))
