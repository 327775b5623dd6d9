"""Figures from rows and tables.

They are drawn in memory, after everything else is written. The user's display, backend and settings
have no influence. A figure that cannot be drawn or written gives a note (``drawn``); no result is
lost, and the exit status is 0.
"""

import contextlib
import io
import os
import warnings
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Any

import numpy as np

from jfu import results, tables
from jfu.results import Summary
from jfu.tasks import TASKS, Words
from launch.report import spoken
from launch.shell import outputs
from launch.shell.say import say

COLOURS = {
    "retrain": "black",
    "finetune": "tab:orange",
    "none": "tab:gray",
    "not": "tab:blue",
}


def drawn(draw: Callable, what: Any, path: str, *more: Any) -> bool:
    """Whether ``draw(what, path, *more)`` drew a figure; an error only gives a note.

    Must be called after everything else is written, so that a figure cannot cost a result.
    """
    try:
        return draw(what, path, *more) is not False
    except Exception as error:  # a font, memory, the disk, matplotlib itself
        why = " ".join(str(error).split()) or type(error).__name__
        say(
            f"note: {path} was not drawn ({why}); all else is written, and the same command will "
            "draw it"
        )
        return False


def panel(series: dict[str, list], title: str, *more: Any) -> str:
    """``lines``; an empty text and a note if it cannot be drawn."""
    try:
        return lines(series, title, *more)
    except Exception as error:
        why = " ".join(str(error).split()) or type(error).__name__
        say(f"note: the panel of {title} was not drawn ({why}); the report gives its values")
        return ""


@contextlib.contextmanager
def plain() -> Generator[None]:
    """Matplotlib without the user's backend, style and warnings; also a decorator."""
    chosen = os.environ.pop("MPLBACKEND", None)  # a notebook's backend cannot be imported elsewhere
    try:
        import matplotlib
    finally:
        if chosen is not None:
            os.environ["MPLBACKEND"] = chosen
    with warnings.catch_warnings(), matplotlib.rc_context():
        warnings.simplefilter("ignore")
        matplotlib.rcdefaults()
        yield


