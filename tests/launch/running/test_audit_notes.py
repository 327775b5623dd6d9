"""What an audit says besides its numbers."""

from types import SimpleNamespace

import pytest

from launch.running.audit_notes import Options, not_shown, other_shadows


def test_what_shadows_do_otherwise_is_said():
    run = lambda **more: SimpleNamespace(
        config=SimpleNamespace(init_params=more.pop("init", None), recovery_rounds=40), more=more
    )
    assert other_shadows(run()) == other_shadows(run(stop="budget")) == []
    (early,) = other_shadows(run(stop="regained"))
    assert "all 40 rounds" in early
    (given,) = other_shadows(run(init="model.safetensors"))
    assert "came from a file" in given


@pytest.mark.parametrize(
    "given, words",
    [
        (dict(dp_clip=1.0, sum_only=False), "--dp_clip hides what a single client has"),
        (dict(dp_clip=None, sum_only=True), "would show what --sum_only hides"),
        (dict(dp_clip=None, sum_only=False), "no client stays"),
    ],
)
def test_single_clients_are_not_shown_where_nobody_may_see_them(given, words):
    config = SimpleNamespace(forget="client:0", backdoor=False, task="classify", **given)
    missing = not_shown({}, {}, ["not"], config, Options())
    assert words in missing["worst_client"] and words in missing["client_spread"]
    assert missing["probe_poison"] == missing["asr"] == "no backdoor was planted"
    assert missing["memorised.20"].startswith("the original or two retrained models are missing")
    none = not_shown({}, {}, ["not"], config, Options(resurfacing_rounds=0))
    assert none["resurfacing.forget"] == "not run; --resurfacing_rounds=10 runs it"
