"""The Helm chart: Helm renders it, Kubernetes' schemas accept it, and it names only what the code has."""

import json
from pathlib import Path

import kubernetes_validate
import pytest
import yaml

from attributary.attribution.types import Limits
from attributary.cli.serve import serve_command
from attributary.gateway.config import GatewayConfig

DEPLOY = Path(__file__).parents[3] / "deploy"
CHART = DEPLOY / "helm" / "attributary"
EMBEDDED = {"engine": "embedded"}
SECURED = {
    "gateway": {
        "tls": {"secretName": "certs", "clientCa": True},
        "tokensSecretName": "tokens",
        "autoscaling": {"enabled": False},
        "service": {"annotations": {"a": "b"}},
        "topologySpread": False,
        "nodeSelector": {"disk": "ssd"},
    },
    "triton": {
        "plan": "engines/e.plan",
        "autoscaling": {"enabled": False},
        "nodeSelector": {"gpu": "l4"},
        "materializeArgs": ["--max-batch=64"],
    },
    "bundle": {"subPath": "v2/bundle"},
    "networkPolicy": {"clients": [{"podSelector": {"matchLabels": {"app": "generator"}}}]},
    "monitoring": {"labels": {"release": "prom"}},
    "imagePullSecrets": [{"name": "pull"}],
}
WRITING = {
    "writer": {"enabled": True, "adminTokensSecretName": "admins"},
    "bundle": {"subPath": "v1"},
    "engine": "embedded",
}
BARE = {
    "networkPolicy": {"enabled": False},
    "monitoring": {"serviceMonitor": False, "prometheusRule": False, "dashboard": False},
}


def of(objects, kind, part=None):
    return [
        entry
        for entry in objects
        if entry["kind"] == kind
        and part in (None, entry["metadata"]["labels"]["app.kubernetes.io/component"])
    ]


def one(objects, kind, part=None):
    (found,) = of(objects, kind, part)
    return found


def container(objects, part):
    return one(objects, "Deployment", part)["spec"]["template"]["spec"]["containers"][0]


def environment(objects):
    return {entry["name"]: entry["value"] for entry in container(objects, "gateway")["env"]}


def test_lint_finds_nothing(helm):
    helm({})
    assert [entry for entry in helm.lint["messages"] if entry["severity"] > 1] == []
    assert helm.lint["errors"] == []


@pytest.mark.parametrize(
    "values",
    [{}, EMBEDDED, SECURED, BARE, WRITING],
    ids=["default", "embedded", "secured", "bare", "writing"],
)
@pytest.mark.parametrize("version", ["1.33.0", "1.37.0"])
def test_kubernetes_accepts_every_object(manifests, values, version):
    objects = manifests(values)
    names = [(entry["kind"], entry["metadata"]["name"]) for entry in objects]
    assert len(set(names)) == len(names)
    for entry in objects:
        # The operator's kinds are no part of Kubernetes' own schemas.
        if not entry["apiVersion"].startswith("monitoring.coreos.com"):
            kubernetes_validate.validate(entry, version, strict=True)


def test_schema_check_can_fail(manifests):
    broken = one(manifests(), "Deployment", "gateway")
    broken["spec"]["template"]["spec"]["containers"][0]["ports"][0]["containerPort"] = "grpc"
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(broken, "1.37.0", strict=True)


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"engine": "gpu"}, "engine"),
        ({"gateway": {"replica": 3}}, "replica"),
        ({"gateway": {"settings": {"port": 1}}}, "'port'"),
        ({"gateway": {"settings": {"MaxBatch": 1}}}, "'MaxBatch'"),
        ({"triton": {"gpus": 0}}, "gpus"),
        ({"triton": {"plan": "../other.plan"}}, "plan"),
        ({"bundle": {"subPath": "/bundle"}}, "subPath"),
        ({"writer": {"enabled": True, "adminTokensSecretName": "a"}}, "bundle.subPath"),
        ({"writer": {"enabled": True}, "bundle": {"subPath": "v1"}}, "adminTokensSecretName"),
        ({"triton": {"autoscaling": {"queueSeconds": 0.005}}}, "queueSeconds"),
    ],
)
def test_wrong_values_are_refused_by_name(helm, values, named):
    assert named in helm(values)[0].get("error", "rendered")


def test_values_file_and_schema_name_the_same_things():
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    schema = json.loads((CHART / "values.schema.json").read_text())

    def compare(value, part, path):
        if isinstance(value, dict) and part.get("additionalProperties") is False:
            assert set(value) == set(part["properties"]) - {"global"}, path
            for name, inner in value.items():
                compare(inner, part["properties"][name], f"{path}.{name}")

    compare(values, schema, "values")


