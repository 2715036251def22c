"""Stubs from the protocol buffers, a channel, keyspaces; and what became of each feature, for the table.

A test says what it is about with `@feature("scan")`. Stubs are generated anew in every session, so what is tested is what
`common/proto` says today.
"""

import os
import pathlib
import subprocess
import sys

import pytest

STUBS = pathlib.Path(os.environ["FULCRUM_STUBS"])
PROTOS = pathlib.Path(os.environ["FULCRUM_PROTOS"])


def generate_stubs():
    STUBS.mkdir(parents=True, exist_ok=True)
    files = [str(path.relative_to(PROTOS)) for path in sorted(PROTOS.glob("fulcrum/v1/*.proto"))]
    outputs = [f"--{kind}_out={STUBS}" for kind in ("python", "grpc_python", "grpclib_python")]
    # The plugin of grpclib is beside the interpreter.
    path = os.pathsep.join([os.path.dirname(sys.executable), os.environ.get("PATH", "")])
    command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{PROTOS}", *outputs, *files]
    subprocess.run(command, check=True, env={**os.environ, "PATH": path})
    sys.path.insert(0, str(STUBS))


generate_stubs()


def pytest_configure(config):
    config.addinivalue_line("markers", "feature(name): what of the API a test is about")
    config.results = open(os.environ["FULCRUM_RESULTS"], "w", encoding="utf-8")


def pytest_unconfigure(config):
    config.results.close()


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    report = (yield).get_result()
    if report.when == "call" or not report.passed:
        marker = item.get_closest_marker("feature")
        assert marker is not None, f"{item.name} does not say which feature it is about"
        verdict = "pass" if report.passed else "fail"
        # A test that is skipped has shown nothing.
        item.config.results.write(f"{marker.args[0]}\t{verdict}\t{report.duration:.3f}\t{item.name}\n")
        item.config.results.flush()


@pytest.fixture(scope="session")
def channel():
    import connect

    with connect.channel(options=connect.LARGE) as made:
        yield made


@pytest.fixture(scope="session")
def kv(channel):
    from fulcrum.v1 import kv_pb2_grpc

    return kv_pb2_grpc.KvStub(channel)


@pytest.fixture(scope="session")
def transactions(channel):
    from fulcrum.v1 import transactions_pb2_grpc

    return transactions_pb2_grpc.TransactionsStub(channel)


@pytest.fixture(scope="session")
def admin(channel):
    from fulcrum.v1 import admin_pb2_grpc

    return admin_pb2_grpc.AdminStub(channel)


def keyspace(admin, name, **spec):
    """A new keyspace that serves: every group has a primary."""
    from fulcrum.v1 import admin_pb2

    import waiting

    admin.CreateKeyspace(admin_pb2.CreateKeyspaceRequest(name=name, spec=admin_pb2.KeyspaceSpec(**spec)), timeout=20)

    def serves():
        groups = admin.Status(admin_pb2.StatusRequest(keyspace=name), timeout=10).groups
        return groups and all(group.ready for group in groups)

    waiting.until(serves)
    return name


@pytest.fixture(scope="session")
def sync(admin):
    """Six groups, in each of which nothing acknowledged is lost."""
    return keyspace(admin, "python-sync", mode="sync", groups=6)


@pytest.fixture(scope="session")
def asynchronous(admin):
    return keyspace(admin, "python-async", mode="async", groups=3)
