"""The table of clients on an audit's page."""

import re

from launch.report import by_client

NAMES = ("original", "retrain", "retrain_again", "retrain_third", "finetune", "not")


def test_clients_that_lost_most_come_first():
    """Client 7 lost ten points under one answer, against the mean of both retrained models."""
    each = {name: {str(c): 90.0 for c in range(1, 30)} for name in NAMES}
    each["retrain"]["7"], each["retrain_again"]["7"], each["not"]["7"] = 94.0, 96.0, 85.0
    (text,) = by_client.table(dict(clients=each))
    rows = re.findall(r'<th scope="row">(\w+)</th>(.*?)</tr>', text)
    assert [place for place, _ in rows] == ["1st", "2nd", "3rd", *(f"{n}th" for n in range(4, 21))]
    heads = re.findall(r'<th scope="col">(.*?)</th>', text)
    assert heads == ["client", "before", "retraining", "finetune", "NoT"]
    assert re.findall(r">([\d.]+)<", rows[0][1]) == ["90.0", "95.0", "90.0", "85.0"]
    assert re.findall(r">([\d.]+)<", rows[1][1]) == ["90.0"] * 4
    assert "audit.json has 9 that lost less, and the clients' numbers" in text
    assert not re.search(r"client \d", text)


def test_no_table_where_single_clients_must_not_be_seen_or_nobody_answered():
    assert by_client.table({}) == by_client.table(dict(clients={})) == []
    assert by_client.table(dict(clients=dict(retrain={"1": 90.0}))) == []