def test_a_setting_that_serve_does_not_have_is_refused(helm):
    assert "max-batchh" in helm({"gateway": {"settings": {"max-batchh": 1}}})[0].get("error", "rendered")
    schema = json.loads((CHART / "values.schema.json").read_text())
    named = set(schema["properties"]["gateway"]["properties"]["settings"]["propertyNames"]["enum"])
    flags = {
        option.envvar.removeprefix("ATTRIBUTARY_").lower().replace("_", "-")
        for option in serve_command.params
        if option.envvar
    }
    # Milvus is not the chart's; the rest is set by other values.
    own = {
        "host",
        "port",
        "metrics-port",
        "bundle",
        "engine",
        "triton-url",
        "tls-cert",
        "tls-key",
        "tls-client-ca",
    }
    # Paths of the pod, for which the chart mounts nothing.
    own |= {"receipt-key-file", "query-log"}
    own |= {"tokens-file", "admin-tokens-file", "writer", "index"} | {
        name for name in flags if "milvus" in name
    }
    assert named == flags - own


@pytest.mark.parametrize("values", [{}, SECURED], ids=["default", "secured"])
def test_every_variable_is_one_of_serve(manifests, values):
    known = {option.envvar for option in serve_command.params if option.envvar}
    assert set(environment(manifests(values))) <= known


def test_the_gateway_would_start_with_what_it_is_given(manifests, settings_of):
    given = environment(
        manifests({"gateway": {"settings": {"max-inflight-bytes": 1 << 30, "max-delay-ms": 1.5}}})
    )
    config = settings_of(given)
    assert (config.max_inflight_bytes, config.max_delay_ms) == (1 << 30, 1.5)
    assert (config.host, config.port, config.metrics_port) == ("0.0.0.0", 50051, 9464)
    ports = {entry["name"]: entry["containerPort"] for entry in container(manifests(), "gateway")["ports"]}
    assert ports == {"grpc": config.port, "metrics": config.metrics_port}


def test_default_settings_are_flags(manifests):
    settings = yaml.safe_load((CHART / "values.yaml").read_text())["gateway"]["settings"]
    names = {name.replace("-", "_") for name in settings}
    assert names <= set(GatewayConfig.__slots__) | set(Limits.__slots__)


def test_materialize_is_given_options_that_it_has(manifests):
    from attributary.cli.triton import triton_group

    (init,) = one(manifests(SECURED), "Deployment", "triton")["spec"]["template"]["spec"]["initContainers"]
    group, verb, *options = init["args"]
    assert (group, verb) == ("triton", "materialize")
    known = {name for option in triton_group.commands["materialize"].params for name in option.opts}
    assert {option.split("=")[0] for option in options} <= known


def test_drain_ends_before_the_kubelet_loses_patience(manifests):
    objects = manifests({"gateway": {"settings": {"drain-s": 90, "drain-notice-s": 12}}})
    pod = one(objects, "Deployment", "gateway")["spec"]["template"]["spec"]
    assert pod["terminationGracePeriodSeconds"] > 90 + 12


@pytest.mark.parametrize("values", [{}, SECURED], ids=["default", "secured"])
def test_pods_may_do_little(manifests, values):
    for deployment in of(manifests(values), "Deployment"):
        pod = deployment["spec"]["template"]["spec"]
        assert pod["automountServiceAccountToken"] is False and pod["enableServiceLinks"] is False
        assert pod["securityContext"]["runAsNonRoot"] and pod["securityContext"]["runAsUser"] > 0
        for entry in pod["containers"] + pod.get("initContainers", []):
            allowed = entry["securityContext"]
            assert allowed["readOnlyRootFilesystem"] and not allowed["allowPrivilegeEscalation"]
            assert allowed["capabilities"] == {"drop": ["ALL"]}
            assert all(mount.get("readOnly") for mount in entry["volumeMounts"] if mount["name"] == "bundle")


