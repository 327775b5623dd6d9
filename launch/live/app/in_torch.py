"""The same network in PyTorch, whose arrays are named ``stem.weight``."""

import numpy as np
import torch

from . import in_numpy
from .in_numpy import Model

LAYERS = r"stem\..*"
PAIRS = {"stem.weight": "stem/kernel", "head.weight": "head/kernel"}
PAIRS |= {"stem.bias": "stem/bias", "head.bias": "head/bias"}


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.head = torch.nn.Linear(64, 64), torch.nn.Linear(64, 10)

    def forward(self, x):
        return self.head(torch.relu(self.stem(x)))


def init() -> Model:
    start = in_numpy.init()
    return {name: np.ascontiguousarray(start[other].T) for name, other in PAIRS.items()}


def predict(model: Model, x: np.ndarray) -> np.ndarray:
    return in_numpy.predict({other: model[name].T for name, other in PAIRS.items()}, x)


def train(model: Model, batches: list[tuple[np.ndarray, np.ndarray]], lr: float) -> Model:
    net = Net()
    net.load_state_dict({name: torch.tensor(a) for name, a in model.items()})
    optimizer = torch.optim.SGD(net.parameters(), lr=lr, momentum=0.9)
    for x, y in batches:
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(net(torch.tensor(x)), torch.tensor(y)).backward()
        optimizer.step()
    return {name: a.detach().numpy() for name, a in net.state_dict().items()}
