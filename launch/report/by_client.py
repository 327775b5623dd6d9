"""The accuracy of each client that stays, as a table of an audit's page."""

import html as markup
from typing import Any

from jfu.audit.measures import OLD, REFERENCES, RETRAINED
from launch.report.terminal import title_of

MANY = 20  # clients in the table: those that lost most
ORDER = {1: "1st", 2: "2nd", 3: "3rd"}


def table(report: dict[str, Any]) -> list[str]:
    """Clients before the request, with retraining, and after each answer; the worst off first.

    They have no numbers, since the page may be handed over with evidence about another client.
    """
    found = report.get("clients") or {}
    retrained = [found[name] for name in RETRAINED if name in found]
    answers = [name for name in found if name not in REFERENCES]
    if not retrained or not answers:
        return []
    beside = {c: sum(one[c] for one in retrained) / len(retrained) for c in retrained[0]}
    lost = {c: max(beside[c] - found[name][c] for name in answers) for c in beside}
    worst = sorted(lost, key=lambda client: (-lost[client], int(client)))
    columns = {"before": found[OLD]} if OLD in found else {}
    columns |= {"retraining": beside} | {title_of(name): found[name] for name in answers}
    rows = [
        f'<tr><th scope="row">{ORDER.get(place, f"{place}th")}</th>'
        + "".join(f'<td class="number">{each[client]:.1f}</td>' for each in columns.values())
        + "</tr>"
        for place, client in enumerate(worst[:MANY], 1)
    ]
    heads = "".join(f'<th scope="col">{markup.escape(name)}</th>' for name in columns)
    more = len(worst) - MANY
    rest = f"{more} that lost less, and " if more > 0 else ""
    words = "on its own retained data, mean over seeds; those that lost most come first. "
    words += f"audit.json has {rest}the clients' numbers"
    return [
        '<table class="clients"><caption>accuracy of each client that stays, %'
        f'<span>{words}</span></caption><thead><tr><th scope="col">client</th>{heads}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table>"
    ]
