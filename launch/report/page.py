"""The audit as one HTML page that needs no network."""

import html as markup
import json
from typing import Any

from jfu.audit import rules
from jfu.audit.measures import GROUPS, LAYERS, REFERENCES, RETRAINED, Measure
from launch.report import by_client, figures
from launch.report.style import STYLE
from launch.report.terminal import CONTROLS, apart, in_words, title_of

MARKS = {rules.YES: "✓", rules.NO: "✗", rules.OPEN: "?", rules.NOT_SHOWN: "–"}

FLOOR = (
    "On every seed all models answer the same examples. The difference is a method's value minus "
    "the mean of the two retrained models on that seed. Most noise of the examples cancels in it. "
    "A method that shares with the first of them all that chance decides, by how it is made, is "
    "compared with that one alone. "
    "Every model is compared with retraining, never with 0 or 100. For a measure that decides, a "
    "picture's band is its margin: a difference within it counts as none. For other measures the "
    "band shows where the difference of one more retrained model would lie."
)
INTERVALS = (
    "Intervals of values are at 95 %. Those of differences are at 90 %, so that 95 in 100 lie "
    "above the low end and 95 below the high end. They are Student's over seeds, with one number "
    "for each seed. For shadow federations they are the jackknife's over pairs, and for a single "
    "seed over its examples. How often the verdicts are wrong was measured on simulated models "
    "(launch.rates)."
)


def html(report: dict[str, Any]) -> str:
    """The page: verdicts first, then every measure, curves, and how to reproduce it."""
    asked = report["asked"]
    title = f"Audit: forget {asked['request']}" if asked["request"] else "Audit: no request"
    body = [
        f"<h1>{escape(title)}</h1>",
        *what_was_done(report),
        "<h2>Verdicts</h2>",
        '<div class="cards">',
        *(card(name, entry) for name, entry in report["methods"].items() if name not in REFERENCES),
        "</div>",
        *checked(report),
        *fewer(report),
        "<h2>How verdicts are made</h2>",
        f"<p>{FLOOR}</p><p>{INTERVALS}</p><dl>",
        *(
            f"<dt><strong>{rules.TITLES[q]}</strong></dt><dd>{escape(rule)}</dd>"
            for q, rule in report["questions"].items()
        ),
        "</dl>",
    ]
    for group, table in GROUPS.items():
        body += [f"<h2>{group}</h2>", *beside(sections(report, table))]
        if group == "Clients that stay":
            body += by_client.table(report)
    for key, measure in LAYERS.items():
        body += layer_sections(report, key, measure)
    body += ["<h2>By communication round</h2>", *plots(report), *again(report)]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<link rel="icon" href="data:,"><title>{escape(title)}</title><style>{STYLE}</style>'
        f"</head><body><main>\n{chr(10).join(body)}\n</main></body></html>\n"
    )


def checked(report: dict[str, Any]) -> list[str]:
    """The verdicts on models with a known answer."""
    lines = ["<h2>Controls</h2>"]
    wanted = dict(old="must be a no", third="must be yes or too small to tell")
    for name, title in CONTROLS.items():
        found = report["controls"][name]
        if not found:
            lines.append(f"<p><strong>{title}</strong>: not shown, so there is no yes.</p>")
            continue
        verdict, why = found
        lines.append(
            f'<p><strong>{title}</strong> ({wanted[name]}) <span class="mark '
            f'{verdict.split()[-1]}">{MARKS[verdict]} {verdict}</span> {escape(why)}</p>'
        )
    return lines


