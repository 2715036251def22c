"""The chart on a real Kubernetes: what operators and machines do to it, and whether clients notice.

Promise: every step asserts what it says, and says what it saw; the first one that fails ends the test with exit code 1, after the state of the cluster was shown.
Load is `fulcrum bench` of this machine, outside of the cluster: where a step says "no request failed", its count of failures is 0.

Steps run in their order and build on each other; --only takes some, on the release that the last call has left. Machines are healed at the start and the end.
"""

import argparse
import json
import pathlib
import subprocess
import sys
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


def run(command, within=120, good=(0,), only_out=False):
    """A command's output; one that ends otherwise than expected fails the step."""
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=within)
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
    def __init__(self, root, fulcrum, image, more):
        self.root, self.fulcrum = pathlib.Path(root), fulcrum
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
        return run([self.fulcrum, *words, "--router", self.routers()], within, good, only_out)

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


@step
def install(test):
    clear(test)
    began = time.monotonic()
    test.install()
    check(all_ready(NORMAL), "helm has waited, and not all pods are ready")
    took = time.monotonic() - began
    test.client("keyspace", "create", KEYSPACE, "--groups", "4", "--replication-factor", "3", "--mode", "sync")
    test.client("put", KEYSPACE, "marker", MARKER)
    test.client("bench", "load", "--workload", "A", "--clients", "2", "--records", "1000", "--duration", "1s")
    return f"{sum(NORMAL.values())} pods ready after {took:.0f} s"


@step
def helm_test(test):
    with test.config() as config:
        told = config.test(RELEASE, timeout=120, logs=True)
    check("moved in a transaction" in told["logs"], f"the hook's pod says: {told['logs']}")
    return "the hook's pod wrote, read and ran a transaction"


@step
def kustomize(test):
    """The overlays, as the API server of this old version can judge them: what is newer than it is left out or renamed, and named."""
    newer = {"policy/v1": "policy/v1beta1", "autoscaling/v2": "autoscaling/v2beta2"}
    seen = set()
    number = 0
    for overlay in sorted((test.root / "k8s/overlays").iterdir()):
        objects = [one for one in yaml.safe_load_all(run(["kubectl", "kustomize", overlay], only_out=True)) if one]
        for one in objects:
            if one["apiVersion"] in newer:
                seen.add(one["apiVersion"])
                one["apiVersion"] = newer[one["apiVersion"]]
            if one["kind"] == "StatefulSet":
                gone = {"minReadySeconds", "persistentVolumeClaimRetentionPolicy"} & set(one["spec"])
                seen |= {f"StatefulSet.spec.{field}" for field in gone}
                for field in gone:
                    del one["spec"][field]
        number += len(objects)
        text = yaml.safe_dump_all(objects)
        done = subprocess.run(
            ["kubectl", "create", "--dry-run=server", "--validate=true", "--namespace", NAMESPACE, "-f", "-"], input=text, capture_output=True, text=True, timeout=120
        )
        said = [line for line in done.stderr.splitlines() if "already exists" not in line and not line.startswith("Warning")]
        check(not said, f"{overlay.name}: " + "\n".join(said))
    return f"{number} objects were taken by the server, without what 1.20 does not know: {', '.join(sorted(seen)) or 'nothing'}"


@step
def upgrade_nodes(test):
    test.settled()
    before = {pod["metadata"]["uid"] for pod in pods("shard-node")}
    with Load(test) as load:
        test.upgrade({"shardNode": {"podAnnotations": {"test/turn": str(time.time())}}})
        until("every shard-node is another pod", 240, lambda: before.isdisjoint(pod["metadata"]["uid"] for pod in pods("shard-node")))
        test.settled()
    return load.unharmed()


@step
def upgrade_routers(test):
    test.settled()
    before = {pod["metadata"]["uid"] for pod in pods("router")}
    with Load(test) as load:
        test.upgrade({"router": {"podAnnotations": {"test/turn": str(time.time())}}})
        until("every router is another pod", 240, lambda: before.isdisjoint(pod["metadata"]["uid"] for pod in pods("router")))
        test.settled()
    return load.unharmed()


@step
def drain(test):
    test.settled()
    words = ["--ignore-daemonsets", "--delete-emptydir-data"]
    try:
        with Load(test) as load:
            run(["kubectl", "drain", MACHINES[0], *words, "--timeout=120s"], 140)
            second = run(["kubectl", "drain", MACHINES[1], *words, "--timeout=20s"], 60, good=(1,))
            check("disruption budget" in second, f"the second drain was refused, but not by a budget: {second}")
            nodes = sum(map(is_ready, pods("shard-node")))
            check(nodes == 2, f"{nodes} shard-nodes are ready while one machine is empty and one was not let go")
    finally:
        test.healed()
    test.settled()
    check("shard-node" in second, f"the budget of shard-nodes refused nothing: {second}")
    return f"one machine was emptied, the second drain was refused by the budget; {load.unharmed()}"


