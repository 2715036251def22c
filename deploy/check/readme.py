"""The chart's table of values, made from values.yaml; and whether values.yaml and values.schema.json know the same keys."""

import json
import re

import chart

BEGIN, END = "<!-- values: made by `cargo xtask deploy write` -->", "<!-- end of values -->"


def documented(text):
    """Pairs of a key's path and what stands after `# --` above it."""
    path, meaning, pairs = [], None, []
    for line in text.splitlines():
        comment = re.match(r"\s*# -- (.*)", line)
        key = re.match(r"( *)([A-Za-z]\w*):", line)
        if comment:
            meaning = comment.group(1)
        elif key:
            depth = len(key.group(1)) // 2
            path = path[:depth] + [key.group(2)]
            if meaning:
                pairs.append((".".join(path), meaning))
            meaning = None
    return pairs


def table(folder):
    values = chart.load(folder / "values.yaml")
    rows = ["| value | default | meaning |", "| --- | --- | --- |"]
    for path, meaning in documented((folder / "values.yaml").read_text()):
        default = json.dumps(_at(values, path), separators=(", ", ": "))
        rows.append(f"| `{path}` | `{default}` | {meaning.replace('|', chr(92) + '|')} |")
    return "\n".join(rows)


def written(folder):
    """The README as it should be."""
    text = (folder / "README.md").read_text()
    before, _, rest = text.partition(BEGIN)
    after = rest.partition(END)[2]
    return f"{before}{BEGIN}\n\n{table(folder)}\n\n{END}{after}"


def findings(folder):
    found = []
    if (folder / "README.md").read_text() != written(folder):
        found.append("README.md: its table is not that of values.yaml: run `cargo xtask deploy write`")
    values, schema = chart.load(folder / "values.yaml"), json.loads((folder / "values.schema.json").read_text())
    paths = {path for path, _ in documented((folder / "values.yaml").read_text())}
    for path in _leaves(values, paths):
        if not any(path == known or path.startswith(known + ".") for known in paths):
            found.append(f"values.yaml: {path} has no meaning above it")
    return found + list(_differences(values, schema, ""))


def _at(values, path):
    for key in path.split("."):
        values = values[key]
    return values


def _leaves(values, stops, prefix=""):
    for key, value in values.items():
        path = prefix + key
        if isinstance(value, dict) and value and path not in stops:
            yield from _leaves(value, stops, path + ".")
        else:
            yield path


def _differences(values, schema, prefix):
    properties = schema.get("properties")
    if properties is None:
        return
    for key in sorted(set(values) - set(properties)):
        yield f"values.schema.json: does not know {prefix}{key}"
    # Helm itself adds `global`.
    for key in sorted(set(properties) - set(values) - {"global"}):
        yield f"values.yaml: has no {prefix}{key}, which values.schema.json allows"
    if schema.get("additionalProperties") is not False:
        yield f"values.schema.json: lets misspelt keys pass below {prefix or 'the top'}"
    for key, value in values.items():
        if isinstance(value, dict) and key in properties:
            yield from _differences(value, properties[key], f"{prefix}{key}.")
