"""What is said of a run's outlook."""

from launch.report import advice


def test_advice_knows_a_model_that_has_learnt_nothing():
    config, row = (
        dict(recovery_rounds=4, forget="client:0", recovery_warmup_rounds=0),
        dict(retain=12.9, guess=12.9, forget=0.0, test=10.0, asr=None),
    )
    (line,) = advice.outlook(config, row, [row | dict(round=1)], False)
    assert "retains 12.9 % and has learnt nothing: naming one class gets as much right" in line
    (line,) = advice.behind(config, row, row | dict(round=4))
    assert line.startswith("not back: the model retains 12.9 % and has learnt nothing")
