"""Mistakes about certificates and tokens, planted one at a time in renderings that have both. As in planted.py."""

from objects import named


def _pod(objects, component):
    wanted = f"fulcrum-{component}"
    workload = named(objects, "StatefulSet", wanted) or named(objects, "Deployment", wanted)
    return workload["spec"]["template"]["spec"]


def _container(objects, component):
    return _pod(objects, component)["containers"][0]


def _mount(objects, component, volume):
    return next(mount for mount in _container(objects, component)["volumeMounts"] if mount["name"] == volume)


def _certificate(objects, component):
    return named(objects, "Certificate", f"fulcrum-{component}")["spec"]


def _variable(objects, component, key):
    return next(variable for variable in _container(objects, component)["env"] if variable["name"] == f"FULCRUM__{key}")


def mounted_by_sub_path(objects):
    _mount(objects, "router", "tls").update(mountPath="/etc/fulcrum/tls/tls.crt", subPath="tls.crt")


def mounted_to_write(objects):
    del _mount(objects, "router", "tls")["readOnly"]


def key_for_all(objects):
    next(volume for volume in _pod(objects, "router")["volumes"] if volume["name"] == "tls")["secret"]["defaultMode"] = 0o444


def certificate_not_mounted(objects):
    _container(objects, "shard-node")["volumeMounts"].remove(_mount(objects, "shard-node", "tls"))


def key_not_named(objects):
    _container(objects, "router")["env"].remove(_variable(objects, "router", "TLS__KEY"))


def one_without_encryption(objects):
    container = _container(objects, "router")
    container["env"] = [variable for variable in container["env"] if not variable["name"].startswith("FULCRUM__TLS__")]
    container["args"].append("--insecure-listen")


def insecure_for_no_reason(objects):
    _container(objects, "router")["args"].append("--insecure-listen")


def probe_in_plain_text(objects):
    del _container(objects, "coordinator")["livenessProbe"]["httpGet"]["scheme"]


def monitor_in_plain_text(objects):
    del named(objects, "ServiceMonitor", "fulcrum-monitoring")["spec"]["endpoints"][0]["scheme"]


def monitor_by_address(objects):
    del named(objects, "ServiceMonitor", "fulcrum-monitoring")["spec"]["endpoints"][0]["tlsConfig"]["serverName"]


def no_role(objects):
    _certificate(objects, "coordinator")["dnsNames"].remove("fulcrum-service")


def service_name_missing(objects):
    _certificate(objects, "router")["dnsNames"].remove("fulcrum-router.fulcrum.svc")


def pod_names_missing(objects):
    _certificate(objects, "shard-node")["dnsNames"].remove("*.fulcrum-shard-node.fulcrum.svc.cluster.local")


def localhost_missing(objects):
    _certificate(objects, "router")["dnsNames"].remove("localhost")


def only_for_servers(objects):
    _certificate(objects, "router")["usages"].remove("client auth")


def client_with_role(objects):
    _certificate(objects, "test")["dnsNames"].append("fulcrum-service")


def client_as_server(objects):
    _certificate(objects, "test")["usages"] = ["server auth"]


def certificate_of_nobody(objects):
    _certificate(objects, "router")["secretName"] = "fulcrum-gateway-tls"


def misspelt_key_of_a_certificate(objects):
    certificate = _certificate(objects, "router")
    certificate["dnsName"] = certificate.pop("dnsNames")


def secret_not_mounted(objects):
    _container(objects, "router")["volumeMounts"].remove(_mount(objects, "router", "auth"))


def root_hash_not_in_secret(objects):
    volume = next(volume for volume in _pod(objects, "router")["volumes"] if volume["name"] == "auth")
    volume["secret"]["items"].pop()


def one_asks_for_no_tokens(objects):
    _variable(objects, "shard-node", "AUTH__REQUIRED")["value"] = "false"


def plain_metrics_without_flag(objects):
    _container(objects, "router")["args"].remove("--insecure-listen")


def compose_without_override(composed):
    del composed["services"]["shard-node-2"]


def compose_name_not_signed(composed):
    command = composed["services"]["certificates"]["command"]
    command[-1] = command[-1].replace("--host router-1 ", "")


def compose_not_mounted(composed):
    composed["services"]["coordinator"]["volumes"] = []


def compose_does_not_wait(composed):
    composed["services"]["router-2"]["depends_on"] = ["etcd"]


def compose_service_of_its_own(composed):
    composed["services"]["router-3"] = {}


# Of the rendering with cert-manager.
OF_CERTIFICATES = [
    (mounted_by_sub_path, "by subPath"), (mounted_to_write, "can be written to"), (key_for_all, "can read tls"),
    (certificate_not_mounted, "tls.cert is in no volume"), (key_not_named, "tls.key is in no volume"),
    (one_without_encryption, "others are not"), (insecure_for_no_reason, "--insecure-listen must be there if"),
    (probe_in_plain_text, "livenessProbe does not ask by HTTPS"), (monitor_in_plain_text, "another scheme"),
    (monitor_by_address, "does not ask for the role"), (no_role, "lacks the role"),
    (service_name_missing, "lacks the name fulcrum-router.fulcrum.svc"), (pod_names_missing, "lacks the name fulcrum-shard-node-0."),
    (localhost_missing, "lacks the name localhost"), (only_for_servers, "processes are both"), (client_with_role, "would open everything"),
    (client_as_server, "is not for clients"), (certificate_of_nobody, "no Certificate makes the secret fulcrum-router-tls"),
]

# Of the same, by its keys.
OF_KEYS = [(misspelt_key_of_a_certificate, "unknown key dnsName")]

# Of the rendering with tokens, where metrics are in plain text.
OF_TOKENS = [
    (secret_not_mounted, "auth.internal_secret_file is in no volume"), (root_hash_not_in_secret, "auth.root_token_file is in no volume"),
    (one_asks_for_no_tokens, "some services ask for tokens"), (plain_metrics_without_flag, "--insecure-listen must be there if"),
]

# Of compose.tls.yaml.
OF_COMPOSE = [
    (compose_without_override, "shard-node-2: is not encrypted"), (compose_name_not_signed, "router-1: its name is in no certificate"),
    (compose_not_mounted, "FULCRUM__TLS__CERT is in no volume"), (compose_does_not_wait, "does not wait until there are certificates"),
    (compose_service_of_its_own, "router-3: is in compose.tls.yaml only"),
]


def count():
    return len(OF_CERTIFICATES) + len(OF_KEYS) + len(OF_TOKENS) + len(OF_COMPOSE)