def fewer(report: dict[str, Any]) -> list[str]:
    """A table of what the first question's verdicts would be with fewer seeds."""
    found = report.get("by_seeds") or {}
    if len(found) < 2:
        return []
    names = list(dict.fromkeys(name for verdicts in found.values() for name in verdicts))
    heads = "".join(f'<th scope="col">{escape(str(many))}</th>' for many in found)
    legend = ", ".join(f"{mark} {verdict}" for verdict, mark in MARKS.items())
    rows = [
        f'<tr><th scope="row">{escape(title_of(name))}</th>'
        + "".join(f"<td>{sign(each.get(name, rules.NOT_SHOWN))}</td>" for each in found.values())
        + "</tr>"
        for name in names
    ]
    return [
        "<h2>With fewer seeds</h2>",
        "<p>Verdicts above use all seeds. Whoever adds seeds until an audit says yes tests more "
        "than once. So here is what the first seeds alone would have given.</p>",
        '<table class="seeds"><caption>Forgotten?<span>by the number of seeds: '
        f"{legend}</span></caption>"
        f'<thead><tr><th scope="col">model</th>{heads}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table>",
    ]


def sign(verdict: str) -> str:
    """A verdict as a mark, which says its word to who does not see it."""
    return (
        f'<span class="mark {verdict.split()[-1]}" role="img" aria-label="{verdict}">'
        f"{MARKS[verdict]}</span>"
    )


def what_was_done(report: dict[str, Any]) -> list[str]:
    asked, done, seeds = report["asked"], report["done"], report["seeds"]
    methods = [title_of(n) for n in report["methods"] if n not in REFERENCES]
    lines = [
        f"<p><strong>Request:</strong> {asked['clients']} clients trained a model "
        f"({escape(asked['model'])}) on {escape(asked['dataset'])} together; "
        + (
            f"then {asked['examples']} examples were to be forgotten "
            f"(<code>{escape(asked['request'])}</code>), {asked['retained']} were retained."
            + shared(asked)
            if asked["request"]
            else "no request was made."
        )
        + backdoor(asked)
        + "</p>",
        f"<p><strong>Done:</strong> {done['rounds']} rounds of training, then "
        f"{escape(', '.join(methods)) or 'nothing'} with at most {done['recovery_rounds']} rounds "
        f"of recovery, on {len(seeds)} seed{'s' * (len(seeds) != 1)}; "
        + (
            f"retrained from scratch in {done['rounds']} rounds, "
            f"{('once', 'twice', 'three times')[len(done['retrained']) - 1]} a seed"
            if done["retrained"]
            else "nothing was retrained"
        )
        + f". Audited on {report['audited']}.</p>",
    ]
    if report["notes"]:
        items = "".join(f"<p>{escape(note)}</p>" for note in report["notes"])
        lines.append(f'<div class="notes">{items}</div>')
    return lines


def shared(asked: dict[str, Any]) -> str:
    """A sentence if clients that stay also have some of the examples; these are not unlearned."""
    many = asked["examples"] - asked.get("counted", asked["examples"])
    if not many:
        return ""
    return f" Of these, clients that stay also have {many}, which do not count as forgotten."


def backdoor(asked: dict[str, Any]) -> str:
    if not asked["backdoor"]:
        return ""
    if asked["backdoor_named"]:
        return " The data to forget had a backdoor, the trigger with its label."
    return " A backdoor was planted, and the request does not name every image with the trigger."


def card(name: str, entry: dict[str, Any]) -> str:
    """A method's verdicts."""
    rows = [f"<h3>{escape(title_of(name))}</h3><dl>"]
    for question in entry["verdicts"]:
        verdict, why = entry["verdicts"][question], entry["reasons"][question]
        rows.append(
            f'<dt>{rules.TITLES[question]} <span class="mark {verdict.split()[-1]}">'
            f"{MARKS[verdict]} {verdict}</span></dt><dd>{escape(why)}</dd>"
        )
    return f'<section class="card">{"".join(rows)}</dl></section>'


def sections(report: dict[str, Any], table: dict[str, Measure]) -> list[str]:
    out = []
    for key, measure in table.items():
        if key in report["not_shown"]:
            out.append(
                f"<p><strong>{escape(measure.title)}</strong>: not shown "
                f'<span class="dim">({escape(report["not_shown"][key])})</span></p>'
            )
        else:
            out.append(measured(report, key, measure, measure.title))
    return out


