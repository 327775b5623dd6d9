"""The scripts. Of ``python -m launch.SCRIPT`` this runs first, before anything slow is imported."""

import sys

if sys.argv[:1] == ["-m"]:
    from launch.shell import interrupt, printing

    printing.prepare()
    interrupt.catch()
