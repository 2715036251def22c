"""How the checks look at objects: by kind, by pod, by labels."""


def of_kind(objects, *kinds):
    return [thing for thing in objects if thing["kind"] in kinds]


def name(thing):
    return f"{thing['kind']} {thing['metadata']['name']}"


def is_hook(thing):
    return "helm.sh/hook" in thing["metadata"].get("annotations", {})


def workloads(objects):
    return of_kind(objects, "Deployment", "StatefulSet")


def pods(objects):
    """Pairs of a workload or pod, and the specification of its pods."""
    pairs = [(thing, thing["spec"]["template"]["spec"]) for thing in workloads(objects)]
    return pairs + [(thing, thing["spec"]) for thing in of_kind(objects, "Pod")]


def containers(objects):
    """Triples of a workload or pod, its specification and each container."""
    return [
        (thing, pod, container)
        for thing, pod in pods(objects)
        for container in pod.get("initContainers", []) + pod["containers"]
    ]


def pod_labels(workload):
    return workload["spec"]["template"]["metadata"]["labels"]


def selected(objects, labels):
    """The workloads whose pods have all these labels."""
    return [thing for thing in workloads(objects) if labels.items() <= pod_labels(thing).items()]


def named(objects, kind, wanted):
    return next((thing for thing in of_kind(objects, kind) if thing["metadata"]["name"] == wanted), None)