def layer_sections(report: dict[str, Any], key: str, measure: Measure) -> list[str]:
    """A table for each layer, in call order."""
    keys = dict.fromkeys(
        k
        for entry in report["methods"].values()
        for k in entry["measures"]
        if k.startswith(f"{key}.")
    )
    heading = f"<h2>{escape(measure.title)}, layer by layer</h2>"
    if not keys:
        return [heading, f'<p>not shown <span class="dim">({report["not_shown"][key]})</span></p>']
    return [heading, *beside([measured(report, k, measure, k.partition(".")[2]) for k in keys])]


def beside(tables: list[str]) -> list[str]:
    """Tables side by side, if there is room."""
    return ['<div class="measures">', *(f"<div>{one}</div>" for one in tables), "</div>"]


def measured(report: dict[str, Any], key: str, measure: Measure, title: str) -> str:
    """One measure of every model: value and difference with intervals, as numbers and drawings."""
    entries = {
        name: entry["measures"][key]
        for name, entry in report["methods"].items()
        if key in entry["measures"]
    }
    one = next(iter(entries.values()))
    digits = 1 if measure.unit in ("%", "points") else 3
    ends = [end for e in entries.values() for end in drawn_ends(e)]
    low, high = min(ends, default=0.0), max(ends, default=0.0)
    wide = (high - low) * 0.04 or 0.5
    caption = about(measure, one, [*entries.values()], digits)
    unit = f", {measure.unit}" if measure.unit else ""
    rows = []
    for name, entry in report["methods"].items():
        reference = ' class="reference"' if name in REFERENCES else ""
        heading = f'<tr{reference}><th scope="row">{escape(title_of(name))}</th>'
        if name in entries:
            words, mine = escape(in_words(entries[name], digits)), entries[name]["difference"]
            if mine:
                said = apart(mine, digits)
                drawn = strip(entries[name], low - wide, high + wide, said)
                words += f'<br><span class="dim">{escape(said)}</span>'
            else:
                drawn = '<span class="dim">nothing to compare it with</span>'
            cells = f'<td class="strip">{drawn}</td><td class="number">{words}</td>'
        elif name not in REFERENCES:
            why = entry["not_shown"].get(key) or entry["not_shown"].get(key.partition(".")[0], "")
            cells = f'<td colspan="2" class="dim">not shown ({escape(why)})</td>'
        else:
            continue
        rows.append(f"{heading}{cells}</tr>")
    return (
        f"<table><caption>{escape(title + unit)}<span>{escape(caption)}</span></caption>"
        f"<tbody>{''.join(rows)}</tbody></table>"
    )


def about(measure: Measure, one: dict, entries: list[dict], digits: int) -> str:
    """A line about the numbers in a table."""
    words = [measure.note] if measure.note else []
    words += ["decides"] if measure.decides else []
    words += ["a sign of memory, which forbids a yes"] if measure.sign else []
    if measure.margin is not None:
        words.append(f"margin ± {measure.margin:g}")
    floors = [e["floor"] for e in entries if e["floor"]]
    if floors:
        ends = (f"{floors[0][end]:+.{digits}f}" for end in ("low", "high"))
        words.append(f"one more retrained model: {' to '.join(ends)}")
    words.append(f"interval over {one['resampled']}")
    if models := one.get("models"):
        words.append(f"from {models[0]} unlearned and {models[1]} retrained models per example")
    return "; ".join(words)


def band(entry: dict[str, Any]) -> tuple[float, float] | None:
    """The band within which a difference counts as none, or that of one more retrained model."""
    if entry["margin"] is not None:
        return -entry["margin"], entry["margin"]
    floor = entry["floor"]
    return (floor["low"], floor["high"]) if floor else None


def drawn_ends(entry: dict[str, Any]) -> list[float]:
    if not entry["difference"]:
        return []
    return [entry["difference"]["low"], entry["difference"]["high"], 0.0, *(band(entry) or ())]


