"""What must hold in every rendering, and no schema can say.

Each rule takes all objects and yields what breaks it. A mistake is planted against each in planted.py. What is about
certificates and tokens stands in encryption.py.
"""

import re

import encryption
from objects import containers, is_hook, name, named, of_kind, pod_labels, pods, selected, workloads

# Seconds that a stop may take besides what is waited for on purpose.
MARGIN = 10

CHANGING_LABELS = {"helm.sh/chart", "app.kubernetes.io/version", "app.kubernetes.io/managed-by"}


def names_are_single(objects):
    seen = set()
    for thing in objects:
        key = (thing["kind"], thing["metadata"].get("namespace"), thing["metadata"]["name"])
        if key in seen:
            yield f"{name(thing)}: is there twice"
        seen.add(key)
        if not thing["metadata"].get("namespace"):
            yield f"{name(thing)}: has no namespace"


def images_have_versions(objects):
    for thing, _, container in containers(objects):
        image = container["image"]
        tag = image.rsplit("/", 1)[-1].partition(":")[2]
        if "@sha256:" not in image and tag in ("", "latest"):
            yield f"{name(thing)}: image {image} names no version"


def protocols_are_written(objects):
    """Server-side apply merges ports by protocol, and older servers do not fill it in."""
    lists = [(thing, thing["spec"]["ports"]) for thing in of_kind(objects, "Service")]
    lists += [(thing, container.get("ports", [])) for thing, _, container in containers(objects)]
    lists += [
        (thing, rule.get("ports", []))
        for thing in of_kind(objects, "NetworkPolicy")
        for rule in thing["spec"].get("ingress", [])
    ]
    for thing, ports in lists:
        for port in ports:
            if port.get("protocol") != "TCP":
                yield f"{name(thing)}: port {port} without protocol TCP"


def selectors_hold(objects):
    for thing in workloads(objects):
        labels = thing["spec"]["selector"]["matchLabels"]
        if not labels.items() <= pod_labels(thing).items():
            yield f"{name(thing)}: its selector does not select its pods"
        if len(selected(objects, labels)) != 1:
            yield f"{name(thing)}: its selector selects pods of others, too"


def labels_that_change_are_not_fixed(objects):
    """Selectors and templates of claims cannot be changed: an upgrade of the chart would fail."""
    for thing in workloads(objects):
        fixed = [thing["spec"]["selector"]["matchLabels"]]
        claims = thing["spec"].get("volumeClaimTemplates", [])
        fixed += [claim["metadata"].get("labels", {}) for claim in claims]
        for label in sorted(CHANGING_LABELS & set().union(*fixed)):
            yield f"{name(thing)}: label {label} changes, and stands in a selector or a template of claims"


def services_reach_pods(objects):
    for thing in of_kind(objects, "Service"):
        found = selected(objects, thing["spec"]["selector"])
        if len(found) != 1:
            yield f"{name(thing)}: selects the pods of {len(found)} workloads"
            continue
        open_ports = _ports(found[0])
        for port in thing["spec"]["ports"]:
            if port["targetPort"] not in open_ports:
                yield f"{name(thing)}: target port {port['targetPort']} is not open"
            elif open_ports[port["targetPort"]] != port["port"]:
                yield f"{name(thing)}: port {port['port']} leads to another number"


def stateful_sets_are_found(objects):
    for thing in of_kind(objects, "StatefulSet"):
        service = named(objects, "Service", thing["spec"]["serviceName"])
        spec = service["spec"] if service else {}
        if spec.get("clusterIP") != "None" or not spec.get("publishNotReadyAddresses"):
            yield f"{name(thing)}: its service is not headless, or hides pods that are not ready"
        if thing["spec"].get("podManagementPolicy") != "Parallel":
            yield f"{name(thing)}: its pods start one after the other, and would wait for ever after an outage of all"


def probes_ask_open_ports(objects):
    for thing, _, container in containers(objects):
        if is_hook(thing):
            continue
        open_ports = {port["name"] for port in container.get("ports", [])}
        for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
            asked = container.get(probe, {}).get("httpGet", {}).get("port")
            if asked not in open_ports:
                yield f"{name(thing)}: {probe} asks port {asked}, which is not open"