@step
def pod_kill(test):
    test.settled()
    name = pods("shard-node")[0]["metadata"]["name"]
    with Load(test) as load:
        kubectl("delete", "pod", name, "--grace-period=0", "--force")
        test.settled()
    check(MARKER in test.client("get", KEYSPACE, "marker"), "what was written before is gone")
    return f"{name} came back with its data; {load.counted()}"


@step
def container_kill(test):
    test.settled()
    pod = pods("shard-node")[1]
    status = pod["status"]["containerStatuses"][0]
    machine, container = pod["spec"]["nodeName"], status["containerID"].split("//")[1]
    run(["docker", "exec", machine, "docker", "kill", "-s", "KILL", container])
    name, before = pod["metadata"]["name"], status["restartCount"]
    took = until("the container is started again", 60, lambda: get("pod", name)["status"]["containerStatuses"][0]["restartCount"] > before)
    test.settled()
    return f"{name} was started again in place, seen after {took:.0f} s"


@step
def node_pause(test):
    test.settled()
    machine = MACHINES[2]

    def state():
        node = json.loads(run(["kubectl", "get", "node", machine, "-o", "json"]))
        return next(one["status"] for one in node["status"]["conditions"] if one["type"] == "Ready")

    try:
        with Load(test) as load:
            run(["docker", "pause", machine])
            took = until("the machine is not ready", 60, lambda: state() != "True")
            # A machine that stands still takes connections, and answers none.
            others = ",".join(address for address in test.routers().split(",") if not address.startswith("172.31.9.13:"))
            run([test.fulcrum, "put", KEYSPACE, "while", "paused", "--deadline", "20s", "--router", others])
            check("paused" in run([test.fulcrum, "get", KEYSPACE, "while", "--router", others]), "what was written meanwhile cannot be read")
            run(["docker", "unpause", machine])
            until("the machine is ready", 60, lambda: state() == "True")
            test.settled()
    finally:
        test.healed()
    return f"seen as not ready after {took:.0f} s, written and read meanwhile; {load.counted()}"


@step
def scale(test):
    test.settled()
    test.upgrade({"shardNode": {"replicas": 4}})
    until("the fourth node is ready", 120, lambda: all_ready({**NORMAL, "shard-node": 4}))
    nodes = json.loads(test.client("status", "-o", "json", only_out=True))["nodes"]
    check(len(nodes) == 4, f"the cluster has {len(nodes)} nodes")
    test.client("node", "drain", "n4", within=120)
    test.upgrade({"shardNode": {"replicas": 3}})
    test.settled()
    check(MARKER in test.client("get", KEYSPACE, "marker"), "what was written before is gone")
    return "three nodes to four, drained, and back to three"


@step
def reinstall(test):
    test.settled()
    with test.config() as config:
        config.uninstall(RELEASE, timeout=120)
    until("all pods are gone", 180, lambda: not get("pods")["items"])
    claims = [claim["metadata"]["name"] for claim in get("pvc")["items"]]
    check(sum("shard-node" in claim for claim in claims) >= 3, f"claims that are left: {claims}")
    test.install()
    test.settled()
    check(MARKER in test.client("get", KEYSPACE, "marker"), "the data of the claims was not found")
    return f"{len(claims)} claims were kept, and the new release has their data"


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


def main():
    parser = argparse.ArgumentParser()
    for name in ("root", "fulcrum", "image"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--values")
    parser.add_argument("--only", default=",".join(STEPS))
    arguments = parser.parse_args()
    chosen = arguments.only.split(",")
    unknown = [name for name in chosen if name not in STEPS]
    if unknown:
        print(f"steps: {', '.join(STEPS)}", file=sys.stderr)
        return 2
    test = Test(arguments.root, arguments.fulcrum, arguments.image, arguments.values)
    for name in chosen:
        began = time.monotonic()
        try:
            test.healed()
            said = STEPS[name](test)
        except (Failed, helm.HelmError, subprocess.TimeoutExpired) as error:
            print(f"FAILED  {name}: {error}", flush=True)
            print(kubectl("get", "pods", "-o", "wide"))
            print(kubectl("get", "events", "--sort-by=.lastTimestamp")[-3000:])
            test.healed()
            return 1
        print(f"ok      {name} ({time.monotonic() - began:.0f} s): {said}", flush=True)
    test.healed()
    return 0


if __name__ == "__main__":
    sys.exit(main())
