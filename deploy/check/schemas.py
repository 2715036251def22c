"""Every object against the schemas of Kubernetes, strictly: an unknown field is an error.

Objects of the Prometheus operator and of cert-manager are in no schema of Kubernetes. For these the keys that the chart may use are listed here, so
that a misspelt one is found; whether these like the values is not checked.
"""

import functools
import re

import kubernetes_validate
from kubernetes_validate import utils

# The validator reads megabytes of schemas again for every object.
utils.schema_contents = functools.cache(utils.schema_contents)

KEYS_OF_CUSTOM_KINDS = {
    "ServiceMonitor": {
        "spec": {"jobLabel", "selector", "endpoints"},
        "spec.selector": {"matchLabels"},
        "spec.endpoints[]": {"port", "interval", "scheme", "tlsConfig", "relabelings"},
        "spec.endpoints[].tlsConfig": {"serverName", "ca"},
        "spec.endpoints[].tlsConfig.ca": {"secret"},
        "spec.endpoints[].tlsConfig.ca.secret": {"name", "key"},
        "spec.endpoints[].relabelings[]": {"sourceLabels", "regex", "targetLabel", "replacement"},
    },
    "Certificate": {
        "spec": {"secretName", "issuerRef", "duration", "renewBefore", "privateKey", "usages", "dnsNames", "ipAddresses"},
        "spec.issuerRef": {"name", "kind", "group"},
        "spec.privateKey": {"algorithm", "size", "encoding", "rotationPolicy"},
    },
    "PrometheusRule": {
        "spec": {"groups"},
        "spec.groups[]": {"name", "interval", "rules"},
        "spec.groups[].rules[]": {"alert", "record", "expr", "for", "labels", "annotations"},
    },
}


def versions():
    """All that the validator has, oldest first, as in `1.25`."""
    return list(dict.fromkeys(re.match(r"\d+\.\d+", version).group() for version in utils.all_versions()))


def findings(objects, version):
    found = []
    for thing in objects:
        name = f"{thing['kind']} {thing['metadata']['name']}"
        if thing["kind"] in KEYS_OF_CUSTOM_KINDS:
            found += [f"{name}: {finding}" for finding in _unknown_keys(thing)]
            continue
        try:
            kubernetes_validate.validate(thing, version, strict=True)
        except kubernetes_validate.ValidationError as error:
            path = ".".join(str(step) for step in error.absolute_path)
            found.append(f"{name}: {path or 'top'}: {error.message}")
        except kubernetes_validate.SchemaNotFoundError as error:
            found.append(f"{name}: {error.message}")
    return found


def _unknown_keys(thing):
    known = KEYS_OF_CUSTOM_KINDS[thing["kind"]]
    found = []

    def walk(value, path):
        if isinstance(value, list):
            for item in value:
                walk(item, path + "[]")
        elif isinstance(value, dict):
            for key in sorted(set(value) - known.get(path, set(value))):
                found.append(f"{path}: unknown key {key}")
            for key, inner in value.items():
                walk(inner, f"{path}.{key}")

    walk(thing["spec"], "spec")
    return found
