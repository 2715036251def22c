"""Mutual TLS and tokens, at a cluster where nobody does anything without them."""

import os
import pathlib

import grpc
import pytest
from fulcrum.v1 import admin_pb2, admin_pb2_grpc, kv_pb2, kv_pb2_grpc, types_pb2

import connect
from conftest import keyspace
from details import details
from messages import absent, get, put

feature = pytest.mark.feature
ROUTER = os.environ["FULCRUM_SECURED_ROUTER"]
CERTS = pathlib.Path(os.environ["FULCRUM_CERTS"])
STRANGERS = pathlib.Path(os.environ["FULCRUM_STRANGERS"])
ROOT = os.environ["FULCRUM_ROOT_TOKEN"]
CODE = grpc.StatusCode


def opened(token=None, certificate=CERTS, authority=CERTS):
    return connect.secure_channel(ROUTER, authority, certificate, token)


@pytest.fixture(scope="module")
def root():
    with opened(ROOT) as channel:
        yield admin_pb2_grpc.AdminStub(channel)


@pytest.fixture(scope="module")
def orders(root):
    return keyspace(root, "python-secured", mode="sync", groups=2, replication_factor=1, min_in_sync=1)


def made(root, name, *rights):
    rights = [admin_pb2.TokenRight(keyspace=where, right=right) for where, right in rights]
    return root.CreateToken(admin_pb2.CreateTokenRequest(name=name, rights=rights), timeout=10).text


def refused(call, *arguments):
    with pytest.raises(grpc.RpcError) as error:
        call(*arguments, timeout=10)
    return error.value


@feature("mutual TLS")
def test_the_right_certificates_open(root, orders):
    assert orders in [one.name for one in root.ListKeyspaces(admin_pb2.ListKeyspacesRequest(), timeout=10).keyspaces]


@feature("mutual TLS")
@pytest.mark.parametrize(
    "how",
    [
        {"certificate": None},
        {"certificate": STRANGERS},
        {"authority": STRANGERS},
    ],
    ids=["no certificate", "of another authority", "the server is by another authority"],
)
def test_others_do_not(how):
    with opened(ROOT, **how) as channel:
        error = refused(admin_pb2_grpc.AdminStub(channel).ListKeyspaces, admin_pb2.ListKeyspacesRequest())
    assert error.code() == CODE.UNAVAILABLE
    assert "fulcrum-service" not in error.details(), "a stranger learns nothing of how it is judged"


@feature("mutual TLS")
def test_plain_text_is_not_spoken():
    with connect.channel(ROUTER) as channel:
        error = refused(kv_pb2_grpc.KvStub(channel).Get, get("k", b"k"))
    assert error.code() == CODE.UNAVAILABLE


@feature("tokens")
def test_a_token_opens_what_it_has_rights_for(root, orders):
    with opened(made(root, "python-reader", (orders, "read"))) as reading, opened(
        made(root, "python-writer", (orders, "write"))
    ) as writing:
        reader, writer = kv_pb2_grpc.KvStub(reading), kv_pb2_grpc.KvStub(writing)
        writer.Put(put(orders, b"k", b"v"), timeout=10)
        assert reader.Get(get(orders, b"k"), timeout=10).value.value == b"v"
        for call, request, right in [
            (reader.Put, put(orders, b"k", b"w"), "write"),
            (writer.Get, get(orders, b"k"), "read"),
            (writer.Put, put(orders, b"k", b"w", condition=absent()), "read"),
        ]:
            error = refused(call, request)
            assert error.code() == CODE.PERMISSION_DENIED and right in error.details(), error
        operator = admin_pb2_grpc.AdminStub(reading)
        assert refused(operator.CreateToken, admin_pb2.CreateTokenRequest(name="x")).code() == CODE.PERMISSION_DENIED
        assert reader.Get(get(orders, b"k"), timeout=10).value.value == b"v"


@feature("tokens")
def test_what_is_no_token_is_refused_in_the_same_words(root, orders):
    once = made(root, "python-once", (orders, "read"))
    with opened(once) as channel:
        kv = kv_pb2_grpc.KvStub(channel)
        kv.Get(get(orders, b"k"), timeout=10)
        watching = kv.Watch(kv_pb2.WatchRequest(keyspace=orders, prefix=b"k"), timeout=30)
        assert next(watching).HasField("start")
        root.RevokeToken(admin_pb2.RevokeTokenRequest(token="python-once"), timeout=10)
        with pytest.raises(grpc.RpcError) as ended:
            for _ in watching:
                pass
        assert ended.value.code() == CODE.UNAUTHENTICATED
    words = set()
    for token in (None, "nonsense", once, once[:-1] + ("0" if once[-1] != "0" else "1")):
        with opened(token) as channel:
            error = refused(kv_pb2_grpc.KvStub(channel).Get, get(orders, b"k"))
            assert error.code() == CODE.UNAUTHENTICATED
            assert details(error).act == types_pb2.ACT_REJECT, details(error)
            words.add(error.details())
    assert len(words) == 1, words
