"""Texts as token ids: inputs, next tokens, and a corpus that comes with Python.

An example is a text of ``T + 1`` token ids. Its input is the first ``T`` of them, and its targets
are the last ``T``: at each place the token that comes next, -1 where there is none.
"""

from collections.abc import Mapping

import numpy as np

from jfu.data.dataset import Dataset

LENGTH = 64  # characters that a model reads of a text of the corpus
TEST = 5  # every fifth text of a topic is for testing


def inputs_and_targets(tokens: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Inputs and next tokens, int32 ``[M, T]`` each, of texts ``[M, T + 1]``.

    Args:
      tokens: ids from 0 on; -1 after the end of a text. The input has 0 there.

    >>> x, y = inputs_and_targets(np.array([[5, 7, 2], [4, 6, -1]]))
    >>> x.tolist(), y.tolist()
    ([[5, 7], [4, 6]], [[7, 2], [6, -1]])
    """
    tokens = np.asarray(tokens, np.int32)
    return np.maximum(tokens[:, :-1], 0), tokens[:, 1:]


def check(name: str, tokens: np.ndarray, vocabulary: int) -> None:
    """Refuses arrays that are no token ids ``[M, T + 1]`` of a vocabulary.

    Raises:
      ValueError: what they are; a token beyond the vocabulary; a text without two tokens, or with
        tokens after its end.

    >>> check("x_test", np.array([[0, 1], [2, 9]]), 5)
    Traceback (most recent call last):
    ValueError: x_test has the token 9 in row 1, and the vocabulary of 5 tokens is 0 to 4
    """
    if tokens.ndim != 2 or tokens.dtype.kind not in "iu" or not tokens.size or tokens.shape[1] < 2:
        raise ValueError(
            f"{name} is {tokens.dtype} {list(tokens.shape)}; give token ids [M, T], at least two "
            "of each text"
        )
    beyond = ((tokens < -1) | (tokens >= vocabulary)).any(1)
    if beyond.any():
        row = int(beyond.argmax())
        token = next(int(t) for t in tokens[row] if not -1 <= t < vocabulary)
        raise ValueError(
            f"{name} has the token {token} in row {row}, and the vocabulary of {vocabulary} tokens "
            f"is 0 to {vocabulary - 1}"
        )
    over = tokens < 0
    wrong = over[:, 1] | (over[:, :-1] & ~over[:, 1:]).any(1)
    if wrong.any():
        raise ValueError(
            f"row {int(wrong.argmax())} of {name} has fewer than two tokens, or tokens after a -1, "
            "which marks the end of a text"
        )


def characters(texts: Mapping[str, str]) -> tuple[str, ...]:
    """The characters of texts, sorted: the vocabulary of a model of characters."""
    return tuple(sorted(set("".join(texts.values()))))


def encode(text: str, vocabulary: tuple[str, ...]) -> np.ndarray:
    """The token ids of a text, character by character, int32 ``[len(text)]``.

    Raises:
      ValueError: a character is not in the vocabulary.

    >>> encode("abba", ("a", "b")).tolist()
    [0, 1, 1, 0]
    """
    number = {token: i for i, token in enumerate(vocabulary)}
    if unknown := [c for c in dict.fromkeys(text) if c not in number]:
        raise ValueError(
            f"{text!r} has {', '.join(map(repr, unknown))}, which the vocabulary of "
            f"{len(vocabulary)} tokens lacks; write it with other characters"
        )
    return np.array([number[c] for c in text], np.int32)


def windows(text: np.ndarray, length: int) -> np.ndarray:
    """A text cut into pieces of one length, which share nothing; a shorter rest is left out.

    >>> windows(np.arange(7), 3).tolist()
    [[0, 1, 2], [3, 4, 5]]
    """
    many = len(text) // length
    return text[: many * length].reshape(many, length)


def pydoc_topics() -> Dataset:
    """The 79 topics of Python's own help, ``pydoc_data.topics``: 0.5 MB of English, by character.

    Texts are pieces of 65 characters of one topic. Every fifth piece of a topic is for testing, so
    that both sides have all topics. ``topics`` has each piece's topic, in the order of names.
    Partitions by class go by topic.

    The texts differ a little between versions of Python, which work directories name.
    Topics of fewer than 65 characters have no piece.

    >>> data = pydoc_topics()
    >>> data.x_train.shape[1], len(data.topics[0]) == len(data.x_train)
    (64, True)
    """
    from pydoc_data.topics import topics

    vocabulary = characters(topics)
    pieces = [windows(encode(topics[name], vocabulary), LENGTH + 1) for name in sorted(topics)]
    topic = np.repeat(np.arange(len(pieces), dtype=np.int32), [len(p) for p in pieces])
    place = np.concatenate([np.arange(len(p)) for p in pieces])
    x, y = inputs_and_targets(np.concatenate(pieces))
    test = place % TEST == TEST - 1
    kinds = (topic[~test], topic[test])
    return Dataset(x[~test], y[~test], x[test], y[test], vocabulary, topics=kinds)