def sheet(rows: int = 1, columns: int = 1, *, size: tuple[float, float], **options: Any):
    """``(figure, axes)`` on a canvas in memory, which needs no display."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=size)
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns, **options)


def spare_colours() -> Iterator[Any]:
    """Colours for methods that have none of their own."""
    from matplotlib import colormaps

    order = (4, 6, 8, 10, 12, 16, 18, 5, 7, 9, 11, 13, 17, 19)
    return iter([colormaps["tab20"](i) for i in order] * 9)


@plain()
def costs(summary: Summary, path: str, title: str = "") -> bool:
    """Gap to retraining against the bytes to recover, one point a method; whether it was drawn.

    A method that did not recover in every seed is a hollow point, at the bytes after its last
    round.
    """
    points = _cost_points(summary)
    if len(points) < 2:
        return False
    figure, axis = sheet(size=(7.5, 5))
    spare = spare_colours()
    floor, places = (summary["floor"] or {}).get("gap_per_seed"), {}
    for name, traffic, gap, recovered in points:
        colour = COLOURS[name] if name in COLOURS else next(spare)
        y = floor if name == "retrain" and floor else gap
        height = max(y["mean"], 0.01)
        axis.errorbar(
            traffic["mean"] / 1e6,
            height,
            xerr=[[min(traffic["std"], traffic["mean"] / 2) / 1e6], [traffic["std"] / 1e6]],
            yerr=[[min(y["std"], height / 2)], [y["std"]]],  # a log scale has no zero
            fmt="o",
            color=colour,
            markerfacecolor=colour if recovered else "white",
            capsize=2,
            markersize=7,
        )
        label = "NoT" if name == "not" else name
        places[label] = (traffic["mean"] / 1e6, height)
    if floor:
        axis.axhline(max(floor["mean"], 0.01), color="0.5", linestyle="--", linewidth=1, zorder=0)
        axis.annotate(
            "noise floor: retraining against retraining",
            (0.01, max(floor["mean"], 0.01)),
            xycoords=("axes fraction", "data"),
            va="bottom",
            fontsize=8,
            color="0.4",
        )
    back = f"retained {tables.words_of(summary).score}"
    axis.set(
        xscale="log",
        yscale="log",
        xlabel=f"MB, down and up, until {back} is back (hollow: never; all MB)",
        ylabel="gap to retraining per seed, points (less is better)",
    )
    axis.set_title(title, parse_math=False)  # ids and paths are not formulas
    axis.margins(x=0.15, y=0.15)
    axis.grid(alpha=0.25)
    axis.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    label_points(axis, places)
    save(figure, path)
    return True


def _cost_points(summary: Summary) -> list[tuple[str, Any, Any, bool]]:
    """Name, bytes, gap, and whether it recovered in every seed, for methods that have a gap."""
    points = []
    for name, entry in summary["methods"].items():
        gap = (entry or {}).get("gap_per_seed")
        if name in ("original", "none") or gap is None:
            continue
        traffic, recovered = entry["bytes_to_recover"], True
        if traffic is None:
            down, up = entry["bytes_down"], entry["bytes_up"]
            traffic, recovered = dict(mean=down["mean"] + up["mean"], std=0.0), False
        points.append((name, traffic, gap, recovered))
    return points


def save(figure: Any, path: str) -> None:
    """Writes a figure as PNG, whole or not at all."""
    out = io.BytesIO()
    figure.savefig(out, dpi=110, format="png")
    outputs.put(path, out.getvalue())


def label_points(axis: Any, places: dict[str, tuple[float, float]]) -> None:
    """Writes names beside their points, each at the first place where it covers no other."""
    from matplotlib.transforms import Bbox

    figure = axis.figure
    figure.canvas.draw()
    pixels = {name: axis.transData.transform(place) for name, place in places.items()}
    taken = [Bbox.from_bounds(x - 4, y - 4, 8, 8) for x, y in pixels.values()]
    sides = [(6, 5), (6, -12), (-6, 5), (-6, -12), (6, 17), (6, -24), (-6, 17), (-6, -24)]
    for name in sorted(places, key=lambda name: name != "NoT"):
        place, box = places[name], Bbox.null()
        for side in sides:
            text = axis.annotate(
                name,
                place,
                xytext=side,
                textcoords="offset points",
                fontsize=9,
                ha="left" if side[0] > 0 else "right",
            )
            box = text.get_window_extent()
            if not any(box.overlaps(other) for other in taken):
                break
            if side is not sides[-1]:
                text.remove()
        taken.append(box)


@plain()
def curves(
    rows: Sequence[dict[str, Any]],
    path: str,
    title: str = "",
    words: Words = TASKS["classify"].words,
) -> None:
    """Retained, forgotten, test accuracy and backdoor success by round, one line a method."""
    panels = [("retain", "retained accuracy"), ("forget", "accuracy on forgotten data")]
    panels += [("test", "test accuracy"), ("asr", "backdoor success")]
    there = lambda key: any(row.get(key) is not None for row in rows)
    panels = [(key, spoken.text(label, words)) for key, label in panels if there(key)]
    figure, axes = sheet(1, len(panels), size=(4.2 * len(panels), 3.8), squeeze=False)
    every = dict.fromkeys(row["method"] for row in rows)
    names = [name for name in every if name not in ("original", results.AGAIN)]
    spare = spare_colours()
    colours = COLOURS | {name: next(spare) for name in names if name not in COLOURS}
    methods = results.summarise(rows)["methods"]
    for axis, (key, label) in zip(axes[0], panels, strict=True):
        start = [row[key] for row in rows if row["method"] == "original"]
        if start:
            axis.axhline(np.mean(start), color="0.6", linestyle=":", label="original")
        for name in names:
            own = [r for r in rows if r["method"] == name and r[key] is not None]
            _curve(axis, own, key, name, colours[name], banded=len(names) <= 5)
        # Zoom in if all accuracies end near the top.
        ends = [methods[name][key]["mean"] for name in names if methods[name][key]]
        bottom = 70 if key in ("retain", "test") and min(ends, default=0) > 90 else -3
        if key == "retain" and "retrain" in names:
            marked = names if len(names) <= 5 else [n for n in names if n in ("retrain", "not")]
            _mark_recovery(axis, {name: methods[name] for name in marked}, colours, bottom + 1)
        axis.set(title=label, xlabel="communication rounds since the request")
        axis.set_ylim(bottom, 103 if bottom < 0 else 101)
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0][0].set_ylabel("percent")
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False)
    figure.suptitle(title, fontsize=11, parse_math=False)
    figure.tight_layout(rect=(0, 0.08, 1, 1))
    save(figure, path)


def _curve(
    axis: Any, rows: Sequence[dict[str, Any]], key: str, name: str, colour: Any, *, banded: bool
) -> None:
    """A method's mean over seeds by round, and a band of one standard deviation."""
    at: dict[int, list] = {}
    for row in rows:
        at.setdefault(row["round"], []).append(row[key])
    x = sorted(at)
    mean = np.array([np.mean(at[r]) for r in x])
    std = np.array([np.std(at[r], ddof=1) if len(at[r]) > 1 else 0 for r in x])
    marker, label = "o" if len(x) == 1 else None, "NoT" if name == "not" else name
    axis.plot(x, mean, color=colour, label=label, marker=marker, linewidth=1.8)
    if banded:
        axis.fill_between(x, mean - std, mean + std, color=colour, alpha=0.15, lw=0)


