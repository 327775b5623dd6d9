"""An audit: have models forgotten? It compares them with retrained models; see README.md.

``collect`` makes samples from models. ``estimate`` makes numbers with intervals from samples.
``judge`` makes verdicts from numbers, each with its reason.
"""

from jfu.audit.estimates import Estimates, estimate
from jfu.audit.evidence import collect
from jfu.audit.fewer import by_seeds
from jfu.audit.measures import TABLE, Evidence, Measure
from jfu.audit.pairs import of_shadows
from jfu.audit.verdicts import Controls, Judged, controls, judge

__all__ = [
    "TABLE",
    "Controls",
    "Estimates",
    "Evidence",
    "Judged",
    "Measure",
    "by_seeds",
    "collect",
    "controls",
    "estimate",
    "judge",
    "of_shadows",
]
