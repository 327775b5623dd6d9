"""The figure of launch.theory: one panel for each theorem."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from jfu import theory
from launch.report.figures import plain, save, sheet

STILL = 1e-3  # smaller distances are rounding errors

COLOURS = dict(identity="black", tanh="tab:blue", relu="tab:red", gelu="tab:green")


@plain()
def draw(rows: Sequence[dict], path: str) -> None:
    """One panel for each theorem."""
    from matplotlib.lines import Line2D

    panels = {
        "time until the gap of losses is half of retraining's": draw_time,
        "distance of activations, weights of one norm": draw_distance,
        "how far the law of later layers' Jacobians moves": draw_jacobians,
        "damage left when one other layer alone is trained": draw_repair,
    }
    figure, axes = sheet(2, 2, size=(13, 10))
    for number, (title, panel) in enumerate(panels.items(), 1):
        axis = axes.flat[number - 1]
        keys = panel(axis, [row for row in rows if row["theorem"] == number])
        keys = [Line2D([], [], label=words, **({"color": "0.3"} | look)) for words, look in keys]
        if keys:
            axis.legend(handles=keys, fontsize=8.5)
        axis.set_title(f"Theorem {number} (reconstruction)\n{title}", fontsize=11)
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
    handles = [Line2D([], [], color=c, lw=3, label=name) for name, c in COLOURS.items()]
    figure.legend(handles=handles, loc="upper center", ncols=4, frameon=False, fontsize=11)
    figure.tight_layout(rect=(0, 0, 1, 0.96), h_pad=2.5, w_pad=2.5)
    save(figure, path)


def draw_time(axis: Any, rows: Sequence[dict]) -> list[tuple[str, dict]]:
    marks = {"time, trained": "o", "time, negated": "^"}
    rows = [row for row in rows if row["what"] in marks]
    for row in rows:
        colour = COLOURS[row["activation"]]
        face = colour if row["reached"] else "none"
        axis.plot(row["value"], row["bound"], marks[row["what"]], color=colour, mfc=face, ms=8)
    low = min(min(row["value"], row["bound"]) for row in rows) / 2
    high = 2 * max(max(row["value"], row["bound"]) for row in rows)
    axis.set(xscale="log", yscale="log", xlabel="observed time", ylabel="least time by the bound")
    axis.set(xlim=(min(row["value"] for row in rows) / 2, high), ylim=(low, high))
    axis.fill_between((low, high), (low, high), high, color="0.92", zorder=0)
    axis.text(0.03, 0.95, "not consistent", transform=axis.transAxes, color="0.4", va="top")
    return [
        ("from the trained weights", dict(marker="o", ls="")),
        ("from the negated weights", dict(marker="^", ls="")),
        ("hollow: the target was not reached", dict(marker="s", mfc="none", ls="")),
    ]


def draw_distance(axis: Any, rows: Sequence[dict]) -> list[tuple[str, dict]]:
    y, z = np.random.default_rng(0).standard_normal((2, 20_000))
    rhos = np.linspace(-1, 0.95, 40)
    for name, activation in theory.ACTIVATIONS.items():
        pair = lambda rho: rho * y + np.sqrt(1 - rho**2) * z
        far = [float(theory.activation_distance(activation, y, pair(rho))) for rho in rhos]
        axis.plot(rhos, np.array(far) / far[0], color=COLOURS[name], lw=1)
    faint, bold = dict(ms=4, mew=0, alpha=0.35), dict(ms=8)
    marks = {
        "drawn, layer 1": ("drawn, first layer", dict(marker="o", ls="", **faint)),
        "drawn, layer 2": ("drawn, second layer", dict(marker="s", ls="", **faint)),
        "searched, white": ("searched, white inputs", dict(marker="+", ls="", **bold)),
        "searched, layer 1": ("searched, first layer", dict(marker="*", ls="", **bold)),
        "searched, layer 2": ("searched, second layer", dict(marker="P", ls="", **bold)),
    }
    for row in rows:
        look = marks[row["what"]][1] | dict(color=COLOURS[row["activation"]])
        axis.plot(*([p[k] for p in row["points"]] for k in ("correlation", "ratio")), **look)
    axis.axhline(1, color="0.5", ls="--", lw=1)
    axis.text(0.99, 1.03, "negation", color="0.4", ha="right", transform=axis.get_yaxis_transform())
    axis.set(yscale="log", ylim=(0.08, None))
    axis.set_xlabel("correlation of pre-activations before and after")
    axis.set_ylabel("distance of activations / that of negation")
    words = [(words, look | dict(alpha=1)) for words, look in marks.values()]
    return [*words, ("Gaussian pairs", dict(lw=1))]


def draw_jacobians(axis: Any, rows: Sequence[dict]) -> list[tuple[str, dict]]:
    looks = {
        "narrow to wide, trained": ("negated, trained", dict(ls="-", marker="o")),
        "narrow to wide, first": ("negated, untrained", dict(ls="--", marker="o")),
        "new layer": ("new first layer, trained", dict(ls=":", marker="x")),
        "asymmetry, trained": ("mean TV(y, -y) of a unit, trained", dict(ls="-.")),
    }
    distances = [row for row in rows if not row["what"].startswith("asymmetry")]
    moved = {row["activation"] for row in distances if row["value"] > STILL}
    widths: set[int] = set()
    for name in [name for name in COLOURS if name in moved]:
        for what, (_, look) in looks.items():
            at: dict[int, list] = {}
            for row in rows:
                if (row["activation"], row["what"]) == (name, what):
                    one = [dict(width=row["width"], value=row["bound"])]
                    for point in row.get("points", one):
                        at.setdefault(point["width"], []).append(point["value"])
            means = [np.mean(values) for values in at.values()]
            widths |= set(at)
            axis.plot([*at], means, color=COLOURS[name], alpha=0.8, **look)
    axis.set(xscale="log", yscale="log", xlabel="width of the hidden layers")
    axis.set_ylabel("W1 of singular values / their mean;  TV")
    axis.set_xticks(sorted(widths), [str(width) for width in sorted(widths)])
    axis.minorticks_off()
    axis.set_ylim(axis.get_ylim()[0] / 4)  # room for the legend
    still = ", ".join(name for name in COLOURS if name not in moved)
    return [*looks.values(), *([(f"{still}: W1 is 0", dict(ls=""))] if still else [])]


def draw_repair(axis: Any, rows: Sequence[dict]) -> list[tuple[str, dict]]:
    words = dict(
        first="{first}",
        halves="{second, as\ntwo halves}",
        half="{one half\nof second}",
        output="{output}",
        anew="new first\nlayer",
    )
    for i, what in enumerate(words):
        for j, (name, colour) in enumerate(COLOURS.items()):
            some = [r for r in rows if (r["activation"], r["what"]) == (name, what)]
            left = [100 * max(row["left"]) for row in some]
            place = i + (j - 1.5) * 0.2
            axis.bar(place, np.mean(left) if left else 0, 0.18, color=colour, alpha=0.6)
            axis.plot([place] * len(left), left, ".", color=colour)
    axis.set_xticks(range(len(words)), list(words.values()), fontsize=9)
    axis.set_xlabel("layers negated")
    axis.set_ylabel("% of the damage that the least able other layer leaves")
    return []
