"""deploy/compose.yaml beside what it mounts and what watches it."""

import pathlib
import re

import chart


def load(folder):
    return chart.load(folder / "compose.yaml")


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
