"""Mistakes, planted one at a time: a check that does not find its own is worth nothing.

Most cases change the objects of one rendering, and say a word that some finding must have. The last ones change a file of the chart.
"""

import copy

import chart
import compose
import invariants
import kustomize
import planted_encryption
import readme
import schemas
from objects import named


def _container(objects, component):
    workload = _workload(objects, component)
    return workload["spec"]["template"]["spec"]["containers"][0]


def _workload(objects, component):
    wanted = f"fulcrum-{component}"
    return named(objects, "StatefulSet", wanted) or named(objects, "Deployment", wanted)


def image_without_version(objects):
    _container(objects, "router")["image"] = "registry:5000/fulcrum"


def image_latest(objects):
    _container(objects, "router")["image"] = "fulcrum:latest"


def port_without_protocol(objects):
    del _container(objects, "router")["ports"][0]["protocol"]


def service_port_without_protocol(objects):
    del named(objects, "Service", "fulcrum-router")["spec"]["ports"][0]["protocol"]


def policy_port_without_protocol(objects):
    del named(objects, "NetworkPolicy", "fulcrum-router")["spec"]["ingress"][0]["ports"][0]["protocol"]


def selector_not_of_pods(objects):
    _workload(objects, "router")["spec"]["selector"]["matchLabels"]["app.kubernetes.io/component"] = "gateway"


def selector_of_all(objects):
    del _workload(objects, "router")["spec"]["selector"]["matchLabels"]["app.kubernetes.io/component"]


def chart_label_in_selector(objects):
    workload = _workload(objects, "router")
    for labels in (workload["spec"]["selector"]["matchLabels"], workload["spec"]["template"]["metadata"]["labels"]):
        labels["helm.sh/chart"] = "fulcrum-0.1.0"


def version_label_in_claim(objects):
    claim = _workload(objects, "shard-node")["spec"]["volumeClaimTemplates"][0]
    claim["metadata"]["labels"]["app.kubernetes.io/version"] = "0.1.0"


def service_without_pods(objects):
    named(objects, "Service", "fulcrum-router")["spec"]["selector"]["app.kubernetes.io/component"] = "gateway"


def service_port_closed(objects):
    named(objects, "Service", "fulcrum-router")["spec"]["ports"][0]["targetPort"] = "http"


def service_port_elsewhere(objects):
    named(objects, "Service", "fulcrum-router-pods")["spec"]["ports"][0]["port"] = 7401


def names_hidden_until_ready(objects):
    named(objects, "Service", "fulcrum-shard-node")["spec"]["publishNotReadyAddresses"] = False


def one_after_the_other(objects):
    _workload(objects, "shard-node")["spec"]["podManagementPolicy"] = "OrderedReady"


def probe_of_closed_port(objects):
    _container(objects, "coordinator")["readinessProbe"]["httpGet"]["port"] = "health"


def no_probe(objects):
    del _container(objects, "etcd")["livenessProbe"]


def liveness_by_readiness(objects):
    _container(objects, "shard-node")["livenessProbe"]["httpGet"]["path"] = "/readyz"


def listens_elsewhere(objects):
    args = _container(objects, "router")["args"]
    args[args.index("--listen=0.0.0.0:7400")] = "--listen=0.0.0.0:7500"


