"""An audit: whether models forgot, judged against retrained ones. README.md says how.

``collect`` makes samples of models, ``estimate`` numbers with intervals of samples, and ``judge``
verdicts of numbers, each with its reason.
"""

from jfu.audit.estimates import Estimates, estimate
from jfu.audit.evidence import collect
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
    "collect",
    "controls",
    "estimate",
    "judge",
    "of_shadows",
]
