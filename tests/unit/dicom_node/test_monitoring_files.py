"""Alert rules and dashboard: read by Prometheus' own tool, tried, and asking only for what the node tells."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from dicom_node import resources
from dicom_node.metrics_families import FAMILIES
from scripts import monitoring
from scripts.conformance import rendered

RULES = yaml.safe_load((resources.monitoring_folder() / "alerts.yml").read_text())
DASHBOARD = json.loads((resources.monitoring_folder() / "dashboard.json").read_text())
TRIALS = ("alerts-test.yml", "alerts-weeks-test.yml")
PROCESS = {f"dicomnode_process_{name}" for name in ("start_time_seconds", "resident_memory_bytes")}
KNOWN = {f.exposed for f in FAMILIES} | PROCESS
KNOWN |= {f"{f.name}_{part}" for f in FAMILIES if f.kind == "histogram" for part in ("sum", "count")}
LABELS = {label for f in FAMILIES for label in f.labels} | {"le", "instance"}


@pytest.fixture(scope="module")
def promtool(tool: Callable[[str], str]) -> Callable[..., subprocess.CompletedProcess[str]]:
    path = tool("/usr/bin/promtool")
    return lambda *arguments, **options: subprocess.run(
        [path, *map(str, arguments)], capture_output=True, text=True, **options
    )


def rules() -> Iterator[dict[str, Any]]:
    for group in RULES["groups"]:
        yield from group["rules"]


def queries() -> Iterator[str]:
    for panel in DASHBOARD["panels"]:
        for target in panel.get("targets", ()):
            yield target["expr"]


def test_the_rules_are_valid_and_every_one_fires_when_it_should(promtool: Any) -> None:
    folder = resources.monitoring_folder()
    checked = promtool("check", "rules", folder / "alerts.yml")
    assert checked.returncode == 0, checked.stdout + checked.stderr
    tried = promtool("test", "rules", *TRIALS, cwd=folder)
    assert tried.returncode == 0, tried.stdout + tried.stderr
    examples = [test for name in TRIALS for test in yaml.safe_load((folder / name).read_text())["tests"]]
    fired = {case["alertname"] for test in examples for case in test["alert_rule_test"] if case["exp_alerts"]}
    assert fired == {rule["alert"] for rule in rules()}


def test_the_trial_of_the_rules_can_fail(promtool: Any, tmp_path: Path) -> None:
    folder = resources.monitoring_folder()
    text = (folder / "alerts.yml").read_text()
    (tmp_path / "alerts.yml").write_text(text.replace("< 21 * 86400", "< 7 * 86400"))
    trial = yaml.safe_load((folder / "alerts-test.yml").read_text())
    trial["tests"] = [test for test in trial["tests"] if "certificate" in test["input_series"][0]["series"]]
    (tmp_path / "trial.yml").write_text(yaml.safe_dump(trial))
    assert promtool("test", "rules", "trial.yml", cwd=tmp_path).returncode != 0
    shutil.copy(folder / "alerts.yml", tmp_path)
    assert promtool("test", "rules", "trial.yml", cwd=tmp_path).returncode == 0


def test_rules_and_dashboard_ask_for_what_the_node_tells() -> None:
    asked = [*(rule["expr"] for rule in rules()), *queries()]
    named = {name for query in asked for name in re.findall(r"dicomnode_\w+", query)}
    assert named <= KNOWN, named - KNOWN
    used = {label for query in asked for label in re.findall(r'(\w+)\s*(?:=~|!~|!=|=)\s*"', query)} - {"job"}
    assert used <= LABELS, used - LABELS
    shown = {name for query in queries() for name in re.findall(r"dicomnode_\w+", query)}
    assert {f.name for f in FAMILIES if not any(name.startswith(f.name) for name in shown)} == {"dicomnode_build"}


def test_every_rule_says_what_to_do() -> None:
    for rule in rules():
        assert rule["labels"]["severity"] in {"critical", "warning", "info"}
        assert rule["annotations"].keys() == {"summary", "remedy"}
    assert len({rule["alert"] for rule in rules()}) == len(list(rules()))


def test_the_queries_of_the_dashboard_are_promql(promtool: Any, tmp_path: Path) -> None:
    plain = [query.replace("$__rate_interval", "5m").replace("$instance", ".*") for query in queries()]
    records = [{"record": f"panel:{number}", "expr": query} for number, query in enumerate(plain)]
    path = tmp_path / "dashboard.yml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": records}]}))
    checked = promtool("check", "rules", path)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert f"{len(records)} rules found" in checked.stdout


def test_the_dashboard_is_one_that_grafana_takes() -> None:
    assert DASHBOARD["schemaVersion"] >= 36
    assert DASHBOARD["title"] and DASHBOARD["uid"]
    variables = {variable["name"] for variable in DASHBOARD["templating"]["list"]}
    assert variables == {"datasource", "instance"}
    panels = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        assert panel["type"] in {"row", "stat", "timeseries", "heatmap"}
        place = panel["gridPos"]
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert place["x"] + place["w"] <= 24
        assert not cells & taken, panel["title"]
        taken |= cells
        for target in panel.get("targets", ()):
            assert target["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
            assert target["refId"] and target["expr"]


def test_the_page_has_the_tables_of_the_code() -> None:
    page = monitoring.PAGE.read_text(encoding="utf-8")
    _, changed = rendered(page, monitoring.TABLES)
    assert not changed, f"run python -m scripts.monitoring: {changed}"
    assert all(f"<!-- begin {name} -->" in page for name in monitoring.TABLES)
