"""Consistency: the level asked for, the one that was got, and sessions that read their own writes."""

import grpc
import pytest
from fulcrum.v1 import kv_pb2, kv_pb2_grpc, types_pb2

import connect
from messages import EVENTUAL, LINEARIZABLE, SESSION, bounded, get, merged, put
from waiting import until

feature = pytest.mark.feature


@feature("levels and sessions")
@pytest.mark.parametrize("level", [LINEARIZABLE, bounded(500), SESSION, EVENTUAL], ids=["linearizable", "bounded", "session", "eventual"])
def test_every_level_is_served_in_sync(kv, sync, level):
    name = level.WhichOneof("level").encode()
    token = types_pb2.SessionToken()
    merged(token, kv.Put(put(sync, b"level/" + name, b"v")).receipt)
    read = kv.Get(get(sync, b"level/" + name, level, session=token if level == SESSION else None))
    assert read.receipt.asked == read.receipt.achieved == level
    if level == bounded(500):
        assert read.receipt.staleness_us <= 500_000
        assert read.receipt.basis != types_pb2.STALENESS_BASIS_UNSPECIFIED
    if level in (LINEARIZABLE, SESSION):
        assert read.value.value == b"v"
    until(lambda: kv.Get(get(sync, b"level/" + name, level, session=token)).value.value == b"v")


@feature("levels and sessions")
def test_a_session_reads_its_own_writes_at_any_router(kv, sync):
    token = types_pb2.SessionToken()
    with connect.channel(connect.ROUTERS[1]) as other:
        kvs = [kv, kv_pb2_grpc.KvStub(other)]
        replicas = set()
        for turn in range(60):
            merged(token, kvs[turn % 2].Put(put(sync, b"own", b"%d" % turn, session=token)).receipt)
            read = kvs[(turn + 1) % 2].Get(get(sync, b"own", SESSION, session=token))
            assert read.value.value == b"%d" % turn
            merged(token, read.receipt)
            replicas.add(read.receipt.replica)
    assert replicas, "somebody answered"


@feature("levels and sessions")
def test_an_illegal_level_is_refused_and_an_acceptable_one_taken(kv, asynchronous):
    kv.Put(put(asynchronous, b"k", b"v"))
    with pytest.raises(grpc.RpcError) as refused:
        kv.Get(get(asynchronous, b"k", LINEARIZABLE))
    assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    weaker = kv.Get(get(asynchronous, b"k", LINEARIZABLE, acceptable=[bounded(1000), EVENTUAL]))
    assert weaker.receipt.mode == types_pb2.MODE_ASYNC
    assert weaker.receipt.asked == LINEARIZABLE
    assert weaker.receipt.achieved in (bounded(1000), EVENTUAL)


@feature("levels and sessions")
def test_without_a_level_the_keyspaces_own_is_taken(kv, sync):
    read = kv.Get(kv_pb2.GetRequest(keyspace=sync, key=b"own"))
    assert read.receipt.asked.WhichOneof("level") is not None
