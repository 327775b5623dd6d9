"""Rows of a run: costs, and why clients were left out."""

from types import SimpleNamespace

from helpers.workdirs import PLAIN, changed
from jfu import results
from launch.running import rows


def costs_of(study, **counts):
    info = SimpleNamespace(metrics=dict.fromkeys(NAMES, 0.0) | counts)
    spent = dict(bytes_down=0, bytes_up=0, flops=0.0, seconds=0.0, left_out=0)
    return rows.add_costs(study, rows.add_costs(study, spent, info, 1.0), info, 1.0)


NAMES = ("steps", "forwards", "down", "up", "late", "not_finite", "too_long", "not_applied")


def test_rows_say_why_clients_were_left_out(monkeypatch):
    """Where there are any, or may be; other rows are as they were."""
    monkeypatch.setattr(rows, "measures_of", lambda *args, **options: {})
    judge = lambda *args: ()
    study = SimpleNamespace(
        config=PLAIN, per_client=(1, 1), per_step=1.0, per_forward=1.0, judge=judge
    )
    trial = SimpleNamespace(seed=0, evaluation=SimpleNamespace(x=0, y=0))
    state = SimpleNamespace(variables={})

    def row(study, costs):
        counts = rows.Meter(study, trial, "not", 0, lambda number: {}, None)
        return rows.row(counts, 2, state, costs, attack=False).result()

    plain = row(study, costs_of(study))
    assert list(plain) == ["method", "seed", "round", "bytes_down", "bytes_up", "flops"] + [
        "left_out",
        "storage",
        "seconds",
    ]
    some = row(study, costs_of(study, late=2.0, not_applied=1.0))
    assert (some["left_out"], some["late"], some["not_applied"]) == (4, 4, 2)
    assert "too_long" not in some
    study.config = changed(PLAIN, max_update_norm=5.0)
    watched = row(study, costs_of(study))
    assert [watched[name] for name in rows.FAILURES] == [0, 0, 0, 0]
    # Training's are still in the row of the original when the request comes.
    assert results.as_original(some)["late"] == results.as_original(some)["left_out"] == 4
