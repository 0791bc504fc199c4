"""Alerts and dashboard use only metrics recorded from exporters; see tests/exporters.py."""

import json
import re
from typing import Any

import pytest
import yaml

from tests.commands import ROOT
from tests.exporters import METRICS

FILES = ROOT / "helm" / "llava-av" / "files" / "monitoring"
DASHBOARD: dict[str, Any] = json.loads((FILES / "dashboard.json").read_text())
KEYWORDS = {"and", "or", "unless", "by", "without", "on", "ignoring", "group_left", "bool", "offset", "Inf"}


def expressions() -> dict[str, str]:
    """PromQL by where it is."""
    groups = yaml.safe_load((FILES / "alerts.yaml").read_text())["groups"]
    found = {rule["alert"]: rule["expr"] for group in groups for rule in group["rules"]}
    for panel in DASHBOARD["panels"]:
        found |= {f"{panel['title']}, {target['refId']}": target["expr"] for target in panel["targets"]}
    return found


def metric_names(expression: str) -> set[str]:
    """Names of metrics in PromQL: words that are no function, label, number with a unit or keyword."""
    bare = re.sub(r"\{[^}]*\}|\[[^]]*\]|\b(by|without|on|ignoring)\s*\([^)]*\)", " ", expression)
    words = re.findall(r"[a-zA-Z_:][a-zA-Z0-9_:]*(?!\s*\(|[a-zA-Z0-9_:])", bare)
    return set(words) - KEYWORDS


def known() -> set[str]:
    return {name for file in METRICS.glob("*.txt") for name in file.read_text().split()}


@pytest.mark.parametrize("place", expressions())
def test_every_metric_is_there(place: str) -> None:
    expression = expressions()[place]
    names = metric_names(expression)
    assert names
    assert names <= known()
    # Of several teams in one Prometheus each sees its own.
    assert expression.count("{") == expression.count('{namespace="$namespace"')
    assert len(re.findall(rf"({'|'.join(sorted(names))}){{", expression)) == expression.count("{")


def test_names_are_found_in_promql() -> None:
    expression = 'sum by (le) (rate(a_total{b="c"}[5m])) / x:y > 0.3 and abs(d_1) == Inf or time() - e'
    assert metric_names(expression) == {"a_total", "x:y", "d_1", "e"}


def test_variables_of_the_dashboard_ask_for_metrics_that_are_there() -> None:
    variables = {one["name"]: one["query"] for one in DASHBOARD["templating"]["list"]}
    assert set(variables) == {"datasource", "namespace", "run"}
    for name in ("namespace", "run"):
        pattern = re.search(r'__name__=~"([^"]+)"', variables[name]["query"])
        assert pattern
        assert [one for one in known() if re.fullmatch(pattern[1], one)]


def test_the_dashboard_shows_what_a_training_is_judged_by() -> None:
    shown = set().union(*(metric_names(expression) for expression in expressions().values()))
    judged = ("loss", "held_out_loss", "tokens_per_second", "model_flops_utilisation", "grad_norm")
    assert {f"llava_av_training_{name}" for name in judged} <= shown


def test_panels_do_not_overlap() -> None:
    cells = [
        (panel["gridPos"]["x"] + x, panel["gridPos"]["y"] + y)
        for panel in DASHBOARD["panels"]
        for x in range(panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["h"])
    ]
    assert len(cells) == len(set(cells))
    assert max(x for x, _ in cells) < 24
