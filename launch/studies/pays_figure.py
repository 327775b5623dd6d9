"""The figure of launch.pays: rounds to recover and gap, for each setting."""

from collections.abc import Sequence

import numpy as np

from launch.report import figures
from launch.studies import pays_report

LOOK = {
    "finetune": ("tab:orange", "s"),
    "reinit": ("tab:green", "^"),
    "not": ("tab:blue", "o"),
    "retrain_again": ("0.5", "D"),
}


@figures.plain()
def draw(rows: Sequence[dict], path: str) -> None:
    """Two panels: each mark is a mean over seeds, its line the standard deviation."""
    settings = pays_report.by_setting(rows)
    height = 1.8 + 0.36 * len(settings)
    figure, axes = figures.sheet(1, 2, size=(13, height), sharey=True)
    gaps = lambda some, name: [row["methods"][name]["gap"] for row in some]
    panels = [("rounds to recover, over retraining's", pays_report.ratios), ("gap, points", gaps)]
    for axis, (title, values) in zip(axes, panels, strict=True):
        for place, some in enumerate(settings.values()):
            for offset, (name, (colour, mark)) in enumerate(LOOK.items()):
                found = np.asarray(values(some, name), float)
                axis.errorbar(
                    found.mean(),
                    place + (offset - 1.5) * 0.17,
                    xerr=found.std(ddof=1) if len(found) > 1 else None,
                    fmt=mark,
                    color=colour,
                    ms=5,
                    lw=1.2,
                    label=pays_report.LABELS[name] if place == 0 else None,
                )
        axis.set_xlabel(title)
        axis.grid(axis="x", alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
        for place in np.arange(len(settings) - 1) + 0.5:
            axis.axhline(place, color="0.92", lw=0.8, zorder=0)
    axes[0].axvline(1, color="black", lw=1)
    axes[0].set_yticks(range(len(settings)), settings)
    axes[0].invert_yaxis()
    axes[1].set_xscale("symlog", linthresh=1)
    axes[1].set_xlim(left=0)
    axes[1].set_xticks([0, 0.5, 1, 2, 5, 10, 20], ["0", "0.5", "1", "2", "5", "10", "20"])
    axes[1].set_xticks([], minor=True)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="upper center", ncols=len(LOOK), frameon=False)
    figure.tight_layout(rect=(0, 0, 1, 1 - 0.5 / height))
    figures.save(figure, path)
