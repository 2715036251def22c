"""deploy/compose.yaml beside what it mounts and what watches it, and compose.tls.yaml, which encrypts all of it."""

import pathlib
import re

import chart


# What every process needs to be encrypted, and found by its role.
OF_ENCRYPTION = {"FULCRUM__TLS__CERT", "FULCRUM__TLS__KEY", "FULCRUM__TLS__CA", "FULCRUM__TLS__SERVER_NAME"}


def load(folder):
    return chart.load(folder / "compose.yaml")


def load_tls(folder):
    return chart.load(folder / "compose.tls.yaml")


def findings_tls(compose, override):
    """What lies over compose.yaml encrypts every process of it, or none could speak with the others."""
    found, services = [], override["services"]
    made = " ".join(services["certificates"]["command"])
    for name, service in compose["services"].items():
        if "fulcrum" not in service["image"]:
            continue
        ours = services.get(name, {})
        missing = OF_ENCRYPTION - ours.get("environment", {}).keys()
        if missing:
            found.append(f"{name}: is not encrypted, for it lacks {', '.join(sorted(missing))}")
        if f"--host {name} " not in made + " ":
            found.append(f"{name}: its name is in no certificate")
        folders = [volume.split(":")[1] for volume in ours.get("volumes", []) if volume.split(":")[0] in override["volumes"]]
        for variable, path in ours.get("environment", {}).items():
            if path.startswith("/") and not any(path.startswith(f"{folder}/") for folder in folders):
                found.append(f"{name}: {variable} is in no volume")
        waits = ours.get("depends_on", {})
        if not isinstance(waits, dict) or waits.get("certificates", {}).get("condition") != "service_completed_successfully":
            found.append(f"{name}: does not wait until there are certificates")
    for name in sorted(services.keys() - compose["services"].keys() - {"certificates"}):
        found.append(f"{name}: is in compose.tls.yaml only")
    return found


def findings(folder, compose):
    found = []
    services = compose["services"]
    for name, service in services.items():
        image = re.sub(r"\$\{\w+:-(.*)\}", r"\1", service["image"])
        if image.rpartition(":")[2] in (image, "latest"):
            found.append(f"{name}: image {image} names no version")
        for port in service.get("ports", []):
            if not port.startswith("127.0.0.1:"):
                found.append(f"{name}: port {port} is open to other machines, and nothing is encrypted")
        for volume in service.get("volumes", []):
            source = volume.partition(":")[0]
            there = (folder / source).exists() if source.startswith("./") else source in compose["volumes"]
            if not there:
                found.append(f"{name}: there is no {source} to mount")
        found += [f"{name}: waits for {other}, which is not there" for other in service.get("depends_on", []) if other not in services]
        if "fulcrum" in image and not service.get("healthcheck"):
            found.append(f"{name}: nobody sees whether it is ready")
        found += _addresses(name, service, services)
    return found + list(_targets(folder, services))


def _addresses(name, service, services):
    words = service.get("command", []) + [str(value) for value in service.get("environment", {}).values()]
    for word in words:
        for host in re.findall(r"--advertise=([a-z0-9-]+):|http://([a-z][a-z0-9-]*):", word):
            host = host[0] or host[1]
            if host not in services:
                yield f"{name}: {word} names {host}, which is not there"
            if word.startswith("--advertise=") and host != name:
                yield f"{name}: says that it is {host}"


def _targets(folder, services):
    prometheus = chart.load(pathlib.Path(folder) / "prometheus/compose.yml")
    for job in prometheus["scrape_configs"]:
        for target in job["static_configs"][0]["targets"]:
            if target.partition(":")[0] not in services:
                yield f"prometheus/compose.yml: {target} is not there"
