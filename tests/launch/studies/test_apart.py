"""Controls of an attack: what is counted of shadow federations, on made-up scores."""

import numpy as np

from helpers.forks import launch
from launch.studies import apart


def test_lines_by_known_scores():
    """One answer is less sure than retrained models, one remembers, and one is like them."""
    draw, shape = np.random.default_rng(0), (24, 30)
    held = np.repeat(draw.random((12, 30)) < 0.5, 2, 0)
    held[1::2] = ~held[1::2]
    phi = {name: draw.normal(size=shape) for name in ("original", "retrain", *apart.ANSWERS)}
    phi["NoT"] -= 3
    phi["original"] += 3 * held
    rows = {row["answer"]: row for row in apart.measured(phi, held)}
    assert list(rows) == ["original", *apart.ANSWERS]
    less, more, alike = (rows[n] for n in ("NoT", "original", "a third retraining"))
    # Less sure of all examples: U-LiRA sees it, and LiRA finds no memory.
    assert less["ulira"][0] > 0.95 and less["lira"][1] < 0.5 < less["lira"][2]
    assert abs(less["sure"] + 3) < 0.2 and abs(more["sure"] - 3) < 0.2
    assert more["ulira"][0] > 0.95 and more["lira"][0] > 0.95
    assert alike["ulira"][1] < 0.5 < alike["ulira"][2] and alike["shadows"] == 24
    assert less["rounds"] == apart.HALF and more["rounds"] == 0
    text = apart.markdown([*rows.values()])
    assert "| NoT " in text and f"{less['sure']:+.1f}" in text


def test_shadows_come_in_pairs():
    _, error = launch("apart", "--shadows=9", expect=2)
    assert "--shadows=9 is odd; shadows come in pairs" in error.splitlines()[-1]
