"""What the steps of `test.py` and `encrypted.py` stand on: commands, looks at the cluster, load, and the release.

What is not as it must be raises `Failed`, which ends the test.
"""

import json
import os
import pathlib
import subprocess
import threading
import time

import helm_python as helm
import yaml

NAMESPACE = RELEASE = "fulcrum"
MACHINES = [f"fulcrum-k8s-{number}" for number in (1, 2, 3)]
KEYSPACE = "real"
MARKER = "written before all steps"

STEPS = {}


class Failed(Exception):
    """A step saw what must not be."""


def step(function):
    STEPS[function.__name__.replace("_", "-")] = function
    return function


def check(holds, otherwise):
    if not holds:
        raise Failed(otherwise)


def run(command, within=120, good=(0,), only_out=False, variables=None, text=None):
    """A command's output; one that ends otherwise than expected fails the step."""
    words, environment = [str(word) for word in command], {**os.environ, **(variables or {})}
    done = subprocess.run(words, capture_output=True, text=True, timeout=within, env=environment, input=text)
    check(done.returncode in good, f"{' '.join(map(str, command))}: exit code {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout if only_out else done.stdout + done.stderr


def kubectl(*words, within=120, good=(0,)):
    return run(["kubectl", "-n", NAMESPACE, *words], within, good)


def get(*words):
    return json.loads(kubectl("get", *words, "-o", "json"))


def until(what, within, so):
    """Looks every half second; answers with how long it took."""
    began = time.monotonic()
    while True:
        try:
            if so():
                return time.monotonic() - began
            why = ""
        except Failed as failed:
            why = f": {failed}"
        check(time.monotonic() - began < within, f"not seen within {within} s: {what}{why}")
        time.sleep(0.5)


def pods(component):
    return get("pods", "-l", f"app.kubernetes.io/component={component}")["items"]


def is_ready(pod):
    conditions = pod["status"].get("conditions", [])
    ready = any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)
    return ready and "deletionTimestamp" not in pod["metadata"]


def all_ready(numbers):
    return all(sum(map(is_ready, pods(component))) == number == len(pods(component)) for component, number in numbers.items())


NORMAL = {"shard-node": 3, "router": 2, "coordinator": 2, "etcd": 3}


class Load:
    """Clients that ask while something is done, and a count of their requests: two benches that take turns, so that there is always one."""

    ROUND = 8

    def __init__(self, test):
        self.test, self.over = test, threading.Event()
        self.answered, self.failed, self.rounds = 0, [], 0
        self.threads = [threading.Thread(target=self.repeat, args=(turn,)) for turn in range(2)]

    def repeat(self, turn):
        time.sleep(turn * self.ROUND / 2)
        while not self.over.is_set():
            words = ["bench", "load", "--skip-load", "--workload", "A", "--clients", "1", "--records", "1000", "-o", "json"]
            try:
                told = json.loads(self.test.client(*words, "--duration", f"{self.ROUND}s", "--deadline", "5s", only_out=True))
            except (Failed, ValueError) as error:
                self.failed.append(str(error))
                continue
            self.answered += sum(operation["answered"] for operation in told["operations"])
            self.failed += [f"{error['count']} x {error['operation']}: {error['code']}" for error in told["errors"]]
            self.rounds += 1

    def __enter__(self):
        for thread in self.threads:
            thread.start()
        time.sleep(self.ROUND)
        return self

    def __exit__(self, kind, error, trace):
        self.over.set()
        for thread in self.threads:
            thread.join()
        if error is None:
            check(self.answered > 500, f"only {self.answered} requests were answered: that is no load")

    def unharmed(self):
        check(not self.failed, f"requests failed: {'; '.join(self.failed)}")
        return f"no request failed of {self.answered}"

    def counted(self):
        return f"{self.answered} requests were answered, failed: {'; '.join(self.failed) or 'none'}"


def merge(values, more):
    """As Helm does it: mappings are merged, everything else is replaced."""
    for key, value in more.items():
        if isinstance(value, dict) and isinstance(values.get(key), dict):
            merge(values[key], value)
        else:
            values[key] = value


