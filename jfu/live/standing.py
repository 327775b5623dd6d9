"""Where a live federation stands: who left, which requests are open, when recovery ends.

All of it is one value that goes from round to round and into the checkpoint. The functions are
pure. ``lines`` are what the last step adds to the ledger.

Recovery ends by the rule ``regained`` of simulation: at the first round in which the accuracy of
the nodes that stay, on their own data, is within ``within`` points of that before the request.

    a(S) = sum_k n_k a_k / sum_k n_k  over nodes k in S;   stop if a(S) >= before(S) - within

S are the nodes that stay and answered in both rounds.
"""

# ruff: noqa: RUF012 (the fields of a tuple, which no function changes)

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from jfu.live.requests import Request


class Node(NamedTuple):
    """A participant: its id, the SHA-256 of its public key, its name; the last two may be empty."""

    id: str
    key: str = ""
    name: str = ""


class Standing(NamedTuple):
    """The state beside the model. It has JSON's types only."""

    round: int = 0  # rounds that are done
    seen: dict[str, list[str]] = {}  # nodes that ever came: id -> [key, name]
    gone: list[str] = []  # ids and keys of nodes that left
    open: dict[str, dict[str, Any]] = {}  # requests that are being answered
    settled: dict[str, str] = {}  # digests of all requests that were read -> id
    negated: int = 0  # the round after which the model was negated last
    before: dict[str, list[float]] = {}  # node -> [accuracy, examples] then
    last: dict[str, list[float]] = {}  # the same at the last evaluation
    lines: list[dict[str, Any]] = []  # what the last step adds to the ledger


def stays(standing: Standing, node: Node) -> bool:
    """Whether a node takes part.

    >>> stays(Standing(gone=["1", "ab"]), Node("2", "ab")), stays(Standing(gone=["1"]), Node("2"))
    (False, True)
    """
    return node.id not in standing.gone and not (node.key and node.key in standing.gone)


def met(standing: Standing, nodes: Iterable[Node]) -> Standing:
    """The standing that knows these nodes."""
    return standing._replace(seen=standing.seen | {n.id: [n.key, n.name] for n in nodes})


def decided(standing: Standing, requests: Iterable[Request]) -> Standing:
    """The standing once requests are known: each new one is accepted, or refused in a sentence.

    Before the first round nodes may still be connecting. So a request that names a node that has
    not come yet waits until then.

    >>> three = met(Standing(round=1), [Node("1"), Node("2"), Node("3")])
    >>> after = decided(three, [Request("a", ("2",), digest="x"), Request("b", ("9",), digest="y")])
    >>> after.gone, list(after.open)
    (['2'], ['a'])
    >>> after.lines[1]["why"]
    'it names 9, which this federation has never seen; it has seen 1, 2, 3'
    >>> decided(after, [Request("a", ("2",), digest="x")]) == after
    True
    """
    for request in requests:
        early = not standing.round and not all(_named(standing, word) for word in words_of(request))
        if request.digest not in standing.settled and not early:
            standing = _decided(standing, request)
    return standing


def words_of(request: Request) -> tuple[str, ...]:
    """What a request calls the nodes that it names."""
    return request.forget or request.returns


def _decided(standing: Standing, request: Request) -> Standing:
    named = [(word, _named(standing, word)) for word in words_of(request)]
    nodes = list(dict.fromkeys(node for _, some in named for node in some))
    why = _refusal(standing, request, named, nodes)
    settled = standing.settled | {request.digest: request.id}
    line: dict[str, Any] = dict(request=request.id, round=standing.round)
    if why:
        line |= dict(event="refused", why=why, digest=request.digest)
        return standing._replace(settled=settled, lines=[*standing.lines, line])
    line |= dict(nodes=[dict(id=n.id, key=n.key) for n in nodes])
    words = [word for node in nodes for word in (node.id, node.key) if word]
    gone, opened = standing.gone, standing.open
    if request.returns:
        line |= dict(event="returned")
        gone = [word for word in gone if word not in words]
    else:
        line |= dict(event="asked")
        gone = [*gone, *(word for word in words if word not in gone)]
        opened = opened | {request.id: dict(nodes=line["nodes"], round=standing.round)}
    new = standing._replace(gone=gone, open=opened, settled=settled)
    return new._replace(lines=[*standing.lines, line])


