"""A live federation without any framework: requests, who stays, negation, recovery, the ledger."""

import json

import numpy as np
import pytest

import jfu
import jfu.io
import jfu.ledger
from jfu import live

NODES = [live.Node("1", "aa"), live.Node("2", "bb", "clinic"), live.Node("3")]
TORCH = {
    "conv1.weight": np.array([[1.5, -0.0], [np.inf, 3e-40]], np.float32),
    "conv1.bias": np.array([-2.0], np.float16),
    "bn1.num_batches_tracked": np.array(2**40 + 1),
    "fc.weight": np.array([4.0, 5.0]),
}


def bits(model):
    return {name: (a.dtype.name, a.tobytes()) for name, a in model.items()}


def ask(server, *lines):
    with open(server.path("requests.jsonl"), "a") as file:
        file.writelines(json.dumps(line) + "\n" for line in lines)


def events(server):
    return [line["event"] for line in jfu.ledger.read(server.path("ledger.jsonl"))]


def refusals(server):
    lines = jfu.ledger.read(server.path("ledger.jsonl"))
    return {line["request"]: line["why"] for line in lines if line["event"] == "refused"}


@pytest.fixture
def server(tmp_path):
    return live.Server(tmp_path, jfu.by_path(r"conv1\..*"), most=3)


def standing_of(*nodes):
    return live.met(live.Standing(), nodes or NODES)


def test_a_torch_model_is_negated_by_name_to_the_bit():
    picked = live.chosen(TORCH, jfu.by_path(r"conv1\..*"))
    once = live.negated(TORCH, picked)
    assert picked == ["conv1.weight", "conv1.bias"] and list(once) == list(TORCH)
    for name, a in TORCH.items():
        kind = np.dtype(f"u{a.dtype.itemsize}")
        flipped = a.view(kind) ^ np.array(1 << 8 * a.dtype.itemsize - 1, kind)
        expected = flipped if name in picked else a.view(kind)
        assert np.array_equal(once[name].view(kind), expected), name
    assert bits(live.negated(once, picked)) == bits(TORCH)


def test_positions_and_names_pick_alike():
    assert live.chosen(TORCH, [1, 0]) == live.chosen(TORCH, jfu.by_path(r"conv1\..*"))
    assert live.chosen(TORCH, [-1]) == ["fc.weight"]
    assert live.chosen(TORCH, None) == []


@pytest.mark.parametrize(
    "select, words",
    [
        ([4], "position 4 is beyond the model's 4 arrays"),
        ([], "picks no array"),
        (jfu.by_path("conv1"), "the names are conv1.weight, conv1.bias"),
    ],
)
def test_a_choice_of_nothing_is_refused(select, words):
    with pytest.raises(ValueError, match=words):
        live.chosen(TORCH, select)


def test_what_has_no_sign_is_not_picked():
    with pytest.raises(ValueError, match="bool, which has no sign"):
        live.chosen({"mask": np.array([True])}, [0])


def test_a_request_by_id_key_or_name_takes_out_the_same_node(server):
    found = []
    for number, word in enumerate(("2", "bb", "clinic")):
        request = live.Request(str(number), (word,), digest=str(number))
        standing = live.decided(standing_of(), [request])
        found.append([live.stays(standing, node) for node in NODES])
        assert not live.stays(standing, live.Node("77", "bb"))  # the same key under another id
    assert found == [[True, False, True]] * 3


