"""The steps on a release with encryption and tokens: who is let in, who is not, and what Prometheus, an upgrade and a new certificate make of it.

Certificates are those of `fulcrum cert dev`, in secrets; they and the tokens lie in a folder beside the kubeconfig, so that single steps find them again.
Prometheus is a real one on this machine, which reaches pods as the machines do. It goes by the chart's own ServiceMonitor, written down as its operator would. Debian's is built
without the discovery of Kubernetes: a file tells it of all endpoints, with the labels that discovery would give them.

Left out: cert-manager, the operator itself, discovery while pods come and go.
"""

import contextlib
import json
import os
import pathlib
import shutil
import socket
import ssl
import subprocess
import time
import urllib.parse
import urllib.request

import helm_python as helm
import yaml

from ground import KEYSPACE, NAMESPACE, NORMAL, RELEASE
from ground import Load, begin, check, get, hook, kubectl, merge, pods, run, step, until

ROLE = "fulcrum-service"
ADDRESSES = [f"172.31.9.1{number}" for number in (1, 2, 3)]
OURS = ("shard-node", "router", "coordinator")
REFUSED = range(1, 128)
PROMETHEUS = "127.0.0.1:19490"


def folder():
    return pathlib.Path(os.environ["KUBECONFIG"]).parent / "encrypted"


def names():
    """Those by which clients and processes ask for a certificate, from in and outside of the cluster."""
    services = [f"{RELEASE}-{component}" for component in ("router", "coordinator")]
    lengths = ("", f".{NAMESPACE}", f".{NAMESPACE}.svc", f".{NAMESPACE}.svc.cluster.local")
    return [service + length for service in services for length in lengths] + ADDRESSES


def certificates(test, into):
    words = [word for name in names() for word in ("--host", name)]
    run([test.fulcrum, "cert", "dev", "--dir", into, *words])


def secret(name, **files):
    """Made, or replaced. A text is taken as it is, a path is read."""
    words = [f"--from-literal={key}={value}" if isinstance(value, str) else f"--from-file={key}={value}" for key, value in files.items()]
    text = kubectl("create", "secret", "generic", name, *words, "--dry-run=client", "-o", "yaml")
    run(["kubectl", "-n", NAMESPACE, "apply", "-f", "-"], text=text)


def shown(authority="certs", client="certs", token=None):
    """What a client shows: an authority, a certificate unless None, a token unless None."""
    at = folder()
    shows = {"FULCRUM_TLS_CA": str(at / authority / "ca.pem")}
    if client:
        shows |= {"FULCRUM_TLS_CERT": str(at / client / "client.pem"), "FULCRUM_TLS_KEY": str(at / client / "client.key")}
    if token:
        shows["FULCRUM_TOKEN_FILE"] = str(at / token)
    return shows


def encrypted(test):
    """From here on the release is the encrypted one, and its clients are let in."""
    check(folder().is_dir(), "there are no certificates: the step encrypted-install makes them")
    merge(test.values, yaml.safe_load((test.root / "tests/k8s/real/encrypted-values.yaml").read_text()))
    test.shows = shown(token="root-token")


def token(test, name, right):
    made = run([test.fulcrum, "token", "create", name, "--right", right, "--router", test.routers()], only_out=True, variables=test.shows)
    keep(folder() / name, made)


def keep(file, text):
    file.touch(mode=0o600)
    file.write_text(text)


@step
def encrypted_install(test):
    at = folder()
    shutil.rmtree(at, ignore_errors=True)
    at.mkdir(mode=0o700)
    for which in ("certs", "strangers"):
        certificates(test, at / which)
    own = {name: at / "certs" / file for name, file in (("tls.crt", "service.pem"), ("tls.key", "service.key"), ("ca.crt", "ca.pem"))}
    root, internal = (json.loads(run([test.fulcrum, "token", "generate", what, "-o", "json"], only_out=True)) for what in ("root", "internal"))
    keep(at / "root-token", root["text"])
    run(["kubectl", "create", "namespace", NAMESPACE], good=(0, 1))
    secret("fulcrum-tls", **own)
    secret("fulcrum-client-tls", **own | {"tls.crt": at / "certs/client.pem", "tls.key": at / "certs/client.key"})
    secret("fulcrum-auth", **{"internal-secret": internal["text"], "root-token-hash": root["hash"]})
    encrypted(test)
    took = begin(test)
    token(test, "helm-test", "*:admin")
    token(test, "reader", f"{KEYSPACE}:read")
    secret("fulcrum-test-token", token=at / "helm-test")
    return f"{sum(NORMAL.values())} pods ready after {took:.0f} s, probes by https; the root token made two others"


@step
def encrypted_helm_test(test):
    encrypted(test)
    return hook(test)


