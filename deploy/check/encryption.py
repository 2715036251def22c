"""What must hold of certificates, tokens and who is told of them, in every rendering. Without any of it the insecure flag must be there.

A mistake is planted against each rule in planted_encryption.py.
"""

import fnmatch

from objects import containers, is_hook, name, named, of_kind, pods, selected, workloads

ROLE = "fulcrum-service"
NAMESPACE_OF_NAMES = ".svc.cluster.local"
FILES = ("CERT", "KEY", "CA")


def secrets_are_seen_to_change(objects):
    """What is mounted by subPath keeps its first content for the pod's life: a renewed certificate would never be read."""
    for thing, pod, container in containers(objects):
        secrets = {volume["name"] for volume in pod.get("volumes", []) if "secret" in volume}
        for mount in container.get("volumeMounts", []):
            if mount["name"] not in secrets:
                continue
            if "subPath" in mount:
                yield f"{name(thing)}: {mount['name']} is mounted by subPath, and never seen to change"
            if mount.get("readOnly") is not True:
                yield f"{name(thing)}: {mount['name']} can be written to"
        for volume in pod.get("volumes", []):
            if volume.get("secret", {"defaultMode": 0}).get("defaultMode", 0o644) & 0o007:
                yield f"{name(thing)}: all users of the pod can read {volume['name']}"


def encryption_is_whole(objects):
    """Either no file of the three, or all, from a folder that is mounted; and the flag that says that something is in plain text."""
    on = set()
    for thing, _, container in _processes(objects):
        variables = _variables(container)
        files = [variables.get(f"FULCRUM__TLS__{file}") for file in FILES]
        on.add(any(files))
        mounts = [mount["mountPath"] for mount in container.get("volumeMounts", [])]
        for file, path in zip(FILES, files):
            if any(files) and (path is None or path.rpartition("/")[0] not in mounts):
                yield f"{name(thing)}: the file of tls.{file.lower()} is in no volume"
        if ("--insecure-listen" in container["args"]) == _metrics_encrypted(variables):
            yield f"{name(thing)}: --insecure-listen must be there if, and only if, something is not encrypted"
    if len(on) > 1:
        yield "some processes are encrypted and others are not: they cannot speak with each other"


def probes_speak_as_metrics_do(objects):
    for thing, _, container in _processes(objects):
        wanted = "HTTPS" if _metrics_encrypted(_variables(container)) else "HTTP"
        for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
            if container.get(probe, {}).get("httpGet", {}).get("scheme", "HTTP") != wanted:
                yield f"{name(thing)}: {probe} does not ask by {wanted}"
    for monitor in of_kind(objects, "ServiceMonitor"):
        encrypted = any(_metrics_encrypted(_variables(container)) for _, _, container in _processes(objects))
        for endpoint in monitor["spec"]["endpoints"]:
            if (endpoint.get("scheme") == "https") != encrypted:
                yield f"{name(monitor)}: asks by another scheme than metrics are served by"
            if encrypted and endpoint.get("tlsConfig", {}).get("serverName") != ROLE:
                yield f"{name(monitor)}: does not ask for the role, and pods' addresses are in no certificate"


def certificates_have_their_names(objects):
    certificates = {thing["spec"]["secretName"]: thing for thing in of_kind(objects, "Certificate")}
    if not certificates:
        return
    used = set()
    for thing, pod in pods(objects):
        for volume in (volume for volume in pod.get("volumes", []) if volume["name"] == "tls"):
            secret = volume["secret"]["secretName"]
            used.add(secret)
            if secret not in certificates:
                yield f"{name(thing)}: no Certificate makes the secret {secret}"
            elif is_hook(thing):
                yield from _of_client(certificates[secret])
            else:
                yield from _of_process(certificates[secret], thing, objects)
    for secret in sorted(certificates.keys() - used):
        yield f"{name(certificates[secret])}: nobody mounts its secret"


def tokens_are_asked_for_by_all(objects):
    required = set()
    for thing, pod, container in _processes(objects):
        variables = _variables(container)
        required.add(variables.get("FULCRUM__AUTH__REQUIRED"))
        there = {}
        for mount in container.get("volumeMounts", []):
            volume = next((volume for volume in pod.get("volumes", []) if volume["name"] == mount["name"]), {})
            for item in volume.get("secret", {}).get("items", []):
                there[f"{mount['mountPath']}/{item['path']}"] = item["key"]
        for key in ("INTERNAL_SECRET_FILE", "ROOT_TOKEN_FILE"):
            path = variables.get(f"FULCRUM__AUTH__{key}")
            if path is not None and path not in there:
                yield f"{name(thing)}: the file of auth.{key.lower()} is in no volume"
    if len(required) > 1:
        yield "some services ask for tokens and others do not"


RULES = [
    secrets_are_seen_to_change, encryption_is_whole, probes_speak_as_metrics_do, certificates_have_their_names, tokens_are_asked_for_by_all,
]


def _processes(objects):
    """Fulcrum's own, not etcd and not hooks."""
    for thing, pod, container in containers(objects):
        if any(word.startswith("fulcrum-") for word in container.get("command", [])):
            yield thing, pod, container


def _variables(container):
    return {variable["name"]: variable.get("value") for variable in container.get("env", [])}


def _metrics_encrypted(variables):
    return variables.get("FULCRUM__TLS__CERT") is not None and variables.get("FULCRUM__TLS__METRICS") == "true"


def _of_client(certificate):
    if ROLE in certificate["spec"]["dnsNames"]:
        yield f"{name(certificate)}: a client's has the role, and would open everything"
    if "client auth" not in certificate["spec"]["usages"]:
        yield f"{name(certificate)}: is not for clients"


def _of_process(certificate, workload, objects):
    names = certificate["spec"]["dnsNames"]
    if ROLE not in names:
        yield f"{name(certificate)}: lacks the role {ROLE}"
    if not {"server auth", "client auth"} <= set(certificate["spec"]["usages"]):
        yield f"{name(certificate)}: is not for servers and clients, and processes are both"
    for wanted in ["localhost"] + _addresses(workload, objects):
        if not any(fnmatch.fnmatchcase(wanted, one) and wanted.count(".") == one.count(".") for one in names):
            yield f"{name(certificate)}: lacks the name {wanted}"


def _addresses(workload, objects):
    """The names of its Services, and of its pods if they have any."""
    found = []
    for service in of_kind(objects, "Service"):
        if workload in selected(objects, service["spec"]["selector"]):
            own, namespace = service["metadata"]["name"], service["metadata"]["namespace"]
            found += [own, f"{own}.{namespace}", f"{own}.{namespace}.svc", f"{own}.{namespace}{NAMESPACE_OF_NAMES}"]
    if workload["kind"] == "StatefulSet":
        service = named(objects, "Service", workload["spec"]["serviceName"])["metadata"]
        pod = f"{workload['metadata']['name']}-0"
        found.append(f"{pod}.{service['name']}.{service['namespace']}{NAMESPACE_OF_NAMES}")
    return found