@pytest.mark.parametrize(
    "line, words",
    [
        ({"id": "a", "forget": []}, "it names nobody"),
        ({"id": "a", "forget": ["1", "2", "3"]}, "it names everybody"),
        ({"id": "a", "forget": ["4"]}, "never seen; it has seen 1, 2, 3"),
        ({"id": "a", "returns": ["1"]}, "which has not left"),
        ({"id": "a"}, "either forget or returns"),
        ({"id": "a", "forget": "1"}, "either forget or returns"),
        ({"id": "a", "forget": [True]}, "text or a whole number"),
        ({"forget": ["1"]}, "it has no id"),
        ([], "no JSON object"),
    ],
)
def test_an_impossible_request_is_refused_in_one_sentence(server, line, words):
    ask(server, line)
    model, standing = live.begin(server, TORCH, live.Standing(round=1), NODES)
    (why,) = refusals(server).values()
    assert words in why and "\n" not in why
    assert bits(model) == bits(TORCH) and all(live.stays(standing, node) for node in NODES)
    live.begin(server, model, standing, NODES)
    assert events(server) == ["refused"]  # once


def test_two_nodes_of_one_name_are_refused_by_that_name():
    twins = standing_of(live.Node("1", "aa", "x"), live.Node("2", "bb", "x"), live.Node("3"))
    (line,) = live.decided(twins, [live.Request("a", ("x",), digest="d")]).lines
    assert line["why"] == "x is the name of several nodes; name them by their ids"


def test_a_line_counts_once_its_end_is_written(tmp_path):
    path = tmp_path / "requests.jsonl"
    whole = b'{"id": 7, "forget": [12, "ab"], "received": "today"}\nno json\n\n'
    path.write_bytes(whole + b'{"id": "8", "forget": ["1"]}')
    first, second = live.read(path)
    assert (first.id, first.forget, first.wrong) == ("7", ("12", "ab"), "")
    assert second.id == "requests.jsonl:2" and "no JSON" in second.wrong
    path.write_bytes(whole + b'{"id": "8", "forget": ["1"]}\n')
    assert [request.id for request in live.read(tmp_path)] == ["7", "requests.jsonl:2", "8"]
    assert live.read(tmp_path / "none") == []


def test_an_id_is_used_once(server):
    ask(server, {"id": "a", "forget": ["1"]})
    ask(server, {"id": "a", "forget": ["1"], "received": "again"})  # the same request
    ask(server, {"id": "a", "forget": ["2"]})
    _, standing = live.begin(server, TORCH, live.Standing(), NODES)
    assert [live.stays(standing, node) for node in NODES] == [False, True, True]
    assert "another request has the id a" in refusals(server)["a"]


def test_before_the_first_round_a_request_waits_for_its_node(server):
    ask(server, {"id": "a", "forget": ["3"]})
    _, standing = live.begin(server, TORCH, live.Standing(), NODES[:2])
    assert not server.path("ledger.jsonl").exists()
    _, standing = live.begin(server, TORCH, standing._replace(round=1), NODES)
    assert events(server) == ["asked", "negated"]


def rounds(server, model, standing, accuracies, nodes=NODES, model_of=lambda model: model):
    """Rounds that leave the model as it is, with these accuracies of all who stay."""
    for accuracy in accuracies:
        model, standing = live.begin(server, model, standing, nodes)
        found = {n.id: (accuracy, 10) for n in nodes if live.stays(standing, n)}
        model = model_of(model)
        standing = live.end(server, model, standing, found)
    return model, standing


def test_recovery_ends_once_the_accuracy_is_regained(server):
    model, standing = rounds(server, TORCH, live.Standing(), [0.5, 0.9])
    ask(server, {"id": "a", "forget": ["2"]})
    model, standing = rounds(server, model, standing, [0.1])
    assert list(standing.open) == ["a"] and standing.negated == 2
    assert [live.warm(standing, 4), live.warm(standing, 0)] == [0.5, 1.0]
    model, standing = rounds(server, model, standing, [0.896])  # 0.4 points below 0.9
    assert not standing.open and live.warm(standing, 4) == 1
    asked, negated, answered = jfu.ledger.read(server.path("ledger.jsonl"))
    assert asked["nodes"] == [{"id": "2", "key": "bb"}] and asked["from"] == jfu.io.digest(TORCH)
    assert negated["arrays"] == ["conv1.weight", "conv1.bias"]
    assert (negated["from"], negated["made"]) == (jfu.io.digest(TORCH), jfu.io.digest(model))
    assert (answered["rounds"], answered["regained"], answered["method"]) == (2, True, "not")
    assert (answered["before"], answered["after"]) == ({"retain": 90.0}, {"retain": 89.6})
    assert answered["model"] == jfu.ledger.digest(server.path("model.safetensors"))


