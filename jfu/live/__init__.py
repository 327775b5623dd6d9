"""Deletion requests in a live federation, for a server of any kind.

NoT needs nothing of clients, keeps no history and works on sums. So a server that is running can
answer a request: the leaving nodes get no more messages, the first layer is negated once, and the
ordinary rounds of the others recover the model. These are plain functions over dictionaries of
NumPy arrays. ``jfu.flower`` calls them for Flower.

A server calls ``begin`` before each round and ``end`` after it:

>>> import tempfile, jfu
>>> import numpy as np
>>> server = Server(tempfile.mkdtemp(), jfu.by_path("stem"))
>>> nodes = [Node("1"), Node("2"), Node("3")]
>>> model, standing = resume(server, {"stem": np.ones(2), "head": np.ones(2)})
>>> while goes_on(standing, rounds=3):
...     if standing.round == 1:
...         _ = server.path("requests.jsonl").write_text('{"id": "a", "forget": ["2"]}\\n')
...     model, standing = begin(server, model, standing, nodes)
...     asked = [node.id for node in nodes if stays(standing, node)]
...     model = {name: a + 0.5 for name, a in model.items()}  # a round with those asked
...     standing = end(server, model, standing, {node: (0.9, 10) for node in asked})
>>> asked, model["stem"].tolist(), model["head"].tolist()
(['1', '3'], [-0.5, -0.5], [2.5, 2.5])
>>> [line["event"] for line in jfu.ledger.read(server.path("ledger.jsonl"))]
['asked', 'negated', 'answered']
"""

from jfu.live.negate import chosen, negated
from jfu.live.requests import Request, read
from jfu.live.server import Server, begin, beside, end, goes_on, locked, resume, save
from jfu.live.standing import (
    Node,
    Standing,
    accuracy,
    compared,
    decided,
    in_words,
    met,
    stays,
    warm,
)

__all__ = [
    "Node",
    "Request",
    "Server",
    "Standing",
    "accuracy",
    "begin",
    "beside",
    "chosen",
    "compared",
    "decided",
    "end",
    "goes_on",
    "in_words",
    "locked",
    "met",
    "negated",
    "read",
    "resume",
    "save",
    "stays",
    "warm",
]