@step
def strangers(test):
    encrypted(test)
    ask = ["get", KEYSPACE, "marker", "--deadline", "5s"]
    put = ["put", KEYSPACE, "marker", "by a stranger", "--deadline", "5s"]
    cases = [
        ("no encryption", {}, ask, ""),
        ("no certificate", shown(client=None, token="reader"), ask, "wants a certificate"),
        ("a certificate of another authority", shown(client="strangers", token="reader"), ask, "does not know the authority"),
        ("no token", shown(), ask, "UNAUTHENTICATED"),
        ("a token that may only read", shown(token="reader"), put, "PERMISSION_DENIED"),
    ]
    for who, shows, words, why in cases:
        test.shows = shows
        said = test.client(*words, "-o", "json", good=REFUSED)
        check(why in said, f"{who} was refused, but without `{why}`: {said}")
    test.shows = shown(token="reader")
    said = test.client(*ask)
    check("by a stranger" not in said, f"a refused write is there: {said}")
    return "refused: " + ", ".join(who for who, *_ in cases) + "; one with a certificate and the right reads"


@step
def audit(test):
    encrypted(test)
    lines = []
    for component in ("router", "coordinator"):
        for pod in pods(component):
            name = pod["metadata"]["name"]
            text = kubectl("exec", name, "--", "sh", "-c", f"cat /var/log/fulcrum/{name}.jsonl 2>/dev/null || true")
            lines += [json.loads(line) for line in text.splitlines() if line.startswith("{")]
    begun, ended = ({line["call"] for line in lines if line["phase"] == phase and line["verb"] == "token.create"} for phase in ("begin", "end"))
    check(begun and begun == ended, f"tokens were made, and the files have {len(begun)} beginnings and {len(ended)} ends of that")
    check(any(line["name"] == "root" for line in lines), "nobody is called root in the files")
    return f"{len(lines)} lines in the files of pods, {len(begun)} tokens made, each with its end"


def label(name):
    """As discovery calls a Service's label."""
    return "__meta_kubernetes_service_label_" + "".join(sign if sign.isalnum() else "_" for sign in name)


def discovered():
    """Every port of every endpoint in the namespace."""
    services = {one["metadata"]["name"]: one["metadata"].get("labels", {}) for one in get("services")["items"]}
    found = []
    for one in get("endpoints")["items"]:
        name = one["metadata"]["name"]
        labels = {label(key): value for key, value in services.get(name, {}).items()}
        labels |= {"__meta_kubernetes_namespace": NAMESPACE, "__meta_kubernetes_service_name": name}
        for subset in one.get("subsets") or []:
            for port in subset.get("ports") or []:
                targets = [f"{address['ip']}:{port['port']}" for address in subset.get("addresses") or []]
                found.append({"targets": targets, "labels": labels | {"__meta_kubernetes_endpoint_port_name": port.get("name", "")}})
    return found


def scraping(test):
    """The chart's ServiceMonitor as a job of Prometheus."""
    values = json.loads(json.dumps(test.values))
    merge(values, {"monitoring": {"serviceMonitor": {"enabled": True, "interval": "2s"}}})
    with helm.Chart.load(str(test.chart)) as chart:
        texts = chart.render(values, name=RELEASE, namespace=NAMESPACE)
    objects = [one for path, text in texts.items() if path.endswith("monitoring.yaml") for one in yaml.safe_load_all(text) if one]
    monitor = next(one for one in objects if one["kind"] == "ServiceMonitor")["spec"]
    [endpoint] = monitor["endpoints"]

    relabel = [{"source_labels": [label(name)], "regex": value, "action": "keep"} for name, value in monitor["selector"]["matchLabels"].items()]
    relabel += [{"source_labels": ["__meta_kubernetes_endpoint_port_name"], "regex": endpoint["port"], "action": "keep"}]
    relabel += [{"source_labels": [label(monitor["jobLabel"])], "target_label": "job"}]
    snake = {"sourceLabels": "source_labels", "targetLabel": "target_label"}
    relabel += [{snake.get(key, key): value for key, value in one.items()} for one in endpoint["relabelings"]]
    job = {
        "job_name": "fulcrum",
        "scrape_interval": endpoint["interval"],
        "scrape_timeout": endpoint["interval"],
        "file_sd_configs": [{"files": ["endpoints.json"]}],
        "relabel_configs": relabel,
    }
    if endpoint.get("scheme") == "https":
        # The operator reads the authority from the secret.
        check(endpoint["tlsConfig"]["ca"]["secret"]["name"] == "fulcrum-tls", f"another authority is trusted: {endpoint}")
        job |= {"scheme": "https", "tls_config": {"server_name": endpoint["tlsConfig"]["serverName"], "ca_file": str(folder() / "certs/ca.pem")}}
    rules = sorted(str(path) for path in (test.root / "deploy/prometheus/rules").glob("*.yml"))
    return {"global": {"evaluation_interval": "2s"}, "rule_files": rules, "scrape_configs": [job]}