@pytest.mark.parametrize("accuracy, done", [(0.8951, True), (0.8949, False)])
def test_half_a_point_may_be_missing(server, accuracy, done):
    model, standing = rounds(server, TORCH, live.Standing(), [0.9])
    ask(server, {"id": "a", "forget": ["2"]})
    _, standing = rounds(server, model, standing, [accuracy])
    assert bool(standing.open) != done


def test_only_nodes_that_stay_are_compared(server):
    standing = live.end(
        server, TORCH, standing_of(), {"1": (0.6, 30), "2": (1.0, 99), "3": (0.9, 10)}
    )
    ask(server, {"id": "a", "forget": ["2"]})
    model, standing = live.begin(server, TORCH, standing, NODES)
    standing = live.end(server, model, standing, {"1": (0.7, 30)})  # node 3 does not answer
    (answered,) = jfu.ledger.read(server.path("ledger.jsonl"))[2:]
    assert (answered["before"], answered["after"]) == ({"retain": 60.0}, {"retain": 70.0})


def test_recovery_has_a_budget(server):
    ask(server, {"id": "a", "forget": ["2"]})
    model, standing = live.begin(server, TORCH, live.Standing(), NODES)
    for number in range(server.most):
        assert live.goes_on(standing, 0), number
        standing = live.end(server, model, standing, {})  # nobody evaluates
    assert not live.goes_on(standing, 0)
    assert jfu.ledger.read(server.path("ledger.jsonl"))[-1]["regained"] is False


def test_requests_at_once_negate_once_and_later_ones_again(server):
    model, standing = rounds(server, TORCH, live.Standing(), [0.9])
    more = [*NODES, live.Node("4"), live.Node("5")]
    ask(server, {"id": "a", "forget": ["2"]}, {"id": "b", "forget": ["3"]})
    model, standing = live.begin(server, model, standing, more)
    assert bits(model) == bits(live.negated(TORCH, ["conv1.weight", "conv1.bias"]))
    standing = live.end(server, model, standing, {"1": (0.2, 10)})
    ask(server, {"id": "c", "forget": ["4"]})
    model, standing = live.begin(server, model, standing, more)
    assert bits(model) == bits(TORCH)  # the model of then, negated once more
    assert standing.before["1"] == [0.9, 10]  # not that of the unfinished recovery
    live.end(server, model, standing, {"1": (0.9, 10)})
    answered = jfu.ledger.read(server.path("ledger.jsonl"))[-3:]
    assert [(line["request"], line["rounds"]) for line in answered] == [
        ("a", 2),
        ("b", 2),
        ("c", 1),
    ]


def test_a_node_returns_once_its_request_is_answered(server):
    model, standing = rounds(server, TORCH, live.Standing(), [0.9])
    ask(server, {"id": "a", "forget": ["2"]}, {"id": "b", "returns": ["clinic"]})
    model, standing = rounds(server, model, standing, [0.1])
    assert "not answered yet" in refusals(server)["b"]
    model, standing = rounds(server, model, standing, [0.9])
    ask(server, {"id": "c", "returns": ["clinic"]})
    model, standing = rounds(server, model, standing, [0.9])
    assert all(live.stays(standing, node) for node in NODES)
    ask(server, {"id": "d", "forget": ["2"]})
    _, standing = rounds(server, model, standing, [0.1])
    assert not live.stays(standing, NODES[1])
    assert events(server)[-3:] == ["returned", "asked", "negated"]


def test_nobody_leaves_twice(server):
    ask(server, {"id": "a", "forget": ["2"]}, {"id": "b", "forget": ["2"]})
    live.begin(server, TORCH, live.Standing(), NODES)
    assert "all have left before" in refusals(server)["b"]


