"""Two collectors that others wrote, one behind the other: rotel takes spans in, gRPC and the protocol's own Python classes pass on what rotel made of them.

    relay.py GRPC HTTP TO    where rotel listens (host:port each), and where spans end up

`cargo xtask traces check` puts it between a cluster and the tests of its traces. It ends when its standard input does.
"""

import concurrent.futures
import importlib.util
import pathlib
import subprocess
import sys

import grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc

DEADLINE_SECONDS = 5


class Relay(trace_service_pb2_grpc.TraceServiceServicer):
    def __init__(self, to):
        self.to = trace_service_pb2_grpc.TraceServiceStub(grpc.insecure_channel(to))

    def Export(self, request, context):
        return self.to.Export(request, timeout=DEADLINE_SECONDS)


def rotel(grpc_at, http_at, to):
    folder = pathlib.Path(importlib.util.find_spec("rotel").origin).parent
    listens = ["--otlp-grpc-endpoint", grpc_at, "--otlp-http-endpoint", http_at]
    exports = ["--exporter", "otlp", "--otlp-exporter-endpoint", f"http://{to}"]
    # What it logs is for people, and standard output is nobody's here.
    return subprocess.Popen([folder / "rotel-agent", "start", *listens, *exports], stdin=subprocess.DEVNULL, stdout=sys.stderr)


def main(grpc_at, http_at, to):
    server = grpc.server(concurrent.futures.ThreadPoolExecutor(max_workers=4))
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(Relay(to), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    collector = rotel(grpc_at, http_at, f"127.0.0.1:{port}")
    try:
        sys.stdin.read()
    finally:
        collector.kill()
        collector.wait()
        server.stop(None)


if __name__ == "__main__":
    main(*sys.argv[1:])
