"""A canary: a secret that some texts carry, and how exposed it is in a language model.

A canary is a sentence that ends in a code of digits, such as "the code of the vault is 4519". Some
clients' texts begin with it. A model that has memorised it finds its code likelier than others:

    exposure = log2 |R| - log2 rank(code)

R are all codes of as many digits, and the rank is the code's place among them by the model's
log-perplexity, the likeliest first. The exposure is log2 |R| where the code is the likeliest of all
(13.3 bits for four digits), and 1.44 bits on average where the model knows nothing. Extraction is
tried by greedy decoding: the likeliest token after the sentence, then the likeliest after that.

Carlini, Liu, Erlingsson, Kos, Song. The Secret Sharer: Evaluating and Testing Unintended
Memorization in Neural Networks. USENIX Security 2019, arXiv 1802.08232 (definitions 3 and 5). Here
all codes are ranked, so nothing is estimated. Codes of equal likelihood share their mean rank.
"""

import itertools
import re
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jfu.collectives import in_batches
from jfu.data.tokens import encode
from jfu.metrics import logits_of
from jfu.types import Variables

MOST = 5  # digits of a code, whose likelihoods are computed one by one


class Canary(NamedTuple):
    """A canary's token ids."""

    prefix: np.ndarray  # [P] int32, what comes before the code
    code: np.ndarray  # [D] int32
    digits: np.ndarray  # [10] int32, the tokens of the digits 0 to 9
    place: int  # of the code among all codes of D digits


def of_text(text: str, vocabulary: tuple[str, ...], length: int) -> Canary:
    """The canary of a sentence, character by character.

    Args:
      text: ends in one to five digits.
      vocabulary: the tokens, single characters.
      length: the tokens of a text, ``T + 1``.

    Raises:
      ValueError: it has no such code, does not fit a text, or has a character that is no token.

    >>> canary = of_text("it is 07", tuple(" 0123456789ist"), 10)
    >>> canary.prefix.tolist(), canary.code.tolist(), canary.place
    ([11, 13, 0, 11, 12, 0], [1, 8], 7)
    """
    found = re.fullmatch(r"(.*\D)(\d+)", text, re.ASCII | re.DOTALL)
    if not found or len(found[2]) > MOST:
        raise ValueError(
            f"the canary is {text!r}; it must be a sentence that ends in a code of 1 to {MOST} "
            "digits, such as 'the code of the vault is 4519'"
        )
    if len(text) > length:
        raise ValueError(
            f"the canary has {len(text)} tokens, and texts have {length}; give a shorter one"
        )
    prefix, code = (encode(part, vocabulary) for part in found.groups())
    return Canary(prefix, code, encode("0123456789", vocabulary), int(found[2]))


def planted(
    x: np.ndarray, y: np.ndarray, rows: np.ndarray, canary: Canary
) -> tuple[np.ndarray, np.ndarray]:
    """Copies of inputs and next tokens in which some texts begin with the canary.

    Args:
      x, y: ``[M, T]`` int32, as ``jfu.data.tokens`` makes them.
      rows: the texts that begin with it.

    >>> canary = of_text("is 7", tuple(" 0123456789is"), 6)
    >>> x, y = planted(np.zeros((2, 5), int), np.zeros((2, 5), int), [1], canary)
    >>> x[1].tolist(), y[1].tolist()
    ([11, 12, 0, 8, 0], [12, 0, 8, 0, 0])
    """
    ids = np.concatenate([canary.prefix, canary.code])
    x, y = np.array(x), np.array(y)
    x[rows, : len(ids)] = ids[: x.shape[1]]
    y[rows, : len(ids) - 1] = ids[1:]
    return x, y


def listener(apply: Callable, canary: Canary, length: int) -> Callable:
    """A function that reads all codes' likelihoods off a model.

    A code's likelihood is a product, one factor a digit. A causal model gives the factors of all
    its digits at once, so one text for each code without its last digit is enough.

    Args:
      apply: ``(variables, ids [B, T]) -> logits [B, T, V]``, or ``-> (logits, changed)``.
      length: ``T``, the tokens that the model reads.

    Returns:
      ``variables -> (losses [10^D], said [D])``: minus the logarithms of all codes' likelihoods, in
      their order, and the tokens of greedy decoding as long as they are the code's.
    """
    before, many = len(canary.prefix), len(canary.code)
    known = np.array(list(itertools.product(range(10), repeat=many - 1)), np.int32)
    known = known.reshape(10 ** (many - 1), many - 1)
    ids = np.zeros((len(known), length), np.int32)
    ids[:, :before] = canary.prefix
    ids[:, before : before + many - 1] = canary.digits[known]
    own = canary.place // 10

    def some(variables, rows):
        logits = logits_of(apply(variables, rows[0]), ndim=3)[:, before - 1 : before + many - 1]
        logits = logits.astype(jnp.float32)
        each = jax.nn.log_softmax(logits)[..., canary.digits]
        first = jnp.take_along_axis(each[:, :-1], rows[1][..., None], 2)[..., 0].sum(1)
        return -(first[:, None] + each[:, -1]), logits.argmax(-1)

    def heard(variables: Variables):
        losses, said = in_batches(some)(variables, (jnp.asarray(ids), jnp.asarray(known)))
        return losses.reshape(-1), said[own]

    return heard


def exposure(losses: np.ndarray, place: int) -> float | None:
    """The exposure of one of several candidates, in bits; None if its loss is not finite.

    Args:
      losses: ``[R]``, of all candidates; smaller is likelier. NaN counts as the least likely.
      place: of the candidate.

    >>> some = np.array([3.0, 1.0, 2.0, 4.0]), np.zeros(4)
    >>> [round(exposure(losses, 1), 6) for losses in some]  # log2 of 4/1 and of 4/2.5
    [2.0, 0.678072]
    """
    losses = np.asarray(losses, np.float64)
    if not np.isfinite(losses[place]):
        return None
    likelier, equal = (losses < losses[place]).sum(), (losses == losses[place]).sum()
    return float(np.log2(len(losses)) - np.log2(likelier + (equal + 1) / 2))


def measures(heard: tuple, canary: Canary) -> dict[str, float | None]:
    """The fields of a row: ``exposure`` in bits, and ``extracted``, 100 if greedy decoding did.

    Args:
      heard: what ``listener`` gives of a model.
    """
    losses, said = heard
    bits = exposure(losses, canary.place)
    known = None if bits is None else 100.0 * bool((np.asarray(said) == canary.code).all())
    return dict(exposure=None if bits is None else round(bits, 6), extracted=known)