@pytest.mark.parametrize("after", ["checkpoint", "model", "line", "all"])
def test_a_server_killed_in_the_middle_of_a_step_goes_on(server, after, monkeypatch):
    """Whatever of a step was written, the next start ends it and does nothing twice."""

    class Killed(BaseException):
        pass

    def no(*args, **kwargs):
        raise Killed

    model, standing = rounds(server, TORCH, live.Standing(), [0.9])
    ask(server, {"id": "a", "forget": ["2"]}, {"id": "b", "forget": ["9"]})
    add = jfu.ledger.append
    once = iter([add])
    stops = dict(
        checkpoint=(live.server, "_write", no),
        model=(jfu.ledger, "append", no),
        line=(jfu.ledger, "append", lambda *a, **k: next(once, no)(*a, **k)),
    )
    if after in stops:
        with monkeypatch.context() as patch:
            patch.setattr(*stops[after])
            with pytest.raises(Killed):
                live.begin(server, model, standing, NODES)
    else:
        live.begin(server, model, standing, NODES)
    again, standing = live.resume(server, TORCH)
    assert bits(again) == bits(live.negated(TORCH, ["conv1.weight", "conv1.bias"]))
    again, standing = live.begin(server, again, standing, NODES)
    assert bits(again) == bits(live.negated(TORCH, ["conv1.weight", "conv1.bias"]))
    assert events(server) == ["asked", "refused", "negated"]
    if after in stops:
        with monkeypatch.context() as patch:
            patch.setattr(*stops[after])
            once = iter([no])
            with pytest.raises(Killed):
                live.end(server, again, standing, {"1": (0.9, 10)})
    _, standing = live.resume(server, TORCH)
    if after in stops:
        assert standing.round == 2 and not standing.open
        assert events(server)[3:] == ["answered"]
        line = jfu.ledger.read(server.path("ledger.jsonl"))[-1]
        assert line["model"] == jfu.ledger.digest(server.path("model.safetensors"))


def test_arrays_beside_the_model_are_kept_until_a_negation(server):
    moments = {"m": np.array([1, 2**40])}
    live.end(server, TORCH, standing_of(), {}, moments)
    assert bits(live.beside(server)) == bits(moments)
    model, standing = live.resume(server, TORCH)
    assert bits(model) == bits(TORCH)
    ask(server, {"id": "a", "forget": ["9"]})
    model, standing = live.begin(server, model, standing, NODES, moments)
    assert bits(live.beside(server)) == bits(moments)
    ask(server, {"id": "b", "forget": ["2"]})
    live.begin(server, model, standing, NODES, moments)
    assert live.beside(server) == {}


def test_a_folder_of_another_model_is_refused(server):
    live.end(server, TORCH, standing_of(), {})
    with pytest.raises(ValueError, match="another folder"):
        live.resume(server, TORCH | {"fc.weight": np.zeros(3)})


def test_a_changed_checkpoint_is_refused(server):
    live.end(server, TORCH, standing_of(), {})
    path = server.path("checkpoint.safetensors")
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match="was changed since it was written"):
        live.resume(server, TORCH)


def test_a_folder_has_one_server_at_a_time(server):
    with live.locked(server), pytest.raises(RuntimeError, match="another server works in"):
        live.locked(server).__enter__()
    with live.locked(server):
        pass


def test_a_ledger_is_kept_with_a_key(server):
    secret = b"0123456789abcdef"
    ask(server, {"id": "a", "forget": ["2"]})
    live.begin(server._replace(key=secret), TORCH, live.Standing(), NODES)
    assert len(jfu.ledger.read(server.path("ledger.jsonl"), key=secret)) == 2
    with pytest.raises(ValueError, match="kept with a key"):
        jfu.ledger.append(server.path("ledger.jsonl"), dict(event="x"))
