"""The cluster's DNS: names of Services and of the pods behind headless ones, from what the API server says.

Promise: a name that stands in an Endpoints or Service object now is answered within a second of its change, with a time to live of one second; every other name does
not exist. Only A records; AAAA and all else are answered empty. UDP alone.

Left out: names outside the cluster, SRV, reverse lookup. It takes the place of CoreDNS, of which no package has a binary.

Usage: dns.py API TOKEN LISTEN_IP
"""

import json
import socket
import ssl
import struct
import sys
import threading
import time
import urllib.request

TTL = 1
A, IN = 1, 1
NO_SUCH_NAME = 3
LOOK_EVERY = 0.5

records: dict[str, list[str]] = {}


def listed(api: str, token: str, what: str) -> list[dict]:
    trusting = ssl._create_unverified_context()
    request = urllib.request.Request(f"{api}/api/v1/{what}", headers={"Authorization": f"Bearer {token}"})
    with urllib.request.urlopen(request, context=trusting, timeout=5) as answer:
        return json.load(answer)["items"]


def names(services: list[dict], endpoints: list[dict]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    headless = set()
    for service in services:
        meta, address = service["metadata"], service["spec"].get("clusterIP", "None")
        name = f"{meta['name']}.{meta['namespace']}.svc.cluster.local"
        if address == "None":
            headless.add(name)
        else:
            found[name] = [address]
    for one in endpoints:
        name = f"{one['metadata']['name']}.{one['metadata']['namespace']}.svc.cluster.local"
        if name not in headless:
            continue
        for subset in one.get("subsets") or []:
            for address in subset.get("addresses") or []:
                found.setdefault(name, []).append(address["ip"])
                if address.get("hostname"):
                    found.setdefault(f"{address['hostname']}.{name}", []).append(address["ip"])
    return found


def follow(api: str, token: str) -> None:
    global records
    while True:
        try:
            records = names(listed(api, token, "services"), listed(api, token, "endpoints"))
        except (OSError, ValueError) as error:
            print(f"the API server does not answer: {error}", flush=True)
        time.sleep(LOOK_EVERY)


def answer(question: bytes) -> bytes | None:
    """The answer to a datagram, none if it is no question."""
    if len(question) < 17:
        return None
    labels, at = [], 12
    while at < len(question) and question[at]:
        length = question[at]
        labels.append(question[at + 1 : at + 1 + length].decode("ascii", "replace"))
        at += 1 + length
    asked = question[12 : at + 5]
    if len(asked) < at - 12 + 5:
        return None
    kind = struct.unpack(">H", question[at + 1 : at + 3])[0]
    addresses = records.get(".".join(labels).lower())
    code = NO_SUCH_NAME if addresses is None else 0
    given = addresses if addresses and kind == A else []
    head = question[:2] + struct.pack(">HHHHH", 0x8580 | code, 1, len(given), 0, 0)
    tail = b"".join(b"\xc0\x0c" + struct.pack(">HHIH", A, IN, TTL, 4) + socket.inet_aton(ip) for ip in given)
    return head + asked + tail


def main() -> None:
    api, token, listen = sys.argv[1:4]
    threading.Thread(target=follow, args=(api, token), daemon=True).start()
    door = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    door.bind((listen, 53))
    while True:
        question, who = door.recvfrom(512)
        said = answer(question)
        if said:
            door.sendto(said, who)


if __name__ == "__main__":
    main()
