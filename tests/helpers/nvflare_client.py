"""A site of NVFlare: digits and a network in NumPy, with PyTorch's names. Counts its messages."""

import os

import numpy as np
import nvflare.client as flare

from launch.live.app import data, in_numpy

NAMES = {"stem/kernel": "conv1.weight", "stem/bias": "conv1.bias"}
NAMES |= {"head/kernel": "fc.weight", "head/bias": "fc.bias"}
OURS = {theirs: ours for ours, theirs in NAMES.items()}


def named(model, names):
    return {names[name]: np.asarray(a, np.float32) for name, a in model.items()}


def main():
    flare.init()
    site = flare.get_site_name()
    x, y = data.part(int(site.removeprefix("site-")) - 1, 3)  # site-1 has the poison
    whole = range(0, len(y) - 31, 32)
    while flare.is_running():
        received = flare.receive()
        with open(os.path.join(os.environ["COUNTS"], site), "a") as file:
            file.write(f"{received.current_round}\n")
        model = named(received.params, OURS)
        if flare.is_evaluate():
            accuracy = float((in_numpy.predict(model, x) == y).mean())
            flare.send(flare.FLModel(metrics={"accuracy": accuracy}))
            continue
        draw = np.random.default_rng(received.current_round)
        orders = [draw.permutation(len(y)) for _ in range(5)]
        batches = [(x[o[i : i + 32]], y[o[i : i + 32]]) for o in orders for i in whole]
        model = named(in_numpy.train(model, batches, 0.1), NAMES)
        steps = {"NUM_STEPS_CURRENT_ROUND": len(batches)}
        flare.send(flare.FLModel(params=model, meta=steps))


if __name__ == "__main__":
    main()