class Test:
    def __init__(self, root, fulcrum, image, prometheus, more):
        self.root, self.fulcrum, self.prometheus = pathlib.Path(root), fulcrum, prometheus
        # What clients show, by environment.
        self.shows = {}
        self.chart = self.root / "deploy/helm/fulcrum"
        self.values = yaml.safe_load((self.root / "tests/k8s/real/values.yaml").read_text())
        if more:
            merge(self.values, yaml.safe_load(pathlib.Path(more).read_text()))
        self.values["image"]["repository"], self.values["image"]["tag"] = image.rsplit(":", 1)

    def routers(self):
        """The routers by the ports of all machines, so that any machine may go."""
        port = get("service", "fulcrum-router")["spec"]["ports"][0]["nodePort"]
        nodes = json.loads(run(["kubectl", "get", "nodes", "-o", "json"]))["items"]
        return ",".join(f"{node['status']['addresses'][0]['address']}:{port}" for node in nodes)

    def client(self, *words, good=(0,), within=60, only_out=False):
        return run([self.fulcrum, *words, "--router", self.routers()], within, good, only_out, self.shows)

    def config(self):
        return helm.Config(namespace=NAMESPACE)

    def install(self):
        with self.config() as config:
            config.install(str(self.chart), RELEASE, self.values, wait="watcher", timeout=240, create_namespace=True)

    def upgrade(self, change):
        values = json.loads(json.dumps(self.values))
        for component, own in change.items():
            values[component].update(own)
        with self.config() as config:
            config.upgrade(str(self.chart), RELEASE, values, wait="watcher", timeout=300)

    def whole(self):
        """All replicas of all groups in sync, by the cluster's own word."""
        status = json.loads(self.client("status", "-o", "json", only_out=True))
        return all(len(group["in_sync"]) == len(group["replicas"]) for group in status["groups"])

    def healed(self):
        for machine in MACHINES:
            run(["docker", "unpause", machine], good=(0, 1))
            run(["kubectl", "uncordon", machine])

    def settled(self, numbers=None):
        until("all pods are ready", 240, lambda: all_ready(numbers or NORMAL))
        until("all replicas are in sync", 120, self.whole)

    def rolled(self, values, component):
        """An upgrade that changes nothing but makes every pod of a component another one, while clients ask."""
        self.settled()
        before = {pod["metadata"]["uid"] for pod in pods(component)}
        with Load(self) as load:
            self.upgrade({values: {"podAnnotations": {"test/turn": str(time.time())}}})
            until(f"every {component} is another pod", 240, lambda: before.isdisjoint(pod["metadata"]["uid"] for pod in pods(component)))
            self.settled()
        return load.unharmed()


def clear(test):
    """As before the first install: no release, no claims, empty volumes."""
    run(["kubectl", "create", "namespace", NAMESPACE], good=(0, 1))
    with test.config() as config:
        config.uninstall(RELEASE, timeout=120, ignore_not_found=True)
    until("all pods are gone", 180, lambda: not get("pods")["items"])
    kubectl("delete", "pvc", "--all")
    for volume in json.loads(run(["kubectl", "get", "pv", "-o", "json"]))["items"]:
        claim = volume["spec"].get("claimRef")
        if not claim or claim["namespace"] != NAMESPACE:
            continue
        machine, _, number = volume["metadata"]["name"].rpartition("-")
        run(["docker", "exec", machine, "find", f"/var/local/volumes/{number}", "-mindepth", "1", "-delete"])
        run(["kubectl", "patch", "pv", volume["metadata"]["name"], "--type=json", "-p", '[{"op": "remove", "path": "/spec/claimRef"}]'])


def begin(test):
    """A new release on empty volumes, with a keyspace, a marker and what the load asks for; how long its pods took."""
    clear(test)
    began = time.monotonic()
    test.install()
    check(all_ready(NORMAL), "helm has waited, and not all pods are ready")
    took = time.monotonic() - began
    test.client("keyspace", "create", KEYSPACE, "--groups", "4", "--replication-factor", "3", "--mode", "sync")
    test.client("put", KEYSPACE, "marker", MARKER)
    test.client("bench", "load", "--workload", "A", "--clients", "2", "--records", "1000", "--duration", "1s")
    return took


def hook(test):
    """`helm test`."""
    with test.config() as config:
        told = config.test(RELEASE, timeout=120, logs=True)
    check("moved in a transaction" in told["logs"], f"the hook's pod says: {told['logs']}")
    return "the hook's pod wrote, read and ran a transaction"
