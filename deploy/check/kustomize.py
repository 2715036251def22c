"""k8s/ beside the chart: the same objects, but for what only Helm needs."""

import copy
import json
import subprocess

import yaml

import chart
from objects import is_hook, name

# Each folder, and the files of values with which the chart says the same. No two of one folder set the same value.
PAIRS = {
    "base": [],
    "overlays/kind": ["kind.yaml"],
    "overlays/production": ["production.yaml"],
    "overlays/production-tls": ["production.yaml", "tls-values.yaml"],
}

HELM_ONLY = ("helm.sh/chart", "app.kubernetes.io/managed-by")

HEADER = """\
# Made from the chart by `cargo xtask deploy write`; change the chart, or patch this in an overlay. Why things are as they are
# stands in the chart's templates.
"""


def without_helm(objects):
    """Copies without hooks and without labels that only Helm needs."""
    copies = [copy.deepcopy(thing) for thing in objects if not is_hook(thing)]
    for thing in copies:
        for label in HELM_ONLY:
            thing["metadata"].get("labels", {}).pop(label, None)
    return copies


def built(kubectl, folder):
    """What `kubectl kustomize` makes of a folder."""
    done = subprocess.run([kubectl, "kustomize", str(folder)], capture_output=True, text=True, timeout=120)
    if done.returncode != 0:
        raise ValueError(f"{folder}: {done.stderr.strip()}")
    return chart.documents(done.stdout)


def differences(ours, charts):
    """Object by object, and within objects each value that differs."""
    ours, charts = _by_name(ours), _by_name(charts)
    found = [f"{key}: only in k8s/" for key in sorted(ours.keys() - charts.keys())]
    found += [f"{key}: only in the chart" for key in sorted(charts.keys() - ours.keys())]
    for key in sorted(ours.keys() & charts.keys()):
        found += [f"{key}: {difference}" for difference in _within(ours[key], charts[key], "")]
    return found


def _by_name(objects):
    return {f"{thing['apiVersion']} {name(thing)}": thing for thing in objects}


def _within(ours, charts, path):
    if isinstance(ours, dict) and isinstance(charts, dict):
        for key in sorted(ours.keys() | charts.keys()):
            yield from _within(ours.get(key), charts.get(key), f"{path}.{key}")
    elif isinstance(ours, list) and isinstance(charts, list) and len(ours) == len(charts):
        for index, (left, right) in enumerate(zip(ours, charts)):
            yield from _within(left, right, f"{path}[{index}]")
    elif ours != charts:
        yield f"{path}: {json.dumps(ours)} in k8s/, {json.dumps(charts)} in the chart"


def write_base(folder, objects):
    """One file a component, and the list of them."""
    files = {}
    for thing in without_helm(objects):
        component = thing["metadata"]["labels"]["app.kubernetes.io/component"]
        files.setdefault(f"{component}.yaml", []).append(thing)
    for file, things in files.items():
        (folder / file).write_text(HEADER + yaml.safe_dump_all(things, sort_keys=False, width=200))
    listed = {"apiVersion": "kustomize.config.k8s.io/v1beta1", "kind": "Kustomization"}
    listed |= {"namespace": chart.NAMESPACE, "resources": sorted(files)}
    (folder / "kustomization.yaml").write_text(HEADER + yaml.safe_dump(listed, sort_keys=False))
