"""The table of clients on an audit's page."""

import re

from launch.report import by_client

NAMES = ("original", "retrain", "retrain_again", "retrain_third", "finetune", "not")


def test_clients_that_lost_most_come_first():
    """Client 7 lost ten points under one answer, against the mean of both retrained models."""
    each = {name: {str(c): 90.0 for c in range(1, 30)} for name in NAMES}
    each["retrain"]["7"], each["retrain_again"]["7"], each["not"]["7"] = 94.0, 96.0, 85.0
    (text,) = by_client.table(dict(clients=each))
    rows = re.findall(r'<th scope="row">client (\d+)</th>(.*?)</tr>', text)
    assert [int(client) for client, _ in rows] == [7, *range(1, 7), *range(8, 21)]
    heads = re.findall(r'<th scope="col">(.*?)</th>', text)
    assert heads == ["client", "before", "retraining", "finetune", "NoT"]
    assert re.findall(r">([\d.]+)<", rows[0][1]) == ["90.0", "95.0", "90.0", "85.0"]
    assert "9 that lost less are in audit.json" in text


def test_no_table_where_single_clients_must_not_be_seen_or_nobody_answered():
    assert by_client.table({}) == by_client.table(dict(clients={})) == []
    assert by_client.table(dict(clients=dict(retrain={"1": 90.0}))) == []
