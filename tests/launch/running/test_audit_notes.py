"""What an audit says besides its numbers."""

from types import SimpleNamespace

from launch.running.audit_notes import other_shadows


def test_what_shadows_do_otherwise_is_said():
    run = lambda **more: SimpleNamespace(
        config=SimpleNamespace(init_params=more.pop("init", None), recovery_rounds=40), more=more
    )
    assert other_shadows(run()) == other_shadows(run(stop="budget")) == []
    (early,) = other_shadows(run(stop="regained"))
    assert "all 40 rounds" in early
    (given,) = other_shadows(run(init="model.safetensors"))
    assert "came from a file" in given