def test_one_writer_writes_and_gateways_follow(manifests):
    """All see the directory that the bundle lies in: a compaction puts another directory in the bundle's place."""
    objects = manifests(WRITING)
    spec = one(objects, "Deployment", "writer")["spec"]
    assert (spec["replicas"], spec["strategy"]) == (1, {"type": "Recreate"})
    writer, gateway = container(objects, "writer"), container(objects, "gateway")
    places = [
        next(entry["value"] for entry in found["env"] if entry["name"] == "ATTRIBUTARY_BUNDLE")
        for found in (writer, gateway)
    ]
    assert places == ["/bundles/v1"] * 2
    (mount,) = [mount for mount in writer["volumeMounts"] if mount["mountPath"] == "/bundles"]
    assert not mount.get("readOnly") and "subPath" not in mount
    (mount,) = [mount for mount in gateway["volumeMounts"] if mount["mountPath"] == "/bundles"]
    assert mount["readOnly"] and "subPath" not in mount
    known = {option.envvar for option in serve_command.params if option.envvar}
    assert {entry["name"] for entry in writer["env"]} <= known
    assert not of(manifests(EMBEDDED), "Deployment", "writer")


@pytest.mark.parametrize("values", [{}, WRITING], ids=["default", "writing"])
def test_selectors_find_their_pods(manifests, values):
    objects = manifests(values)
    pods = [entry["spec"]["template"]["metadata"]["labels"] for entry in of(objects, "Deployment")]

    def hits(wanted):
        return sum(wanted.items() <= labels.items() for labels in pods)

    for entry in of(objects, "Service"):
        assert hits(entry["spec"]["selector"]) == 1
    for entry in of(objects, "PodDisruptionBudget") + of(objects, "Deployment"):
        assert hits(entry["spec"]["selector"]["matchLabels"]) == 1
    for entry in of(objects, "NetworkPolicy"):
        assert hits(entry["spec"]["podSelector"]["matchLabels"]) == 1
    services = of(objects, "Service")
    for monitor in of(objects, "ServiceMonitor"):
        wanted = monitor["spec"]["selector"]["matchLabels"]
        (found,) = [entry for entry in services if wanted.items() <= entry["metadata"]["labels"].items()]
        ports = {port["name"] for port in found["spec"]["ports"]}
        assert {endpoint["port"] for endpoint in monitor["spec"]["endpoints"]} <= ports


def test_gateway_finds_triton(manifests):
    objects = manifests()
    host, port = environment(objects)["ATTRIBUTARY_TRITON_URL"].split(":")
    service = one(objects, "Service", "triton")
    assert host == service["metadata"]["name"]
    assert int(port) in {entry["port"] for entry in service["spec"]["ports"]}


def test_embedded_needs_no_gpu(manifests):
    text = json.dumps(manifests(EMBEDDED)[:])
    assert "nvidia.com/gpu" not in text and "ATTRIBUTARY_TRITON_URL" not in text
    assert not of(manifests(EMBEDDED), "Deployment", "triton")


def test_triton_asks_for_gpus(manifests):
    resources = container(manifests({"triton": {"gpus": 2}}), "triton")["resources"]
    assert resources["limits"]["nvidia.com/gpu"] == resources["requests"]["nvidia.com/gpu"] == 2


def test_only_gateways_reach_triton(manifests):
    objects = manifests()
    policy = one(objects, "NetworkPolicy", "triton")["spec"]
    assert policy["egress"] == []
    (callers,) = [entry["from"] for entry in policy["ingress"] if entry["ports"][0]["port"] == 8001]
    gateway = one(objects, "Deployment", "gateway")["spec"]["selector"]["matchLabels"]
    assert callers == [{"podSelector": {"matchLabels": gateway}}]


def test_autoscalers_ask_for_what_the_adapter_offers(manifests):
    rules = yaml.safe_load((DEPLOY / "prometheus" / "adapter-values.yaml").read_text())["rules"]["custom"]
    offered = {rule["name"]["as"] for rule in rules}
    asked = {
        metric["pods"]["metric"]["name"]
        for entry in of(manifests(), "HorizontalPodAutoscaler")
        for metric in entry["spec"]["metrics"]
        if metric["type"] == "Pods"
    }
    assert asked == offered
    fixed = [entry["spec"].get("replicas") for entry in of(manifests(), "Deployment")]
    assert fixed == [None, None], "a fixed number would fight the autoscaler at every upgrade"


def test_tls_turns_the_grpc_probe_off(manifests):
    assert "grpc" in container(manifests(), "gateway")["readinessProbe"]
    assert "tcpSocket" in container(manifests(SECURED), "gateway")["readinessProbe"]


def test_dashboard_and_rules_travel_whole(manifests):
    objects = manifests()
    board = one(objects, "ConfigMap")["data"]["attributary.json"]
    assert json.loads(board) == json.loads((CHART / "files" / "dashboard.json").read_text())
    rules = yaml.safe_load((CHART / "files" / "rules.yaml").read_text())
    assert one(objects, "PrometheusRule")["spec"] == rules