def strip(entry: dict[str, Any], low: float, high: float, words: str) -> str:
    """A drawing of a difference with its interval and its band, 120 units wide, and of zero."""
    place = lambda value: round(120 * (value - low) / (high - low), 1)
    shapes, label = [], words
    if ends := band(entry):
        wide = max(1.0, place(ends[1]) - place(ends[0]))
        shapes.append(f'<rect x="{place(ends[0])}" width="{wide:.1f}" height="16" fill="#cfe3f7"/>')
        label += f", band {ends[0]:.3g} to {ends[1]:.3g}"
    shapes.append(f'<path d="M{place(0.0)} 0V16" stroke="#8fb3d9" stroke-width="1"/>')
    a, b, middle = (place(entry["difference"][k]) for k in ("low", "high", "value"))
    shapes.append(f'<path d="M{a} 8H{b}M{a} 4V12M{b} 4V12" stroke="#1d2430" stroke-width="1.5"/>')
    shapes.append(f'<circle cx="{middle}" cy="8" r="3.5" fill="#1d2430"/>')
    return (
        f'<svg viewBox="0 0 120 16" role="img" aria-label="{escape(label)}">{"".join(shapes)}</svg>'
    )


def plots(report: dict[str, Any]) -> list[str]:
    """Curves as inline SVG, each with its last values as text."""
    titles = dict(
        retain="retained accuracy, %",
        forget="accuracy on forgotten data, %",
        test="test accuracy, %",
        asr="backdoor success, %",
        loss_gap="loss gap |retained − forgotten|",
    )
    out = ['<div class="plots">']
    for key, title in titles.items():
        series = {
            title_of(n): s
            for n, s in report["curves"].get(key, {}).items()
            if n not in ("original", *REFERENCES[2:], "train")
        }
        if not series:
            out.append(f'<p>{title}: not shown <span class="dim">(not measured)</span></p>')
            continue
        ends = ", ".join(f"{name} {points[-1][1]:.3g}" for name, points in series.items())
        start, floor = report["curves"][key].get("original"), floor_of(report, key)
        drawn = figures.panel(series, title, start[-1][1] if start else None, floor)
        band = f"; retrained models end at {floor[0]:.3g} to {floor[1]:.3g}" if floor else ""
        label = escape(f"{title} by communication round; at the end: {ends}{band}")
        left = [title_of(n) for n in report["methods"] if n not in REFERENCES]
        left = [name for name in left if name not in series]
        words = f'<p class="dim">Not shown: {escape(", ".join(left))}.</p>' if left else ""
        shown = inline(drawn, label) if drawn else f"<p>{label}</p>"
        out.append(f'<figure style="margin:0">{shown}{words}</figure>')
    return [*out, "</div>"]


def floor_of(report: dict[str, Any], key: str) -> tuple[float, float] | None:
    """Where one more retrained model would lie: the floor, round the retrained ones' mean."""
    entries = {name: entry["measures"].get(key) for name, entry in report["methods"].items()}
    there = [entries[name] for name in RETRAINED if entries.get(name)]
    floor = next((e["floor"] for e in entries.values() if e and e["floor"]), None)
    if not (there and floor):
        return None
    middle = sum(e["value"] for e in there) / len(there)
    return middle + floor["low"], middle + floor["high"]


def inline(svg: str, label: str) -> str:
    """An SVG document as an element of the page, with a text alternative."""
    begin = svg.index("<svg")
    return svg[begin:].replace("<svg", f'<svg role="img" aria-label="{label}"', 1)


def again(report: dict[str, Any]) -> list[str]:
    """How to reproduce this page."""
    made = report["reproduce"]
    versions = "; ".join(
        f"{what}: " + ", ".join(f"{name} {v}" for name, v in each.items())
        for what, each in made["versions"].items()
    )
    hashes = "\n".join(f"{digest}  {name}" for name, digest in made["hashes"].items())
    return [
        "<h2>How to reproduce this page</h2>",
        f"<pre>{escape(made['command'])}\n\n{escape(made['audit'])}</pre>",
        f"<p>{escape(versions)}; Python {escape(made['python'])}; "
        f"{escape(json.dumps(made['layout']))}</p>",
        f"<p>SHA-256 of the audited files:</p><pre>{escape(hashes)}</pre>",
    ]


def escape(words: str) -> str:
    return markup.escape(words, quote=True)
