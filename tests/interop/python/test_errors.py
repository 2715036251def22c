"""Refusals with typed details, deadlines, cancellation, and what the server does not speak."""

import threading
import time

import grpc
import pytest
from fulcrum.v1 import kv_pb2, kv_pb2_grpc, types_pb2

import connect
from details import details
from messages import get, put, write_of
from waiting import until

feature = pytest.mark.feature


def refused(call, *arguments, **named):
    with pytest.raises(grpc.RpcError) as caught:
        call(*arguments, **named)
    return caught.value


@feature("errors with details")
def test_an_unknown_keyspace(kv):
    error = refused(kv.Get, get("nowhere", b"k"))
    assert error.code() == grpc.StatusCode.NOT_FOUND
    found = details(error)
    assert (found.code, found.act, found.keyspace) == ("UNKNOWN_KEYSPACE", types_pb2.ACT_REJECT, "nowhere")
    assert found.message == error.details()


@feature("errors with details")
@pytest.mark.parametrize(
    "request_of",
    [
        lambda keyspace: get(keyspace, b""),
        lambda keyspace: get(keyspace, b"k" * 4097),
        lambda keyspace: get(keyspace, b"k", types_pb2.Consistency()),
    ],
    ids=["no key", "a long key", "an empty level"],
)
def test_what_makes_no_sense(kv, sync, request_of):
    error = refused(kv.Get, request_of(sync))
    assert error.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert (details(error).code, details(error).act) == ("INVALID", types_pb2.ACT_REJECT)


@feature("errors with details")
def test_a_batch_that_is_too_large_names_the_limit(kv, sync):
    writes = [write_of(b"k%d" % number, b"") for number in range(1025)]
    error = refused(kv.BatchWrite, kv_pb2.BatchWriteRequest(keyspace=sync, writes=writes))
    assert details(error).code == "INVALID" and "1024" in error.details()


@feature("errors with details")
def test_a_stream_that_is_refused_at_once_has_details_too(kv, sync):
    error = refused(list, kv.Scan(kv_pb2.ScanRequest(keyspace=sync, prefix=b"a", start=b"b")))
    assert details(error).code == "INVALID"
    error = refused(list, kv.Watch(kv_pb2.WatchRequest(keyspace="nowhere")))
    assert details(error).code == "UNKNOWN_KEYSPACE"


@feature("errors with details")
def test_a_method_that_is_not_there(channel):
    missing = channel.unary_unary("/fulcrum.v1.Kv/Missing", lambda _: b"", lambda data: data)
    assert refused(missing, None).code() == grpc.StatusCode.UNIMPLEMENTED


@feature("errors with details")
def test_bytes_that_are_no_message(channel):
    garbage = channel.unary_unary("/fulcrum.v1.Kv/Get", lambda data: data, lambda data: data)
    error = refused(garbage, b"\xff\xff\xff\xff")
    assert error.code() in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.INTERNAL)


@feature("deadlines")
def test_a_deadline_ends_a_call_at_the_client(kv, sync):
    begun = time.monotonic()
    error = refused(list, kv.Watch(kv_pb2.WatchRequest(keyspace=sync, prefix=b"never/"), timeout=0.5))
    assert error.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    assert time.monotonic() - begun < 3


@feature("deadlines")
def test_the_server_honours_a_deadline_that_only_it_knows(channel, sync):
    # The header alone: the client itself would wait for ever.
    ask = channel.unary_unary(
        "/fulcrum.v1.Kv/Put", kv_pb2.PutRequest.SerializeToString, kv_pb2.WriteResponse.FromString
    )
    error = refused(ask, put(sync, b"late", b"v"), metadata=[("grpc-timeout", "1n")])
    assert error.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    found = details(error)
    assert (found.code, found.act) == ("DEADLINE_EXCEEDED", types_pb2.ACT_RETRY)
    kv = kv_pb2_grpc.KvStub(channel)
    assert not kv.Get(get(sync, b"late")).HasField("value"), "what expired before it was ordered is not applied"


@feature("cancellation")
def test_a_call_is_cancelled_and_the_channel_goes_on(kv, sync):
    for _ in range(50):
        kv.Put.future(put(sync, b"cancelled", b"v")).cancel()
    assert kv.Get(get(sync, b"cancelled")).HasField("receipt")


@feature("cancellation")
def test_a_watch_that_is_cancelled_is_freed_at_the_router(kv, sync):
    # As many as the router allows, several times over: they are refused if any is left behind.
    for _ in range(3):
        watches = [kv.Watch(kv_pb2.WatchRequest(keyspace=sync, key=b"freed")) for _ in range(40)]
        for watch in watches:
            assert next(watch).HasField("start")
        for watch in watches:
            watch.cancel()
    assert next(kv.Watch(kv_pb2.WatchRequest(keyspace=sync, key=b"freed"), timeout=10)).HasField("start")


@feature("cancellation")
def test_a_pipeline_that_is_cancelled_does_not_hold_its_client(kv, sync):
    ended = threading.Event()

    def endless():
        number = 0
        while not ended.is_set():
            number += 1
            yield kv_pb2.PipelineRequest(ops=[kv_pb2.PipelineOp(id=number, get=get(sync, b"k"))])

    answering = kv.Pipeline(endless())
    next(answering)
    answering.cancel()
    ended.set()
    assert answering.code() == grpc.StatusCode.CANCELLED
    assert kv.Get(get(sync, b"k")).HasField("receipt")


@feature("compression")
def test_what_is_compressed_is_refused_in_words_and_nothing_is_applied(kv, sync):
    with connect.channel(compression=grpc.Compression.Gzip) as gzip:
        error = refused(kv_pb2_grpc.KvStub(gzip).Put, put(sync, b"gzip", b"v" * 1000))
    assert error.code() == grpc.StatusCode.UNIMPLEMENTED
    assert "gzip" in error.details()
    assert not kv.Get(get(sync, b"gzip")).HasField("value")


@feature("compression")
def test_a_client_that_only_accepts_compression_is_answered_plainly(channel, sync):
    # grpcio always says that it accepts gzip and deflate.
    answered = kv_pb2_grpc.KvStub(channel).Get.with_call(get(sync, b"k"))
    headers = dict(answered[1].initial_metadata())
    assert headers.get("grpc-encoding", "identity") == "identity"
    until(lambda: answered[1].code() == grpc.StatusCode.OK)
