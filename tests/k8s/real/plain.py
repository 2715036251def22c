"""The steps on a release as the chart makes it by default: without encryption, without tokens."""

import json
import subprocess

import yaml

from ground import KEYSPACE, MACHINES, MARKER, NAMESPACE, NORMAL, RELEASE
from ground import Load, all_ready, begin, check, get, hook, is_ready, kubectl, pods, run, step, until


@step
def install(test):
    took = begin(test)
    return f"{sum(NORMAL.values())} pods ready after {took:.0f} s"


@step
def helm_test(test):
    return hook(test)


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
    return test.rolled("shardNode", "shard-node")


@step
def upgrade_routers(test):
    return test.rolled("router", "router")


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