@contextlib.contextmanager
def prometheus(test):
    """A Prometheus; what it answers to a path."""
    at = folder() / "prometheus"
    shutil.rmtree(at, ignore_errors=True)
    at.mkdir()
    (at / "prometheus.yml").write_text(yaml.safe_dump(scraping(test)))
    (at / "endpoints.json").write_text(json.dumps(discovered()))

    def ask(path, **query):
        with urllib.request.urlopen(f"http://{PROMETHEUS}{path}?{urllib.parse.urlencode(query)}", timeout=10) as answer:
            return json.load(answer)["data"]

    with (at / "log").open("w") as log:
        words = [test.prometheus, "--config.file=prometheus.yml", "--storage.tsdb.path=data", f"--web.listen-address={PROMETHEUS}"]
        process = subprocess.Popen(words, cwd=at, stdout=log, stderr=log)
    try:
        until(f"Prometheus answers, see {at}/log", 60, lambda: answers(ask) or process.poll() is not None)
        check(process.poll() is None, f"Prometheus has ended: {(at / 'log').read_text()[-2000:]}")
        yield ask
    finally:
        process.terminate()
        process.wait(timeout=30)


def answers(ask):
    try:
        return bool(ask("/api/v1/status/config"))
    except OSError:
        return False


@step
def scrape(test):
    """After `strangers`: what was refused there must be counted."""
    encrypted(test)
    number = sum(NORMAL.values())
    with prometheus(test) as ask:

        def targets():
            return ask("/api/v1/targets", state="active")["activeTargets"]

        def told():
            return [(one["labels"]["service"], one["scrapeUrl"], one["health"], one["lastError"]) for one in targets()]

        try:
            until(f"{number} targets are up", 60, lambda: [one["health"] for one in targets()] == ["up"] * number)
        finally:
            (folder() / "targets.json").write_text(json.dumps(told(), indent=1))
        by_https = [one for one in targets() if one["scrapeUrl"].startswith("https:")]
        check(len(by_https) == number - NORMAL["etcd"], f"{len(by_https)} targets are asked by https")

        def counted(metric):
            said = ask("/api/v1/query", query=f"sum by (reason) ({metric}) > 0")["result"]
            return {one["metric"]["reason"]: float(one["value"][1]) for one in said}

        tls, auth = counted("fulcrum_tls_refused_total"), counted("fulcrum_auth_refused_total")
        lacks = {"plain_text", "no_certificate", "wrong_authority"} - set(tls) | {"missing", "denied"} - set(auth)
        check(not lacks, f"refused by strangers, and not counted: {lacks}; counted are {tls} and {auth}")

        def health():
            groups = ask("/api/v1/rules")["groups"]
            return [rule["health"] for group in groups for rule in group["rules"]]

        until("all rules are evaluated", 60, lambda: set(health()) == {"ok"})
        rules = len(health())
    return f"{number} targets up, {len(by_https)} of them by https; {rules} rules well; refusals counted by reason: {', '.join(sorted(tls | auth))}"


@step
def encrypted_upgrade(test):
    encrypted(test)
    nodes = test.rolled("shardNode", "shard-node")
    routers = test.rolled("router", "router")
    return f"shard-nodes: {nodes}; routers: {routers}"


def metrics(address):
    """What the metrics port of a pod says, asked as Prometheus asks."""
    context = ssl.create_default_context(cafile=str(folder() / "certs/ca.pem"))
    with socket.create_connection((address, 9400), timeout=5) as plain, context.wrap_socket(plain, server_hostname=ROLE) as door:
        door.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
        return b"".join(iter(lambda: door.recv(65536), b"")).decode()


def ends_at(pod):
    lines = metrics(pod["status"]["podIP"]).splitlines()
    return next(float(line.split()[-1]) for line in lines if line.startswith("fulcrum_tls_certificate_expires_seconds"))


def restarts(ours):
    return sum(status["restartCount"] for pod in ours for status in pod["status"]["containerStatuses"])


def renew(at):
    """Another certificate of the same authority, for fewer days."""
    names_of = ",".join(f"IP:{name}" if name in ADDRESSES else f"DNS:{name}" for name in [ROLE, *names()])
    (at / "extensions").write_text(f"subjectAltName={names_of}\nkeyUsage=digitalSignature\nextendedKeyUsage=serverAuth,clientAuth\n")
    key, request, made = at / "renewed.key", at / "renewed.csr", at / "renewed.pem"
    run(["openssl", "req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", key, "-subj", "/CN=renewed", "-out", request])
    authority = ["-CA", at / "ca.pem", "-CAkey", at / "ca.key", "-set_serial", str(int(time.time()))]
    run(["openssl", "x509", "-req", "-in", request, *authority, "-days", "90", "-extfile", at / "extensions", "-out", made])
    return {"tls.crt": made, "tls.key": key, "ca.crt": at / "ca.pem"}


@step
def new_certificate(test):
    """A new certificate in the secret: taken by every process without a restart."""
    encrypted(test)
    test.settled()
    ours = [pod for component in OURS for pod in pods(component)]
    before = {pod["metadata"]["uid"] for pod in ours}
    old = {ends_at(pod) for pod in ours}
    with Load(test) as load:
        secret("fulcrum-tls", **renew(folder() / "certs"))
        took = until("every process has the new certificate", 240, lambda: old.isdisjoint(ends_at(pod) for pod in ours))
    after = [pod for component in OURS for pod in pods(component)]
    check({pod["metadata"]["uid"] for pod in after} == before, "pods were replaced for it")
    check(restarts(after) == restarts(ours), "containers were started again for it")
    return f"in force at all {len(ours)} processes after {took:.0f} s, none restarted; {load.unharmed()}"
