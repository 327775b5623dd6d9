"""What evidence about one request may say of other clients: nothing that names them.

A client is named by its number, as in ``client 3``, ``client:3`` or ``--backdoor_client=3``. Texts
that go into evidence are written anew without such numbers. A page cannot be, since the ledger has
its digest, so it stays out if it names another client.
"""

import re
from typing import Any

NUMBERS = r"\d+(?:(?:, ?| and )\d+)*"
BETWEEN = r"(?:[ :=\"'`#]|</?\w+>)+"
NAMED = re.compile(rf"\b(?:(?:backdoor_)?client(?:_id)?{BETWEEN}|clients )({NUMBERS})\b", re.I)
OTHER = "another client"


def clients_of(request: str) -> set[str]:
    """The numbers of the clients that a request names.

    >>> sorted(clients_of("client:0,3")), clients_of("class:7@client:2"), clients_of("class:7")
    (['0', '3'], {'2'}, set())
    """
    _, _, numbers = request.rpartition("client:")
    return set(re.findall(r"\d+", numbers)) if "client:" in request else set()


def others(text: str, request: str) -> list[str]:
    """The numbers of clients that a text names and the request does not, in order.

    >>> others("client 3 lost most, client 0 left; 10 clients in all", "client:0")
    ['3']
    >>> others("launch.unlearn --clients=10 --backdoor_client=4,0", "client:0")
    ['4']
    """
    own = clients_of(request)
    found = (n for match in NAMED.finditer(text) for n in re.findall(r"\d+", match[1]))
    return [number for number in dict.fromkeys(found) if number not in own]


def without_others(value: Any, request: str) -> Any:
    """A text, or a list or dictionary of texts, that names no client but those of the request.

    >>> without_others(["Client 3 and client:0 differ."], "client:0")
    ['another client and client:0 differ.']
    """
    if isinstance(value, dict):
        return {name: without_others(one, request) for name, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_others(one, request) for one in value]
    if not isinstance(value, str):
        return value
    hide = lambda match: OTHER if others(match[0], request) else match[0]
    return NAMED.sub(hide, value)
