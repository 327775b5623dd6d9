"""No command of the documents and no preset is refused."""

import re
import subprocess
import sys

import pytest

from helpers.scripts import ROOT, environment
from launch.report.paper import ROWS
from launch.studies import documents

COMMANDS = """
import shlex, sys
from absl import flags
from launch import {script}
from launch.running import comparison
from launch.setup import federation
from launch.shell import config as configs, typed
FLAGS = flags.FLAGS
{script}.define()
FLAGS.set_default("workdir", "nowhere")
for line in sys.stdin:
    sys.argv = ["x", *shlex.split(line)]
    FLAGS.unparse_flags()
    for name in FLAGS:
        FLAGS[name].unparse()
    FLAGS(sys.argv)
    names = {names}
    try:
        federation.check(configs.resolve(names), names, **typed.said())
    except ValueError as error:
        print(line.strip(), error)
"""


@pytest.mark.parametrize(
    ("script", "names"),
    [("compare", "comparison.asked_methods()"), ("pays", "[]")],
)
def test_no_command_of_the_documents_and_no_preset_is_refused(script, names):
    text = "".join(path.read_text() for path in documents.documents(ROOT))
    text = re.sub(r" *\\\n *", " ", text).replace("$F/", "--flagfile=launch/presets/")
    lines = re.findall(rf"launch\.{script}((?: +(?:--|\$)\S+)+)", text)
    (pays,) = re.findall(r'P="(.*?)"', text, re.DOTALL)
    lines = [line.replace("$P", pays).partition("`")[0] for line in lines if "<" not in line]
    lines = [re.sub(r"--\w+=(R|D|LR|\$\w+)\b|\$\w+", "", line) for line in lines]
    if script == "compare":
        lines += [f" --flagfile=launch/presets/{name}.flags" for name in ROWS]
    assert len(lines) > (2 if script == "pays" else 20)
    done = subprocess.run(
        [sys.executable, "-c", COMMANDS.format(script=script, names=names)],
        **dict(input="\n".join(lines), capture_output=True, text=True),
        **dict(env=environment(), cwd=ROOT, timeout=300),
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
