"""Prometheus' and Grafana's files: every metric that they name is made by the code, or was seen of Ray."""

import copy
import json

import pytest
import yaml

from tests.cluster.checks import CLUSTER
from tests.cluster.metrics import check_alerts, check_dashboard, check_expression, check_scrapes, known_metrics

DASHBOARD = json.loads((CLUSTER / "grafana.json").read_text())
ALERTS = yaml.safe_load((CLUSTER / "alerts.yaml").read_text())
SCRAPES = yaml.safe_load((CLUSTER / "prometheus.yaml").read_text())


def test_the_files_name_what_there_is() -> None:
    check_dashboard(DASHBOARD)
    check_alerts(ALERTS)
    check_scrapes(SCRAPES)


def test_the_dashboard_shows_all_that_the_service_counts() -> None:
    asked = json.dumps(DASHBOARD)
    ours = {name for name in known_metrics() if name.startswith("ray_balletal_")}
    families = {name.removesuffix("_bucket").removesuffix("_sum").removesuffix("_count") for name in ours}
    assert len(families) == 9
    assert not {family for family in families if family not in asked}
    rows = [panel["title"] for panel in DASHBOARD["panels"] if panel["type"] == "row"]
    assert len(rows) == 7


@pytest.mark.parametrize(
    ("expression", "said"),
    [
        ("rate(ray_balletal_request_total[5m])", "no such metric"),
        ("rate(balletal_requests_total[5m])", "no such metric"),  # without Ray's prefix
        ("ray_balletal_extract_video_hours_per_hour", "no such metric"),  # a gauge, which comes and goes
        ("sum(rate(ray_balletal_requests_total[5m])", "brackets"),
        ("sum by (stage) (rate(ray_balletal_requests_total[5m]))", "no such label"),
        ('ray_balletal_problems_total{kind="busy"}', "no label kind"),
        ('ray_balletal_problems_total{type="urn:balletal:busy"}', "is never"),
        ('ray_balletal_requests_total{route="/v1/localise"}', "is never"),
        ('ray_serve_batch_queue_length{deployment="Localiser"}', "is never"),
    ],
)
def test_a_mistake_in_an_expression_is_found(expression: str, said: str) -> None:
    with pytest.raises(AssertionError, match=said):
        check_expression(expression)


def test_mistakes_around_expressions_are_found() -> None:
    dashboard = copy.deepcopy(DASHBOARD)
    dashboard["panels"][2]["gridPos"]["x"] = 0
    with pytest.raises(AssertionError, match="lies on another"):
        check_dashboard(dashboard)
    dashboard = copy.deepcopy(DASHBOARD)
    dashboard["panels"][1]["datasource"]["uid"] = "prometheus"
    with pytest.raises(AssertionError, match="Requests"):
        check_dashboard(dashboard)
    alerts = copy.deepcopy(ALERTS)
    alerts["groups"][0]["rules"][0]["expression"] = alerts["groups"][0]["rules"][0].pop("expr")
    with pytest.raises(AssertionError, match="ServiceDown"):
        check_alerts(alerts)
    scrapes = copy.deepcopy(SCRAPES)
    del scrapes["scrape_configs"][2]["metric_relabel_configs"][0]
    with pytest.raises(AssertionError, match="twice"):
        check_scrapes(scrapes)
