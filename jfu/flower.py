"""Flower federations that answer deletion requests while they run (``pip install 'jfu[flower]'``).

One line of a ServerApp changes. In place of ``strategy.start(grid, arrays, ...)`` write

    server = jfu.live.Server("federation", jfu.by_path(r"conv1\\..*"))
    result = jfu.flower.start(strategy, grid, arrays, server, ...)

``strategy`` is any of Flower's Message API. ClientApps and SuperNodes stay as they are.

- A node that left is hidden from the strategy, so it is neither sampled nor asked.
- After a negation the strategy begins anew: moments of the old model are gone, and it counts its
  rounds from 1, since FedAdam's steps and clients' schedules depend on that count.
- During ``server.warmup`` rounds the rate in the clients' configuration is lowered (``rate``).
- A node's accuracy is what its ``@app.evaluate()`` reports (``accuracy``).

The rules are those of ``jfu.live``, which knows nothing of Flower. This module translates.
Flower: Beutel et al. Flower: A Friendly Federated Learning Research Framework. arXiv 2007.14390.
"""

import hashlib
import timeit
from collections.abc import Callable, Iterable, Mapping
from logging import INFO, WARNING
from typing import TYPE_CHECKING, Any

import numpy as np

from jfu import live

if TYPE_CHECKING:
    from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
    from flwr.proto.node_pb2 import NodeInfo
    from flwr.server import LegacyContext
    from flwr.server.workflow import DefaultWorkflow
    from flwr.serverapp import Grid
    from flwr.serverapp.strategy import Result, Strategy


def start(
    strategy: "Strategy",
    grid: "Grid",
    initial_arrays: "ArrayRecord",
    server: live.Server,
    *,
    num_rounds: int = 3,
    timeout: float = 3600,
    train_config: "ConfigRecord | None" = None,
    evaluate_config: "ConfigRecord | None" = None,
    evaluate_fn: "Callable[[int, ArrayRecord], MetricRecord | None] | None" = None,
    accuracy: str = "accuracy",
    examples: str = "num-examples",
    rate: str = "lr",
) -> "Result":
    """Runs a federation as ``strategy.start`` does, and answers requests between its rounds.

    A server that was killed goes on from its folder with the same command. ``num_rounds`` counts
    all rounds since the folder was made. A recovery that has not ended by then still ends.

    Args:
      strategy: from Flower, or of your own.
      server: its folder, what is negated, and the rules (``jfu.live.Server``).
      num_rounds, timeout, train_config, evaluate_config, evaluate_fn: as in ``strategy.start``.
      accuracy, examples: the names of a node's own accuracy and of its number of examples in the
        replies of ``@app.evaluate()``.
      rate: the name of the learning rate in ``train_config``.

    Returns:
      Flower's result: the last model, and metrics by round.

    Raises:
      ValueError: as ``jfu.live.resume``, or a warm-up of a rate that ``train_config`` has not.
      RuntimeError: another server works in the folder.
    """
    from flwr.app import ConfigRecord
    from flwr.serverapp.strategy import Result

    train, evaluate = dict(train_config or {}), dict(evaluate_config or {})
    if server.warmup and not isinstance(train.get(rate), float):
        raise ValueError(
            f"a warm-up lowers the rate {rate!r} of train_config, which has {sorted(train)}; add "
            "it, name another with rate=, or give no warm-up"
        )
    result, blank = Result(), [dict(vars(one)) for one in layers(strategy)]
    with live.locked(server):
        model, standing = live.resume(server, arrays_of(initial_arrays))
        remember(strategy, live.beside(server))
        strategy.summary()
        if evaluate_fn and not standing.round:
            _keep(result.evaluate_metrics_serverapp, 0, evaluate_fn(0, record_of(model)))
        while live.goes_on(standing, num_rounds):
            before, nodes = set(standing.open), nodes_of(grid)
            model, standing = live.begin(server, model, standing, nodes, memory(strategy))
            _tell(standing, strategy, nodes)
            if set(standing.open) - before:
                forget(strategy, blank)
            number, arrays = standing.round + 1, record_of(model)
            those: Any = Staying(grid, standing)  # a grid in all that strategies ask of one
            count = number - standing.negated
            warm = live.warm(standing, server.warmup)
            config = ConfigRecord(train | ({rate: train[rate] * warm} if warm < 1 else {}))
            asked = strategy.configure_train(count, arrays, config, those)
            new, metrics = strategy.aggregate_train(count, those.exchange(asked, timeout))
            _keep(result.train_metrics_clientapp, number, metrics)
            arrays = arrays if new is None else new
            config = ConfigRecord(evaluate)
            asked = strategy.configure_evaluate(count, arrays, config, those)
            replies = those.exchange(asked, timeout)
            metrics = strategy.aggregate_evaluate(count, replies)
            _keep(result.evaluate_metrics_clientapp, number, metrics)
            model, found = arrays_of(arrays), accuracies_of(replies, accuracy, examples)
            standing = live.end(server, model, standing, found, memory(strategy))
            _tell(standing)
            if evaluate_fn:
                _keep(result.evaluate_metrics_serverapp, number, evaluate_fn(number, arrays))
        result.arrays = record_of(model)
    return result


