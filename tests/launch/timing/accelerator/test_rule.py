"""The rule for clients at once, judged by made-up measurements."""

import pytest

import jfu
from launch.timing.accelerator import rule


def row(job, strategy, at_once, seconds, *, clients=100, parameters=2**20, **more):
    common = dict(job=job, name="jfu", precision="tf32", large=False, clients=clients)
    common |= dict(parameters=parameters, at_once_by_rule=100)
    return common | dict(strategy=strategy, at_once=at_once, seconds_median=seconds) | more


def test_it_is_the_library_rule_with_another_limit():
    limit = jfu.devices.PARAMETERS_AT_ONCE["gpu"]
    for clients in (1, 7, 100):
        for parameters in (1, 800_000, 11_000_000, 86_000_000, 2**30):
            ours = rule.at_once(limit, clients, parameters)
            assert ours == jfu.clients_at_once("gpu", clients, parameters)


def test_costs_and_proposal_by_hand():
    """2^20 parameters; ten at once are fastest. 2^24 allows 16, so 15 in seven chunks."""
    rows = [row("a", "1x0", 100, 4.0), row("a", "1x10", 10, 1.0), row("a", "1x1", 1, 2.0)]
    assert rule.cost(2**28, rows) == 4.0
    assert rule.cost(2**24, rows) == 1.0
    assert rule.cost(2**20, rows) == 2.0
    found = rule.proposal(rows, 2**28)
    # 2^25 allows 32, so 25: nearer to 10 than to 100. 2^26 allows 64, so 50: nearer to 100.
    assert found == dict(limit=2**28, cost=4.0, proposed=2**25, proposed_cost=1.0, jobs=1)
    assert "A limit of 33,554,432 would cost 1.00" in rule.markdown(rows, 2**28)


def test_a_second_job_weighs_as_much():
    """Another job is fastest all at once, four times: the costs multiply to the same."""
    rows = [row("a", "1x0", 100, 2.0), row("a", "1x1", 1, 1.0)]
    rows += [row("b", "1x0", 100, 1.0), row("b", "1x1", 1, 9.0)]
    found = rule.proposal(rows, 2**28)
    assert found["cost"] == pytest.approx(2**0.5) and found["proposed"] == 2**28


def test_other_convolutions_and_batches_are_no_choice_of_the_rule():
    rows = [row("a", "1x0", 100, 2.0), row("a", "1x0:product", 100, 0.5), row("a", "1x1", 1, 1.0)]
    rows += [row("a", "1x1", 1, 0.1, large=True), row("a", "1x1", 1, 0.1, name="central")]
    assert rule.cost(2**28, rule.groups(rows)[0]) == 2.0
    line = next(line for line in rule.markdown(rows, 2**28).splitlines() if "product" in line)
    assert [v.strip() for v in line.split("|")[3:8]] == [
        "1x0",
        "2.00",
        "1x1",
        "1x0:product",
        "0.50",
    ]


def test_without_two_ways_nothing_is_proposed():
    failed = row("a", "1x1", 1, None)
    assert rule.proposal([row("a", "1x0", 100, 1.0), failed], 2**28)["jobs"] == 0
    assert "the rule stays" in rule.markdown([], 2**28)