def killed_while_it_drains(objects):
    _workload(objects, "shard-node")["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] = 10


def leaves_when_it_stops(objects):
    command = ["fulcrum", "node", "drain", "n1"]
    _container(objects, "shard-node")["lifecycle"] = {"preStop": {"exec": {"command": command}}}


def budget_of_nobody(objects):
    budget = named(objects, "PodDisruptionBudget", "fulcrum-router")
    budget["spec"]["selector"]["matchLabels"]["app.kubernetes.io/component"] = "gateway"


def budget_of_all(objects):
    named(objects, "PodDisruptionBudget", "fulcrum-shard-node")["spec"]["maxUnavailable"] = 6


def budget_of_majority(objects):
    named(objects, "PodDisruptionBudget", "fulcrum-etcd")["spec"]["maxUnavailable"] = 2


def no_budget(objects):
    objects.remove(named(objects, "PodDisruptionBudget", "fulcrum-shard-node"))


def scaled_and_set_back(objects):
    _workload(objects, "router")["spec"]["replicas"] = 2


def runs_as_root(objects):
    _workload(objects, "router")["spec"]["template"]["spec"]["securityContext"]["runAsNonRoot"] = False


def gets_a_token(objects):
    del _workload(objects, "router")["spec"]["template"]["spec"]["automountServiceAccountToken"]


def writes_to_its_root(objects):
    _container(objects, "etcd")["securityContext"]["readOnlyRootFilesystem"] = False


def memory_without_limit(objects):
    del _container(objects, "shard-node")["resources"]["limits"]


def variable_not_defined(objects):
    env = _container(objects, "shard-node")["env"]
    env.remove(next(variable for variable in env if variable["name"] == "POD_NAMESPACE"))


def nothing_to_mount(objects):
    _container(objects, "shard-node")["volumeMounts"][0]["name"] = "disk"


def policy_open_to_all(objects):
    del named(objects, "NetworkPolicy", "fulcrum-router")["spec"]["ingress"][0]["from"]


def no_policy(objects):
    objects.remove(named(objects, "NetworkPolicy", "fulcrum-etcd"))


def service_renamed(objects):
    service = named(objects, "Service", "fulcrum-etcd")
    service["metadata"]["name"] = _workload(objects, "etcd")["spec"]["serviceName"] = "fulcrum-store"


def object_twice(objects):
    objects.append(copy.deepcopy(named(objects, "Service", "fulcrum-router")))


# Of invariants, each with a word of the finding.
OF_INVARIANTS = [
    (image_without_version, "names no version"), (image_latest, "names no version"),
    (port_without_protocol, "without protocol TCP"), (service_port_without_protocol, "without protocol TCP"),
    (policy_port_without_protocol, "without protocol TCP"), (selector_not_of_pods, "does not select its pods"),
    (selector_of_all, "selects pods of others"), (chart_label_in_selector, "helm.sh/chart changes"),
    (version_label_in_claim, "app.kubernetes.io/version changes"), (service_without_pods, "pods of 0 workloads"),
    (service_port_closed, "is not open"), (service_port_elsewhere, "leads to another number"),
    (names_hidden_until_ready, "hides pods"), (one_after_the_other, "one after the other"),
    (probe_of_closed_port, "readinessProbe asks port health"), (no_probe, "livenessProbe asks port None"),
    (liveness_by_readiness, "depends on others"), (listens_elsewhere, "is not the container's port"),
    (killed_while_it_drains, "grace period is shorter"), (leaves_when_it_stops, "something else than wait"),
    (budget_of_nobody, "pods of 0 workloads"), (budget_of_all, "lets 6 of 6"), (budget_of_majority, "majority of etcd"),
    (no_budget, "has 0 budgets"), (scaled_and_set_back, "set the number of pods back"), (runs_as_root, "may run as root"),
    (gets_a_token, "gets a token"), (writes_to_its_root, "may do more"), (memory_without_limit, "memory that is requested"),
    (variable_not_defined, "$(POD_NAMESPACE) is not defined"), (nothing_to_mount, "nothing to mount as disk"),
    (policy_open_to_all, "lets everybody in"), (no_policy, "no policy is for its pods"),
    (service_renamed, "there is no Service fulcrum-etcd"), (object_twice, "is there twice"),
]


def misspelt_field(objects):
    spec = _workload(objects, "shard-node")["spec"]
    spec["podManagmentPolicy"] = spec.pop("podManagementPolicy")


def text_for_a_number(objects):
    _workload(objects, "router")["spec"]["minReadySeconds"] = "five"


def version_that_is_gone(objects):
    named(objects, "PodDisruptionBudget", "fulcrum-router")["apiVersion"] = "policy/v1beta1"


def misspelt_key_of_a_custom_kind(objects):
    endpoint = next(thing for thing in objects if thing["kind"] == "ServiceMonitor")["spec"]["endpoints"][0]
    endpoint["prot"] = endpoint.pop("port")


OF_SCHEMAS = [
    (misspelt_field, "podManagmentPolicy"), (text_for_a_number, "minReadySeconds"),
    (version_that_is_gone, "PodDisruptionBudget"), (misspelt_key_of_a_custom_kind, "unknown key prot"),
]

OF_COMPARISON = [
    (image_latest, ".image"), (no_budget, "only in the chart"), (listens_elsewhere, ".args["),
    (memory_without_limit, ".limits"),
]


def compose_image_latest(composed):
    composed["services"]["grafana"]["image"] = "${GRAFANA_IMAGE:-grafana/grafana:latest}"


def compose_port_open(composed):
    composed["services"]["router-1"]["ports"] = ["7400:7400"]


def compose_volume_missing(composed):
    del composed["volumes"]["shard-node-3"]


def compose_node_missing(composed):
    del composed["services"]["shard-node-2"]


def compose_node_with_another_name(composed):
    node = composed["services"]["shard-node-1"]
    node["command"] = [word.replace("shard-node-1:", "shard-node-2:") for word in node["command"]]


def compose_not_watched(composed):
    composed["services"]["coordinator"]["healthcheck"] = None


OF_COMPOSE = [
    (compose_image_latest, "names no version"), (compose_port_open, "open to other machines"),
    (compose_volume_missing, "no shard-node-3 to mount"), (compose_node_missing, "prometheus/compose.yml: shard-node-2:9400"),
    (compose_node_with_another_name, "says that it is shard-node-2"), (compose_not_watched, "nobody sees"),
]


def _lints(folder, version):
    return chart.lint(folder, {}, version)


def _does_not_parse(folder, version):
    try:
        chart.render(folder, {}, version)
    except chart.yaml.YAMLError:
        return True
    return False


def _is_refused(folder, version):
    return chart.refusal(folder, {}, version)


def _disagrees(folder, _):
    return readme.findings(folder)


BROKEN, NIL = "kind: Pod\n metadata: {name: x\n", "name: {{ .Values.nothing.here }}\n"
PLANTED = "templates/planted.yaml"

# What, in which file, how it is changed, and who must find it. Rendering alone does not mind text that is no YAML.
IN_FILES = [
    ("a template that makes no YAML, by the linter", PLANTED, lambda text: BROKEN, _lints),
    ("a template that makes no YAML, by the parser", PLANTED, lambda text: BROKEN, _does_not_parse),
    ("a key twice in an object", PLANTED, lambda text: "kind: Pod\nkind: Job\n", _does_not_parse),
    ("a template that asks for what is not there, by the linter", PLANTED, lambda text: NIL, _lints),
    ("a template that asks for what is not there, when rendered", PLANTED, lambda text: NIL, _is_refused),
    ("a default that the schema refuses", "values.yaml", lambda text: text.replace("replicas: 3", "replicas: none"), _is_refused),
    ("a value without meaning", "values.yaml", lambda text: text.replace("    # -- Fewest\n", ""), _disagrees),
    ("a value that the schema does not know", "values.yaml", lambda text: text + "# -- New\nextra: 1\n", _disagrees),
    ("a schema that lets misspelt keys pass", "values.schema.json",
     lambda text: text.replace('"additionalProperties": false', '"additionalProperties": true'), _disagrees),
    ("a table of old values", "README.md", lambda text: text.replace("| `1` |", "| `7` |"), _disagrees),
]


def findings(objects, encrypted, with_tokens, composed, composed_tls, folder, version):
    """The planted mistakes that were not found: in three renderings and two files for compose; `folder` is deploy/."""
    looks = [
        (OF_INVARIANTS, objects, lambda changed: invariants.findings(changed)),
        (OF_SCHEMAS, objects, lambda changed: schemas.findings(changed, version)),
        (planted_encryption.OF_CERTIFICATES, encrypted, lambda changed: invariants.findings(changed)),
        (planted_encryption.OF_KEYS, encrypted, lambda changed: schemas.findings(changed, version)),
        (planted_encryption.OF_TOKENS, with_tokens, lambda changed: invariants.findings(changed)),
        (OF_COMPARISON, objects, lambda changed: kustomize.differences(changed, objects)),
        (OF_COMPOSE, composed, lambda changed: compose.findings(folder, changed)),
        (planted_encryption.OF_COMPOSE, composed_tls, lambda changed: compose.findings_tls(composed, changed)),
    ]
    missed = []
    for cases, right, look in looks:
        for mistake, word in cases:
            changed = copy.deepcopy(right)
            mistake(changed)
            if not any(word in finding for finding in look(changed)):
                missed.append(f"planted, and not found: {mistake.__name__} ({word})")
    return missed


def count():
    return len(OF_INVARIANTS) + len(OF_SCHEMAS) + len(OF_COMPARISON) + len(OF_COMPOSE) + planted_encryption.count()
