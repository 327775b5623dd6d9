"""Runs the controller of jfu/live/README.md in NVFlare's simulator: ``nvflare_job.py FOLDER``.

Three sites. Once the first has received four messages, a request to forget it is dropped in.
"""

import json
import os
import pathlib
import re
import sys
import threading
import time

HERE = pathlib.Path(__file__).resolve().parent
README = HERE.parents[1] / "jfu" / "live" / "README.md"
MODEL = """

from nvflare.app_common.abstract.fl_model import FLModel, ParamsType
from nvflare_client import NAMES, in_numpy, named


class Job(NoT):
    def load_model(self):
        return FLModel(params_type=ParamsType.FULL, params=named(in_numpy.init(), NAMES))
"""


def controller(folder):
    """The README's code, with a folder and a model of ours."""
    part = README.read_text().split("## NVFlare\n")[1]
    code = re.search(r"```python\n(.*?)```", part, re.DOTALL)[1]
    assert code.count('"/srv/federation"') == 1
    return code.replace("/srv/federation", str(folder / "federation")) + MODEL


def ask(folder):
    received = folder / "site-1"
    while not received.exists() or len(received.read_text().splitlines()) < 4:
        time.sleep(0.05)
    line = json.dumps(dict(id="a", forget=["site-1"])) + "\n"
    (folder / "federation" / "requests.jsonl").write_text(line)


def main(folder):
    from nvflare.job_config.api import FedJob
    from nvflare.job_config.script_runner import FrameworkType, ScriptRunner

    os.environ["COUNTS"] = str(folder)
    (folder / "controller.py").write_text(controller(folder))
    sys.path.insert(0, str(folder))
    from controller import Job  # pyrefly: ignore[missing-import]

    job = FedJob(name="not", min_clients=3)
    job.to_server(Job(num_clients=3, num_rounds=4, persistor_id=""))
    for site in ("site-1", "site-2", "site-3"):
        script = str(HERE / "nvflare_client.py")
        job.to(ScriptRunner(script=script, framework=FrameworkType.NUMPY), site)
    threading.Thread(target=ask, args=[folder], daemon=True).start()
    job.simulator_run(str(folder / "workspace"))


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]).absolute())
