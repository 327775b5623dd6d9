"""What is printed and drawn after the work loses none of it, whatever reads it or draws."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from helpers.scripts import ROOT, environment
from helpers.workdirs import rows
from launch.report import figures, page, report
from launch.shell import printing

EVERY = [*rows("retrain", 10.0, 80.0, 90.0), *rows("not", 10.0, 89.6, 88.0)]
LITTLE = ["--dataset=synthetic", "--train_size=100", "--clients=2", "--rounds=1", "--seeds=1"]
LITTLE += ["--recovery_rounds=1", "--model=mlp1", "--devices=1"]


def python(*words, shell="{}", **env):
    """``(status, out, err)`` of Python run with some words, inside a line of the shell."""
    command = shell.format(" ".join(f"'{word}'" for word in [sys.executable, *map(str, words)]))
    done = subprocess.run(
        ["bash", "-c", command],
        cwd=ROOT,
        env=environment() | env,
        capture_output=True,
        text=True,
        timeout=300,
    )
    return done.returncode, done.stdout, done.stderr


def test_nothing_of_the_readers_loses_a_comparison(tmp_path):
    """A notebook's backend, a style that needs LaTeX, letters alone, formulas in a path."""
    where = tmp_path / "a$b{c$"  # a formula, and a wrong one, needs two
    style = tmp_path / "matplotlibrc"
    style.write_text("text.usetex: True\nbackend: gtk4agg\nfont.family: none of these\n")
    words = ["-W", "error", "-m", "launch.compare", *LITTLE, "--methods=retrain,not"]
    odd = dict(MPLBACKEND="module://matplotlib_inline.backend_inline", MATPLOTLIBRC=str(style))
    odd |= dict(PYTHONIOENCODING="ascii", PYTHONWARNINGS="", DISPLAY=":99")
    status, out, err = python(*words, f"--workdir={where}", **odd)
    assert status == 0, err
    assert "| retrain again " in out and "+-" in out and "a$b{c$/" in out and out.isascii()
    for name in ("curves.png", "costs.png"):
        assert (where / name).read_bytes()[:4] == b"\x89PNG"
    assert "±" in (where / "table.md").read_text(encoding="utf-8")


def test_a_figure_that_cannot_be_drawn_is_a_note(tmp_path, capsys, monkeypatch):
    path = str(tmp_path / "curves.png")
    assert figures.drawn(figures.curves, EVERY, path, "client:$x{$")
    monkeypatch.setattr(figures, "sheet", lambda *_, **options: 1 / 0)
    assert not figures.drawn(figures.curves, EVERY, path)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"note: {path} was not drawn (division by zero); all else is written")
    monkeypatch.undo()
    assert not figures.drawn(figures.curves, EVERY, str(tmp_path / "none" / "curves.png"))
    assert "could not be written" in capsys.readouterr().err


def test_a_page_whose_panels_cannot_be_drawn_says_all_in_words(capsys, monkeypatch):
    curves = {"retain": {"not": [[0, 1.0], [1, 93.25]]}}
    content = dict(curves=curves, methods={"not": dict(measures={})})
    assert "<svg" in "".join(page.plots(content))
    monkeypatch.setattr(figures, "sheet", lambda *_, **options: 1 / 0)
    text = "".join(page.plots(content))
    assert "<svg" not in text and "at the end: NoT 93.2" in text
    assert "note: the panel of retained accuracy, % was not drawn" in capsys.readouterr().err


def test_figures_leave_the_callers_settings_alone(tmp_path, monkeypatch):
    import matplotlib

    monkeypatch.setenv("MPLBACKEND", "nonsense")
    with matplotlib.rc_context({"font.size": 3.0}):
        before = matplotlib.get_backend()
        figures.costs(report.summarise(EVERY), str(tmp_path / "c.png"), "$\\frac{$")
        assert "<svg" in figures.lines({"not": [[0, 1.0], [1, 2.0]]}, "loss")
        assert matplotlib.rcParams["font.size"] == 3.0
        assert matplotlib.get_backend() == before and os.environ["MPLBACKEND"] == "nonsense"
    assert "matplotlib.pyplot" not in Path(figures.__file__).read_text()


def test_no_script_draws_on_a_display():
    for path in (ROOT / "launch").rglob("*.py"):
        text = path.read_text()
        assert "pyplot" not in text and "matplotlib.use" not in text, path


# ---------------------------------------------------------------- who reads

SAY = "from launch.shell.printing import prepare, show, tell; prepare(); "


@pytest.mark.parametrize(
    ("encoding", "shown"),
    [("ascii", r"1 +- 2 >= \u0416 \udcff"), ("utf-8", "1 ± 2 ≥ Ж \\udcff")],
)
def test_a_terminal_of_few_signs_prints_them_in_letters(encoding, shown):
    code = SAY + 'show("1 ± 2 ≥ Ж \\udcff")'
    assert python("-c", code, PYTHONIOENCODING=encoding) == (0, shown + "\n", "")


LONG = SAY + 'import time\nfor i in range(3): show("x" * 9); tell("y"); time.sleep(0.2)\n'
LONG += 'open(WHERE, "w").write("done")'


@pytest.mark.parametrize("shell", ["{} | true", "{} 2>&1 | true", "{} >&- 2>&-", "{} 2> /dev/full"])
def test_who_has_stopped_reading_stops_nothing(shell, tmp_path):
    code = LONG.replace("WHERE", repr(str(tmp_path / "a")).replace("'", '"'))
    status, out, err = python("-c", code, shell=f"set -o pipefail; {shell}")
    assert (status, err.replace("y\n", "")) == (0, ""), out
    assert (tmp_path / "a").read_text() == "done"


def test_no_file_gets_the_place_of_a_stream_that_was_closed(tmp_path):
    """Whatever a library prints would go into it: here the bytes of descriptors 1 and 2."""
    code = SAY + f'import os; f = open("{tmp_path}/model", "w"); f.write("weights"); f.flush(); '
    code += 'os.write(1, b"noise"); os.write(2, b"noise"); show("more")'
    assert python("-c", code, shell="{} >&- 2>&- <&-")[0] == 0
    assert (tmp_path / "model").read_text() == "weights"


def test_a_result_that_cannot_be_printed_is_an_error_of_one_sentence():
    code = "from absl import flags\nfrom launch.shell import entry\n"
    code += "from launch.shell.printing import show\n"
    code += 'flags.DEFINE_bool("debug", False, "")\nentry.run(lambda: show("x" * 9))'
    status, _, err = python("-c", code, shell="{} > /dev/full")
    assert (status, err.count("\n")) == (2, 1)
    assert err.startswith("error: standard output: No space left on device; free some space")


def test_help_that_is_not_read_to_its_end_is_quiet():
    _, _, err = python("-m", "launch.train", "--help", shell="{} | head -1 > /dev/null")
    assert err == ""


# ---------------------------------------------------------------- JAX cannot start


@pytest.mark.parametrize("platform", ["cuda", "nonsense"])
def test_a_device_that_is_not_there_is_told_in_a_sentence(platform, tmp_path):
    words = ["-m", "launch.compare", *LITTLE, f"--workdir={tmp_path / 'w'}"]
    status, out, err = python(*words, JAX_PLATFORMS=platform)
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert err.startswith(f"error: JAX cannot start on {platform} (")
    assert not (tmp_path / "w").exists()


def test_lists_are_read_aloud():
    assert printing.listed(["a"]) == "a" and printing.listed(["a", "b"]) == "a and b"
    assert np.char.str_len(printing.listed(list("abc"))) == len("a, b and c")