def start_workflow(
    workflow: "DefaultWorkflow",
    grid: "Grid",
    context: "LegacyContext",
    server: live.Server,
    *,
    accuracy: str = "accuracy",
) -> dict[str, np.ndarray]:
    """Runs a workflow of Flower's older strategies, and answers requests between its rounds.

    Flower has secure aggregation there. In a ServerApp, this replaces ``workflow(grid, context)``:

        workflow = DefaultWorkflow(fit_workflow=SecAggPlusWorkflow(3, 2))
        context = LegacyContext(context, ServerConfig(num_rounds=100), strategy)
        server = jfu.live.Server("federation", [0, 1])
        model = jfu.flower.start_workflow(workflow, grid, context, server)

    Only the sum of the clients' models is seen. Older models are lists, so ``server.select`` has
    positions, or patterns of ``"0"``, ``"1"``, ... A strategy's memory is neither kept nor cleared,
    and a warm-up is the strategy's own (``on_fit_config_fn``).

    Args:
      accuracy: the name of a node's own accuracy in the metrics of its ``evaluate``.

    Returns:
      the last model.

    Raises:
      ValueError: as ``jfu.live.resume``, or the server has a warm-up.
    """
    from flwr.app import ConfigRecord
    from flwr.server.compat.app_utils import start_update_client_manager_thread
    from flwr.server.workflow.constant import MAIN_CONFIGS_RECORD, MAIN_PARAMS_RECORD, Key
    from flwr.server.workflow.default_workflows import default_init_params_workflow

    if server.warmup:
        raise ValueError("a workflow has no warm-up here; let on_fit_config_fn lower the rate")
    seen: Any = Older(grid, live.Standing())
    state = context.state
    config = ConfigRecord({Key.START_TIME: timeit.default_timer()})
    state.config_records[MAIN_CONFIGS_RECORD] = config
    with live.locked(server):
        thread, stop, ready = start_update_client_manager_thread(seen, context.client_manager)
        ready.wait()
        default_init_params_workflow(seen, context)
        model, standing = live.resume(server, arrays_of(state.array_records[MAIN_PARAMS_RECORD]))
        while live.goes_on(standing, context.config.num_rounds):
            model, standing = live.begin(server, model, standing, nodes_of(grid))
            _tell(standing)
            seen.standing, seen.replies = standing, []
            config[Key.CURRENT_ROUND] = standing.round + 1 - standing.negated
            state.array_records[MAIN_PARAMS_RECORD] = record_of(model)
            workflow.fit_workflow(seen, context)
            workflow.evaluate_workflow(seen, context)
            model = arrays_of(state.array_records[MAIN_PARAMS_RECORD])
            standing = live.end(server, model, standing, older_accuracies(seen.replies, accuracy))
            _tell(standing)
        stop.set()
        thread.join()
    return model


class Staying:
    """A grid that shows the nodes that stay, and sends to no other."""

    def __init__(self, grid: "Grid", standing: live.Standing):
        self._grid, self.standing = grid, standing

    def __getattr__(self, name: str) -> Any:
        return getattr(self._grid, name)

    def get_nodes(self) -> "list[NodeInfo]":
        return [n for n in self._grid.get_nodes() if live.stays(self.standing, node_of(n))]

    def get_node_ids(self) -> list[int]:
        return [node.node_id for node in self.get_nodes()]

    def exchange(self, messages: "Iterable[Message]", timeout: float | None) -> "list[Message]":
        """Messages to nodes that stay, and their replies; others are dropped."""
        there = set(self.get_node_ids())
        some = [m for m in messages if m.metadata.dst_node_id in there]
        return list(self._grid.send_and_receive(some, timeout=timeout)) if some else []


class Older(Staying):
    """The same for workflows, which send by themselves; the last replies are kept."""

    replies: "Iterable[Message]" = ()

    def send_and_receive(
        self, messages: "Iterable[Message]", *, timeout: float | None = None
    ) -> "list[Message]":
        self.replies = self.exchange(messages, timeout)
        return self.replies


def arrays_of(record: "ArrayRecord") -> dict[str, np.ndarray]:
    """The arrays of a record by their names."""
    return {name: array.numpy() for name, array in record.items()}


def record_of(arrays: Mapping[str, np.ndarray]) -> "ArrayRecord":
    """The record of arrays, in their order."""
    from flwr.app import Array, ArrayRecord

    return ArrayRecord({name: Array(np.asarray(a)) for name, a in arrays.items()})


