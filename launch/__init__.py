"""The scripts. ``python -m launch.SCRIPT`` runs this file first, before any slow import."""

import sys

if sys.argv[:1] == ["-m"]:
    from launch.shell import interrupt, printing

    printing.prepare()
    interrupt.catch()
