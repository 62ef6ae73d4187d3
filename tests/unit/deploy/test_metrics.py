"""Dashboards, alerts and autoscalers ask for metrics and labels that exist."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import promql_parser
import pytest
import yaml

DEPLOY = Path(__file__).parents[3] / "deploy"
FILES = DEPLOY / "helm" / "attributary" / "files"
# Without a GPU as a running Triton 2.51 exports them; nv_gpu_* as its documentation names them.
TRITON = {
    "nv_inference_request_success": {"model", "version"},
    "nv_inference_request_failure": {"model", "version", "reason"},
    "nv_inference_count": {"model", "version"},
    "nv_inference_exec_count": {"model", "version"},
    "nv_inference_pending_request_count": {"model", "version"},
    "nv_inference_request_duration_us": {"model", "version"},
    "nv_inference_queue_duration_us": {"model", "version"},
    "nv_inference_compute_input_duration_us": {"model", "version"},
    "nv_inference_compute_infer_duration_us": {"model", "version"},
    "nv_inference_compute_output_duration_us": {"model", "version"},
    "nv_gpu_utilization": {"gpu_uuid"},
    "nv_gpu_memory_total_bytes": {"gpu_uuid"},
    "nv_gpu_memory_used_bytes": {"gpu_uuid"},
}
# What Prometheus adds to every series of a target.
TARGET = {"job", "instance", "namespace", "pod", "le"}


def rules():
    return [
        rule
        for group in yaml.safe_load((FILES / "rules.yaml").read_text())["groups"]
        for rule in group["rules"]
    ]


def panels():
    return json.loads((FILES / "dashboard.json").read_text())["panels"]


def expressions():
    for rule in rules():
        yield rule.get("alert") or rule["record"], rule["expr"]
    for panel in panels():
        for target in panel.get("targets", []):
            yield panel["title"], target["expr"]


ASKED = list(expressions())


def plain(expression):
    """The expression without Grafana's variables, which PromQL does not know."""
    return expression.replace("$__rate_interval", "1m").replace("$namespace", ".*")


def walk(node, grouped=frozenset()):
    """Yield (selector, labels that aggregations around it group by)."""
    if isinstance(node, promql_parser.AggregateExpr):
        grouped = grouped | set(node.modifier.labels if node.modifier else ())
    if isinstance(node, promql_parser.VectorSelector):
        yield node, grouped
        return
    if isinstance(node, promql_parser.MatrixSelector):
        yield node.vector_selector, grouped
        return
    inner = [getattr(node, name, None) for name in ("expr", "lhs", "rhs")]
    for part in [*inner, *(getattr(node, "args", None) or ())]:
        if part is not None:
            yield from walk(part, grouped)


def known_series(gateway_metrics):
    recorded = {
        rule["record"]: {"namespace", "pod", "instance", "method", "code"}
        for rule in rules()
        if "record" in rule
    }
    return {**gateway_metrics, **TRITON, **recorded, "up": set()}


@pytest.mark.parametrize(("where", "expression"), ASKED, ids=[where for where, _ in ASKED])
def test_metrics_and_labels_exist(gateway_metrics, where, expression):
    known = known_series(gateway_metrics)
    selectors = list(walk(promql_parser.parse(plain(expression))))
    assert selectors
    for selector, grouped in selectors:
        assert selector.name in known, f"{where}: {selector.name} is exported by nobody"
        used = {matcher.name for matcher in selector.matchers.matchers} | grouped
        assert used <= known[selector.name] | TARGET, f"{where}: {selector.name} has no label {used}"


def test_a_misspelt_metric_would_be_found(gateway_metrics):
    assert "attributary_querys_total" not in known_series(gateway_metrics)
    assert gateway_metrics["attributary_queries_total"] == {"code"}


def test_every_metric_of_the_gateway_is_on_the_dashboard(gateway_metrics):
    shown = " ".join(expression for _, expression in ASKED)
    stems = {re.sub(r"_(bucket|sum|count|created|total)$", "", name) for name in gateway_metrics}
    process = {stem for stem in stems if stem.startswith("attributary_process_")}
    assert {stem for stem in stems - process if stem not in shown} == set()


def test_every_alert_says_what_is_wrong():
    for rule in rules():
        if "alert" in rule:
            assert rule["labels"]["severity"] in {"critical", "warning"} and rule["for"]
            assert set(rule["annotations"]) == {"summary", "description"}


def test_every_alert_is_explained():
    page = (DEPLOY.parent / "docs" / "deploy.md").read_text()
    assert [rule["alert"] for rule in rules() if "alert" in rule and rule["alert"] not in page] == []


def test_panels_do_not_overlap():
    taken = set()
    for panel in panels():
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert place["x"] + place["w"] <= 24 and not cells & taken, panel["title"]
        taken |= cells
    assert len({panel["id"] for panel in panels()}) == len(panels())


def promtool(*arguments):
    tool = os.environ.get("PROMTOOL") or shutil.which("promtool")
    if tool is None:
        pytest.skip("no promtool: it comes with Debian's package prometheus; PROMTOOL may name it")
    done = subprocess.run([tool, *map(str, arguments)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_promtool_accepts_the_rules():
    promtool("check", "rules", FILES / "rules.yaml")


def test_alerts_fire_when_they_should():
    promtool("test", "rules", Path(__file__).with_name("alerts.yaml"))


def test_promtool_accepts_the_scrape_config(tmp_path):
    config = (DEPLOY / "prometheus" / "prometheus.yaml").read_text()
    (tmp_path / "prometheus.yaml").write_text(
        config.replace("/etc/prometheus/rules.yaml", str(FILES / "rules.yaml"))
    )
    promtool("check", "config", tmp_path / "prometheus.yaml")