def node_of(info: "NodeInfo") -> live.Node:
    """A node as ``jfu.live`` knows it: its id, the digest of its public key, its name."""
    key, name = info.public_key, getattr(info, "name", "")
    return live.Node(str(info.node_id), hashlib.sha256(key).hexdigest() if key else "", name)


def nodes_of(grid: "Grid") -> list[live.Node]:
    """The nodes of a federation that are there."""
    return [node_of(info) for info in grid.get_nodes()]


def accuracies_of(
    replies: "Iterable[Message]", accuracy: str, examples: str
) -> dict[str, tuple[float, float]]:
    """Node -> (accuracy, examples), of the replies that have both."""
    found = {}
    for reply in replies:
        for metrics in [] if reply.has_error() else reply.content.metric_records.values():
            if accuracy in metrics and examples in metrics:
                values: list[Any] = [metrics[accuracy], metrics[examples]]
                found[str(reply.metadata.src_node_id)] = float(values[0]), float(values[1])
    return found


def older_accuracies(replies: "Iterable[Message]", accuracy: str) -> dict[str, tuple[float, float]]:
    """The same, of the replies of Flower's older clients to ``evaluate``."""
    from flwr.compat.common.recorddict_compat import recorddict_to_evaluateres

    found = {}
    for reply in replies:
        if not reply.has_error() and reply.metadata.message_type == "evaluate":
            told = recorddict_to_evaluateres(reply.content)
            if accuracy in told.metrics:
                values: Any = told.metrics[accuracy], told.num_examples
                found[str(reply.metadata.src_node_id)] = float(values[0]), float(values[1])
    return found


def layers(strategy: "Strategy") -> list[Any]:
    """A strategy and those inside it, as Flower's strategies for privacy have one."""
    inside = getattr(strategy, "strategy", None)
    return [strategy, *(layers(inside) if inside is not None else [])]


def memory(strategy: "Strategy") -> dict[str, np.ndarray]:
    """The arrays that a strategy keeps from round to round, such as moments of FedAdam.

    These are its attributes that are a record, a dictionary or a list of arrays. The names say
    where each belongs: the strategy's depth, its attribute, the kind, the place and the key.
    """
    found = {}
    for depth, one in enumerate(layers(strategy)):
        for name, value in vars(one).items():
            kind, some = _arrays_in(value)
            for place, (key, array) in enumerate(some.items()):
                found[f"{depth}/{name}/{kind}/{place}/{key}"] = array
    return found


def _arrays_in(value: Any) -> tuple[str, dict[Any, np.ndarray]]:
    """The kind of a collection of arrays, and these by key; nothing of anything else."""
    if type(value).__name__ == "ArrayRecord":
        return "record", arrays_of(value)
    if not isinstance(value, dict | list):
        return "", {}
    kind, some = ("dict", value) if isinstance(value, dict) else ("list", dict(enumerate(value)))
    whole = all(isinstance(array, np.ndarray) for array in some.values())
    return (kind, some) if whole else ("", {})


def remember(strategy: "Strategy", arrays: Mapping[str, np.ndarray]) -> None:
    """Gives a strategy the arrays of ``memory`` back, in their order."""
    found: dict[tuple[int, str, str], list[tuple[int, str, np.ndarray]]] = {}
    for path, array in arrays.items():
        depth, name, kind, place, key = path.split("/", 4)
        found.setdefault((int(depth), name, kind), []).append((int(place), key, array))
    for (depth, name, kind), some in found.items():
        named = {key: array for _, key, array in sorted(some, key=lambda one: one[0])}
        made = dict(record=record_of, dict=dict, list=lambda named: list(named.values()))
        setattr(layers(strategy)[depth], name, made[kind](named))


def forget(strategy: "Strategy", blank: list[dict[str, Any]]) -> None:
    """Sets what ``memory`` finds back to what it was at the start; nothing else."""
    for one, values in zip(layers(strategy), blank, strict=True):
        for name in [name for name, value in vars(one).items() if _arrays_in(value)[1]]:
            setattr(one, name, values.get(name))


def _keep(metrics: dict[int, Any], number: int, value: Any) -> None:
    if value is not None:
        metrics[number] = value


def _tell(
    standing: live.Standing, strategy: "Strategy | None" = None, nodes: Iterable[live.Node] = ()
) -> None:
    """Logs what was decided, and whether the strategy waits for more nodes than stay."""
    from flwr.supercore import log

    for line in standing.lines:
        log(INFO, "[REQUEST] %s", live.in_words(line))
    if standing.lines and strategy is not None:
        there = sum(live.stays(standing, node) for node in nodes)
        names = ("min_available_nodes", "min_train_nodes", "min_evaluate_nodes")
        wanted = max(getattr(layers(strategy)[-1], name, 0) for name in names)
        if there < wanted:
            log(
                WARNING,
                "%s nodes stay, and the strategy waits for %s; it goes on once others connect",
                there,
                wanted,
            )
