"""Options of methods as flags give them."""

import pytest

from launch.setup.options import read_options


def test_options_of_methods():
    given = ["pgd.lr=0.003", "fcu.low=unlearned", "puf.alone=true", "pgd.epochs=2"]
    given += ["not_deepest.tells=0.1"]
    options = dict(pgd=dict(lr=0.003, epochs=2), fcu=dict(low="unlearned"), puf=dict(alone=True))
    options |= dict(not_deepest=dict(tells=0.1))
    assert read_options(given) == options
    for wrong, message in [
        ("pgd.lr", "is not understood; write METHOD.OPTION=VALUE"),
        ("pdg.lr=1", "no method pdg; the methods are retrain"),
        ("pgd.rate=1", "pgd has no option rate; it has lr, momentum"),
        ("finetune.lr=1", "finetune has no option lr; it has none"),
        ("pgd.batch_size=8", "pgd has no option batch_size"),
        ("puf.alone=maybe", "alone must be of the type bool"),
        ("ga.epochs=2.5", "epochs must be of the type int"),
        ("pgd.lr=fast", "lr must be of the type float"),
    ]:
        with pytest.raises(ValueError, match=message):
            read_options([wrong])