def liveness_asks_nobody_else(objects):
    """A process that waits for others, or for its disk, must not be killed for it."""
    for thing, _, container in containers(objects):
        for probe in ("startupProbe", "livenessProbe"):
            path = container.get(probe, {}).get("httpGet", {}).get("path")
            if path not in (None, "/healthz", "/health?serializable=true"):
                yield f"{name(thing)}: {probe} asks {path}, which depends on others"


def flags_fit_ports(objects):
    for thing, _, container in containers(objects):
        open_ports = {port["name"]: port["containerPort"] for port in container.get("ports", [])}
        for flag, port in (("--listen=", "grpc"), ("--metrics-listen=", "metrics")):
            said = [arg for arg in container.get("args", []) if arg.startswith(flag)]
            for arg in said:
                if int(arg.rsplit(":", 1)[1]) != open_ports.get(port):
                    yield f"{name(thing)}: {arg} is not the container's port {port}"


def there_is_time_to_stop(objects):
    for thing, pod, container in containers(objects):
        if is_hook(thing):
            continue
        waits = _pre_stop_seconds(container)
        if waits is None:
            yield f"{name(thing)}: preStop does something else than wait"
            continue
        drain = next((v["value"] for v in container.get("env", []) if v["name"].endswith("__HAND_OVER")), "0s")
        needed = waits + int(drain.rstrip("s")) + MARGIN
        if pod["terminationGracePeriodSeconds"] < needed:
            yield f"{name(thing)}: the grace period is shorter than {needed} s, which a stop may take"


def budgets_fit(objects):
    budgets = of_kind(objects, "PodDisruptionBudget")
    for thing in budgets:
        found = selected(objects, thing["spec"]["selector"]["matchLabels"])
        if len(found) != 1:
            yield f"{name(thing)}: is for the pods of {len(found)} workloads"
            continue
        replicas = _fewest(objects, found[0])
        taken = thing["spec"]["maxUnavailable"]
        if taken < 1 or taken >= replicas:
            yield f"{name(thing)}: lets {taken} of {replicas} pods go"
        component = pod_labels(found[0])["app.kubernetes.io/component"]
        if component == "etcd" and taken > (replicas - 1) // 2:
            yield f"{name(thing)}: lets the majority of etcd go"
    for thing in workloads(objects):
        own = [b for b in budgets if selected([thing], b["spec"]["selector"]["matchLabels"])]
        if _fewest(objects, thing) > 1 and len(own) != 1:
            yield f"{name(thing)}: has {len(own)} budgets"


def scaling_is_not_undone(objects):
    for thing in of_kind(objects, "HorizontalPodAutoscaler"):
        target = named(objects, "Deployment", thing["spec"]["scaleTargetRef"]["name"])
        if target is None:
            yield f"{name(thing)}: scales what is not there"
        elif "replicas" in target["spec"]:
            yield f"{name(thing)}: every upgrade would set the number of pods back"


def pods_are_confined(objects):
    for thing, pod in pods(objects):
        security = pod.get("securityContext", {})
        if not (security.get("runAsNonRoot") and security.get("runAsUser", 0) > 0 and security.get("fsGroup")):
            yield f"{name(thing)}: may run as root"
        if security.get("seccompProfile") != {"type": "RuntimeDefault"}:
            yield f"{name(thing)}: no seccomp profile"
        if pod.get("automountServiceAccountToken") is not False or pod.get("enableServiceLinks") is not False:
            yield f"{name(thing)}: gets a token, or variables for services"
    for thing, _, container in containers(objects):
        wanted = {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}}
        if container.get("securityContext") != wanted:
            yield f"{name(thing)}: container {container['name']} may do more than it has to"


def memory_is_bounded(objects):
    for thing, _, container in containers(objects):
        resources = container.get("resources", {})
        requests, limits = resources.get("requests", {}), resources.get("limits", {})
        if not requests.get("memory") or requests["memory"] != limits.get("memory"):
            yield f"{name(thing)}: memory that is requested and its limit are not the same"
        if not requests.get("cpu"):
            yield f"{name(thing)}: requests no CPU"