def _mark_recovery(
    axis: Any, methods: dict[str, Any], colours: dict[str, Any], height: float
) -> None:
    """A line at the round of each method's recovery, with a label at a given height."""
    for name, entry in methods.items():
        rounds = entry["rounds_to_recover"]
        if not rounds or name == "finetune" or not entry["sound"]:
            continue
        axis.axvline(rounds["mean"], color=colours[name], linestyle="--", linewidth=1)
        text = f" recovered: {rounds['mean']:.0f} rounds"
        style = dict(rotation=90, fontsize=7, color=colours[name], va="bottom", ha="right")
        axis.text(rounds["mean"], height, text, **style)


@plain()
def lines(
    series: dict[str, list],
    title: str,
    level: float | None = None,
    band: tuple[float, float] | None = None,
) -> str:
    """One small panel as SVG text: a line for each method, and a dotted one for the original model.

    Args:
      series: by name its points ``[[round, value], ...]``.
      level: the original model's value.
      band: the range of retrained models after their last round.
    """
    import matplotlib

    # Text stays text, for search and screen readers; ids are the same in every run.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "jfu"}):
        figure, axis = sheet(size=(3.9, 3.1))
        spare = iter(matplotlib.colormaps["tab20"].colors[4:] * 9)
        known = {"NoT": COLOURS["not"], "none (the old model)": COLOURS["none"]} | COLOURS
        if level is not None:
            axis.axhline(level, color="0.6", linestyle=":", label="original")
        if band is not None:
            words = "floor at the last round"
            axis.axhspan(*band, color="#cfe3f7", lw=0, zorder=0, label=words)
        for name, points in series.items():
            colour = known[name] if name in known else next(spare)
            x, y = zip(*points, strict=True)
            marker = "o" if len(x) == 1 else None
            axis.plot(x, y, color=colour, label=name, marker=marker, linewidth=1.6)
        axis.set_title(title, fontsize=10)
        axis.set_xlabel("communication rounds since the request", fontsize=8)
        axis.tick_params(labelsize=8)
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
        handles, labels = axis.get_legend_handles_labels()
        figure.legend(
            handles, labels, loc="outside lower center", ncols=3, fontsize=7.5, frameon=False
        )
        rows = -(-len(labels) // 3)
        figure.tight_layout(rect=(0, 0.06 * rows, 1, 1))
        out = io.StringIO()
        figure.savefig(out, format="svg", metadata={"Date": None})
        return out.getvalue()