def _named(standing: Standing, word: str) -> list[Node]:
    known = [Node(id, *more) for id, more in standing.seen.items()]
    return [node for node in known if word in node and word]


def _refusal(
    standing: Standing, request: Request, named: Sequence[tuple[str, list[Node]]], nodes: list[Node]
) -> str:
    """Why a request is refused; empty if it is not."""
    seen = [Node(id, *more) for id, more in standing.seen.items()]
    if request.wrong:
        return request.wrong
    if request.id in standing.settled.values():
        return f"another request has the id {request.id}; give it another one"
    if not named:
        return "it names nobody"
    if unknown := [word for word, some in named if not some]:
        known = ", ".join(standing.seen)
        return f"it names {unknown[0]}, which this federation has never seen; it has seen {known}"
    if twice := [word for word, some in named if len({n.key or n.id for n in some}) > 1]:
        return f"{twice[0]} is the name of several nodes; name them by their ids"
    away = [node for node in nodes if not stays(standing, node)]
    if request.returns:
        busy = {n["id"] for one in standing.open.values() for n in one["nodes"]}
        if here := [node.id for node in nodes if stays(standing, node)]:
            return f"it lets {here[0]} return, which has not left"
        if waits := [node.id for node in nodes if node.id in busy]:
            return f"it lets {waits[0]} return, whose own request is not answered yet; ask then"
        return ""
    if len(away) == len(nodes):
        return "it names nobody who takes part: all have left before"
    if all(node in nodes for node in seen if stays(standing, node)):
        return "it names everybody, so nobody would be left to train"
    return ""


def accuracy(values: Mapping[str, Sequence[float]], nodes: Iterable[str]) -> float | None:
    """The mean accuracy of nodes, weighted by their examples; None without any.

    >>> accuracy({"1": [0.5, 10], "2": [0.8, 20], "3": [0.0, 9]}, ["1", "2"])
    0.7
    """
    some = [values[node] for node in nodes if node in values]
    total = sum(examples for _, examples in some)
    return sum(a * examples for a, examples in some) / total if total else None


def compared(standing: Standing) -> tuple[float | None, float | None]:
    """Accuracy before the open requests and at the last evaluation, of the same nodes."""
    staying = [id for id, more in standing.seen.items() if stays(standing, Node(id, *more))]
    both = [id for id in staying if id in standing.before and id in standing.last]
    return accuracy(standing.before, both), accuracy(standing.last, both)


def warm(standing: Standing, rounds: int) -> float:
    """What multiplies the learning rate of the next round: min(1, (t + 1) / rounds).

    t counts the rounds since the model was negated. It is 1 if no request is open.

    >>> [warm(Standing(round=r, negated=4, open={"a": {}}), 4) for r in (4, 5, 9)]
    [0.25, 0.5, 1.0]
    """
    since = standing.round - standing.negated
    return min(1.0, (since + 1) / rounds) if standing.open and rounds else 1.0


def in_words(line: Mapping[str, Any]) -> str:
    """A line of the ledger for people.

    >>> in_words(dict(event="refused", request="8", why="it names nobody"))
    'request 8 is refused: it names nobody'
    """
    nodes = ", ".join(node["id"] for node in line.get("nodes", []))
    match line["event"]:
        case "asked":
            return f"request {line['request']} to forget {nodes}, after round {line['round']}"
        case "returned":
            return f"{nodes} may return, by request {line['request']}"
        case "refused":
            return f"request {line['request']} is refused: {line['why']}"
        case "negated":
            names = ", ".join(line["arrays"]) or "nothing"
            return f"negated {names} for {', '.join(line['requests'])}"
        case "answered":
            points = [f"{k} {v['retain']:.1f}" for k in ("before", "after") if (v := line[k])]
            why = "regained" if line["regained"] else "the most rounds were spent"
            told = ", ".join([f"{line['rounds']} rounds", why, *points])
            return f"request {line['request']} is answered: {told}"
        case other:
            return other