def variables_are_defined(objects):
    """Kubernetes leaves `$(NAME)` as it is if there is no such variable before it."""
    for thing, _, container in containers(objects):
        known = {variable["name"] for variable in container.get("env", [])}
        for word in container.get("command", []) + container.get("args", []):
            for used in re.findall(r"\$\(([A-Za-z_]\w*)\)", word):
                if used not in known and not is_hook(thing):
                    yield f"{name(thing)}: $({used}) is not defined"


def volumes_are_there(objects):
    for thing, pod, container in containers(objects):
        volumes = {volume["name"] for volume in pod.get("volumes", [])}
        volumes |= {claim["metadata"]["name"] for claim in thing["spec"].get("volumeClaimTemplates", [])}
        for mount in container.get("volumeMounts", []):
            if mount["name"] not in volumes:
                yield f"{name(thing)}: nothing to mount as {mount['name']}"
        for volume in pod.get("volumes", []):
            wanted = volume.get("configMap", {}).get("name")
            if wanted and named(objects, "ConfigMap", wanted) is None:
                yield f"{name(thing)}: there is no ConfigMap {wanted}"


def policies_hold(objects):
    policies = of_kind(objects, "NetworkPolicy")
    if not policies:
        return
    for thing in policies:
        found = selected(objects, thing["spec"]["podSelector"]["matchLabels"])
        if len(found) != 1:
            yield f"{name(thing)}: is for the pods of {len(found)} workloads"
            continue
        open_ports = _ports(found[0])
        for rule in thing["spec"]["ingress"]:
            if "from" not in rule and [port["port"] for port in rule["ports"]] != ["metrics"]:
                yield f"{name(thing)}: lets everybody in to more than metrics"
            for port in rule["ports"]:
                if port["port"] not in open_ports:
                    yield f"{name(thing)}: port {port['port']} is not open"
    for thing in workloads(objects):
        if not any(selected([thing], policy["spec"]["podSelector"]["matchLabels"]) for policy in policies):
            yield f"{name(thing)}: no policy is for its pods"


def addresses_are_there(objects):
    """Services that are named in flags and variables exist."""
    services = {thing["metadata"]["name"] for thing in of_kind(objects, "Service")}
    for thing, _, container in containers(objects):
        words = container.get("args", []) + [str(v.get("value", "")) for v in container.get("env", [])]
        for word in words:
            named_here = re.findall(r"\.([a-z0-9-]+)\.\$\(POD_NAMESPACE\)", word)
            named_here += re.findall(r"^([a-z0-9-]+-router):\d+$", word)
            for service in named_here:
                if service not in services:
                    yield f"{name(thing)}: there is no Service {service}"


RULES = [
    names_are_single, images_have_versions, protocols_are_written, selectors_hold, labels_that_change_are_not_fixed,
    services_reach_pods, stateful_sets_are_found, probes_ask_open_ports, liveness_asks_nobody_else, flags_fit_ports,
    there_is_time_to_stop, budgets_fit, scaling_is_not_undone, pods_are_confined, memory_is_bounded, variables_are_defined,
    volumes_are_there, policies_hold, addresses_are_there,
] + encryption.RULES


def findings(objects):
    return [finding for rule in RULES for finding in rule(objects)]


def _ports(workload):
    containers_of = workload["spec"]["template"]["spec"]["containers"]
    return {port["name"]: port["containerPort"] for container in containers_of for port in container["ports"]}


def _pre_stop_seconds(container):
    pre_stop = container.get("lifecycle", {}).get("preStop")
    if pre_stop is None:
        return 0
    command = pre_stop.get("exec", {}).get("command", [])
    return int(command[1]) if len(command) == 2 and command[0] == "sleep" else None


def _fewest(objects, workload):
    for scaler in of_kind(objects, "HorizontalPodAutoscaler"):
        if scaler["spec"]["scaleTargetRef"]["name"] == workload["metadata"]["name"]:
            return scaler["spec"]["minReplicas"]
    return workload["spec"].get("replicas", 1)
