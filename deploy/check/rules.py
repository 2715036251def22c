"""The chart's rules for Prometheus are those of deploy/prometheus: a chart can hold only files of its own, so they are copied."""


def _pairs(deploy):
    source, copies = deploy / "prometheus/rules", deploy / "helm/fulcrum/files"
    names = sorted({path.name for folder in (source, copies) for path in folder.glob("*.yml")})
    return [(source / name, copies / name) for name in names]


def findings(deploy):
    found = []
    for source, copied in _pairs(deploy):
        if not source.exists():
            found.append(f"helm/fulcrum/files/{copied.name} is a copy of nothing: put it into prometheus/rules, or remove it")
        elif not copied.exists() or copied.read_text() != source.read_text():
            found.append(f"helm/fulcrum/files/{copied.name} is not prometheus/rules/{copied.name}: cargo xtask deploy write")
    return found


def count(deploy):
    return len(_pairs(deploy))


def write(deploy):
    for source, copied in _pairs(deploy):
        if source.exists():
            copied.write_text(source.read_text())
