"""The picture of launch.power: what the audit notices, by the share of data that was put back."""

from collections.abc import Mapping, Sequence
from typing import Any

from launch.report import figures


@figures.plain()
def draw(rows: Sequence[Mapping[str, Any]], path: str) -> None:
    """A panel for each request, a line for each number of seeds and of shadow federations."""
    kinds = list(dict.fromkeys(row["request"] for row in rows))
    figure, axes = figures.sheet(
        1, len(kinds), size=(4 * len(kinds), 3.6), sharey=True, squeeze=False
    )
    audits = list(dict.fromkeys((row["seeds"], row["shadows"]) for row in rows))
    for kind, axis in zip(kinds, axes[0], strict=True):
        for number, (seeds, shadows) in enumerate(audits):
            mine = [
                row
                for row in rows
                if (row["request"], row["seeds"], row["shadows"]) == (kind, seeds, shadows)
            ]
            shares = [100 * row["share"] for row in mine]
            words = f"{seeds} seeds, {shadows or 'no'} shadows"
            for key, style in (("no", "-"), ("noticed", ":")):
                heights = [100 * row[key] for row in mine]
                label = words if key == "no" else None
                axis.plot(shares, heights, style, marker="o", ms=4, color=f"C{number}", label=label)
        axis.axhline(5, color="0.8", lw=1, zorder=0)
        axis.set_title(kind)
        axis.set_xlabel("forgotten data put back, %")
        axis.set_ylim(-3, 103)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0, 0].set_ylabel("audits, %: no (line), no or a sign (dots)")
    axes[0, 0].legend(frameon=False, fontsize=8)
    figure.tight_layout()
    figures.save(figure, path)
