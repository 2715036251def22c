"""The chart, as Helm's own library lints and renders it."""

import copy
import pathlib

import helm_python as helm
import yaml

RELEASE, NAMESPACE = "fulcrum", "fulcrum"


class Strict(yaml.SafeLoader):
    """Refuses a key that stands twice in a mapping; the later one would win without a word."""


def _mapping(loader, node):
    keys = [key.value for key, _ in node.value]
    twice = {key for key in keys if keys.count(key) > 1}
    if twice:
        raise yaml.YAMLError(f"stands twice: {', '.join(sorted(twice))}, {node.start_mark}")
    return yaml.SafeLoader.construct_mapping(loader, node, deep=True)


Strict.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)


def load(path):
    return yaml.load(pathlib.Path(path).read_text(), Strict) or {}


def documents(text):
    """The objects of a text with several documents; empty ones are left out."""
    return [document for document in yaml.load_all(text, Strict) if document]


def lint(folder, values, version):
    """What Helm's linter says, warnings too. The icon that it recommends is not one."""
    said = helm.lint(str(folder), values, strict=True, kube_version=f"v{version}.0")
    return [message["error"] for message in said["messages"] if message["severity"] > 1]


def render(folder, values, version):
    """All objects for one version of Kubernetes, hooks too. Refused values raise `helm.HelmError`."""
    values = copy.deepcopy(values)
    values["kubeVersionOverride"] = f"{version}.0"
    with helm.Chart.load(str(folder)) as chart:
        texts = chart.render(values, name=RELEASE, namespace=NAMESPACE)
    objects = []
    for path, text in sorted(texts.items()):
        if not path.endswith("NOTES.txt"):
            objects += documents(text)
    return objects


def refusal(folder, values, version):
    """Why these values are refused; None if they are not."""
    try:
        render(folder, values, version)
    except helm.HelmError as error:
        return str(error)
    return None
