"""How a request is answered, from flags to the last round."""

import pytest
from absl import flags

from helpers.workdirs import PLAIN, PRIVATE, changed
from launch.running import answering


def test_exact_accuracy_chooses_no_number_of_rounds(monkeypatch):
    """If noise must hide the examples, the round at which an answer stops must not show them."""

    def stops(config, *words):
        known = flags.FlagValues()
        flags.DEFINE_enum("stop", "regained", ["regained", "budget"], "", flag_values=known)
        known(["unlearn", *words])
        monkeypatch.setattr(answering, "FLAGS", known)
        return answering.stopping(config)

    assert stops(PRIVATE) == stops(PRIVATE, "--stop=budget") == "budget"
    assert stops(PLAIN) == stops(changed(PRIVATE, dp_noise_from_seed=True)) == "regained"
    with pytest.raises(ValueError, match="exact accuracy .* which epsilon does not cover; with"):
        stops(PRIVATE, "--stop=regained")
