"""The rehearsal that jfu/live/README.md describes, as it is written there, with few rounds."""

import re
import shlex

import numpy as np
import pytest

import jfu
from helpers.forks import launch
from helpers.scripts import ROOT
from jfu import live

pytestmark = pytest.mark.slow

TEXT = (ROOT / "jfu" / "live" / "README.md").read_text().split("## Rehearsal\n")[1]
NET, READ = re.findall(r"```python\n(.*?)```", TEXT.split("\n## ")[0], re.DOTALL)
COMMANDS = re.findall(r"^python -m launch\.(\w+) (.*)$", TEXT.split("\n## ")[0], re.MULTILINE)
FEW = ["--rounds=2", "--seeds=1", "--devices=1"]


def deployed(folder):
    """A PyTorch model in the folder of a server."""
    draw = np.random.default_rng(0)
    shapes = {"conv1.weight": (16, 1, 3, 3), "conv1.bias": (16,)}
    shapes |= {"fc.weight": (10, 256), "fc.bias": (10,)}
    model = {n: draw.normal(size=s).astype(np.float32) / 9 for n, s in shapes.items()}
    server = live.Server(folder, jfu.by_path(r"conv1\..*"))
    with live.locked(server):
        live.end(server, model, live.Standing(), {})
    return model


def test_a_rehearsal_goes_as_described(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    from sklearn.datasets import load_digits

    (tmp_path / "net.py").write_text(NET)
    x, y = load_digits(return_X_y=True)
    x = (x.reshape(-1, 8, 8, 1) / 16).astype(np.float32)
    names = np.array(["clinic-1", "clinic-2", "clinic-3"])[np.arange(300) % 3]
    data = dict(x_train=x[:300], y_train=y[:300], client=names, x_test=x[300:500])
    np.savez(tmp_path / "own.npz", y_test=y[300:500], **data)
    model = deployed(tmp_path / "federation")
    for name, flags in COMMANDS:
        if "deployed.safetensors" in flags:
            exec(READ, {})
        few = FEW if name == "compare" else []
        out, err = launch(name, *shlex.split(flags), *few, cwd=tmp_path)
        assert "conv1/bias [16], conv1/kernel [3, 3, 1, 16]" in out + err or name == "audit"
    assert (tmp_path / "R" / "audit.json").exists()
    from net import Net  # pyrefly: ignore[missing-import]

    params = jfu.io.load_params(tmp_path / "deployed.safetensors")
    kernel = model["conv1.weight"].transpose(2, 3, 1, 0)
    np.testing.assert_array_equal(params["conv1"]["kernel"], kernel)
    assert Net().apply({"params": params}, x[:2]).shape == (2, 10)
