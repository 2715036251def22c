"""Streams: scans page by page, watches that go on, pipelines whose answers come in any order."""

import queue
import threading

import grpc
import pytest
from fulcrum.v1 import kv_pb2, kv_pb2_grpc, types_pb2

import connect
from messages import EVENTUAL, LINEARIZABLE, absent, get, put, write_of

feature = pytest.mark.feature

ROWS = 10_000


@pytest.fixture(scope="module")
def rows(kv, sync):
    """10,000 rows, in key order."""
    keys = [b"row/%06d" % number for number in range(ROWS)]
    for start in range(0, ROWS, 1000):
        writes = [write_of(key, b"value of " + key) for key in keys[start : start + 1000]]
        kv.BatchWrite(kv_pb2.BatchWriteRequest(keyspace=sync, writes=writes), timeout=20)
    return keys


def scan(keyspace, **rest):
    return kv_pb2.ScanRequest(keyspace=keyspace, options=kv_pb2.ReadOptions(consistency=LINEARIZABLE), **rest)


@feature("scan")
def test_all_pages_are_in_order_and_complete(kv, sync, rows):
    pages = list(kv.Scan(scan(sync, prefix=b"row/"), timeout=30))
    assert len(pages) > 3
    assert [row.key for page in pages for row in page.rows] == rows
    assert all(page.resume_token for page in pages[:-1]) and not pages[-1].resume_token
    assert all(len(page.receipts) == 6 for page in pages), "every group was read for it"


@feature("scan")
def test_a_scan_goes_on_behind_any_page_at_another_router(kv, sync, rows):
    first = next(kv.Scan(scan(sync, prefix=b"row/"), timeout=30))
    with connect.channel(connect.ROUTERS[1]) as other:
        rest = kv_pb2_grpc.KvStub(other).Scan(
            scan(sync, prefix=b"row/", resume_token=first.resume_token), timeout=30
        )
        seen = [row.key for row in first.rows] + [row.key for page in rest for row in page.rows]
    assert seen == rows


@feature("scan")
def test_limit_and_range(kv, sync, rows):
    limited = list(kv.Scan(scan(sync, start=rows[10], end=rows[900], limit=77), timeout=30))
    assert [row.key for page in limited for row in page.rows] == rows[10:87]


@feature("scan")
def test_a_scan_that_is_cancelled_midway_leaves_the_channel_well(kv, sync, rows):
    scanning = kv.Scan(scan(sync, prefix=b"row/"), timeout=30)
    next(scanning)
    scanning.cancel()
    with pytest.raises(grpc.RpcError) as ended:
        list(scanning)
    assert ended.value.code() == grpc.StatusCode.CANCELLED
    assert kv.Get(get(sync, rows[0])).value.value == b"value of " + rows[0]


@feature("scan")
def test_pages_of_large_values_fit_into_what_a_client_takes_by_default(kv, sync):
    # One in each of the six groups: each group has all of its own to say at once.
    groups, number = set(), 0
    while len(groups) < 6:
        key = b"heavy/%02d" % number
        number += 1
        group = kv.Put(put(sync, key, bytes(1024 * 1024)), timeout=20).receipt.group
        if group in groups:
            kv.Delete(kv_pb2.DeleteRequest(keyspace=sync, key=key), timeout=20)
        groups.add(group)
    with connect.channel() as plain:
        scanning = kv_pb2_grpc.KvStub(plain).Scan(scan(sync, prefix=b"heavy/"), timeout=60)
        assert sum(len(page.rows) for page in scanning) == 6


class Watching:
    """A watch that is read by a thread of its own, and the token to go on from."""

    def __init__(self, kv, request):
        self.call = kv.Watch(request)
        self.token = next(self.call).start
        self.changes = queue.Queue()
        self.current = []
        threading.Thread(target=self.read, daemon=True).start()

    def read(self):
        try:
            for message in self.call:
                self.current.extend(row.key for row in message.current)
                # What was told, and only then how far that is.
                for change in message.changes:
                    self.changes.put(change)
                self.token.groups[message.group].CopyFrom(message.position)
        except grpc.RpcError as ended:
            assert ended.code() == grpc.StatusCode.CANCELLED

    def next(self):
        return self.changes.get(timeout=20)


@feature("watch")
def test_a_watch_tells_what_is_done_from_now_on(kv, sync):
    watching = Watching(kv, kv_pb2.WatchRequest(keyspace=sync, prefix=b"{seen}/"))
    written = kv.Put(put(sync, b"{seen}/a", b"1"))
    change = watching.next()
    assert (change.key, change.put.value) == (b"{seen}/a", b"1")
    assert change.put.version == written.outcome.applied.version
    assert change.position.index == written.receipt.index
    kv.Put(put(sync, b"unseen", b"1"))
    kv.Delete(kv_pb2.DeleteRequest(keyspace=sync, key=b"{seen}/a"))
    assert watching.next().WhichOneof("kind") == "deleted"
    kv.Put(put(sync, b"{seen}/b", b"1", ttl_ms=200))
    assert watching.next().WhichOneof("kind") == "put"
    # Nobody writes: the group's time goes on by itself.
    expired = watching.next()
    assert (expired.key, expired.WhichOneof("kind")) == (b"{seen}/b", "expired")
    watching.call.cancel()


@feature("watch")
def test_a_watch_goes_on_from_its_token_at_another_router(kv, sync):
    watching = Watching(kv, kv_pb2.WatchRequest(keyspace=sync, key=b"resumed"))
    kv.Put(put(sync, b"resumed", b"1"))
    assert watching.next().put.value == b"1"
    watching.call.cancel()
    kv.Put(put(sync, b"resumed", b"2"))
    kv.Put(put(sync, b"resumed", b"3"))
    with connect.channel(connect.ROUTERS[1]) as other:
        request = kv_pb2.WatchRequest(keyspace=sync, key=b"resumed")
        getattr(request, "from").CopyFrom(watching.token)
        resumed = Watching(kv_pb2_grpc.KvStub(other), request)
        told = [resumed.next().put.value]
        while told[-1] != b"3":
            told.append(resumed.next().put.value)
        resumed.call.cancel()
    # The token may be from before the message in which the first was told; it is never from behind one that was not.
    assert told[-2:] == [b"2", b"3"]


@feature("watch")
def test_present_values_come_first(kv, sync):
    kv.Put(put(sync, b"present/a", b"1"))
    watching = Watching(kv, kv_pb2.WatchRequest(keyspace=sync, prefix=b"present/", include_current=True))
    written = kv.Put(put(sync, b"present/b", b"2"))
    while watching.current != [b"present/a"] or watching.next().key != b"present/b":
        pass
    assert written.outcome.HasField("applied")
    watching.call.cancel()


@feature("pipeline")
def test_a_thousand_operations_on_one_stream(kv, sync):
    operations = [
        kv_pb2.PipelineOp(id=number, put=put(sync, b"pipe/%d" % number, b"%d" % number)) for number in range(500)
    ]
    answers = {}
    to_send = queue.Queue()

    def messages():
        while (message := to_send.get()) is not None:
            yield message

    answering = kv.Pipeline(messages(), timeout=60)
    for start in range(0, 500, 50):
        to_send.put(kv_pb2.PipelineRequest(ops=operations[start : start + 50]))
    order = []
    while len(answers) < 1000:
        for answer in next(answering).answers:
            assert answer.id not in answers, "one answer each"
            answers[answer.id] = answer
            order.append(answer.id)
            if answer.id < 500:
                # It is written: now it is read.
                reading = kv_pb2.PipelineOp(id=500 + answer.id, get=get(sync, b"pipe/%d" % answer.id))
                to_send.put(kv_pb2.PipelineRequest(ops=[reading]))
    to_send.put(None)
    assert list(answering) == [], "the stream ends when both sides have said all"
    assert order != sorted(order), "answers come as they are ready"
    for number in range(500):
        assert answers[number].write.outcome.HasField("applied")
        assert answers[500 + number].get.value.value == b"%d" % number


@feature("pipeline")
def test_a_refused_operation_is_refused_alone(kv, sync):
    operations = [
        kv_pb2.PipelineOp(id=1, get=get("nowhere", b"k")),
        kv_pb2.PipelineOp(id=2, put=put(sync, b"pipe/cas", b"v", condition=types_pb2.Condition(version=99))),
        kv_pb2.PipelineOp(id=3, get=get(sync, b"pipe/cas", EVENTUAL)),
        kv_pb2.PipelineOp(id=4, put=put(sync, b"pipe/new", b"v", condition=absent())),
        kv_pb2.PipelineOp(id=5),
    ]
    answered = kv.Pipeline(iter([kv_pb2.PipelineRequest(ops=operations)]), timeout=20)
    answers = {answer.id: answer for response in answered for answer in response.answers}
    assert answers[1].error.code == "UNKNOWN_KEYSPACE" and answers[1].error.act == types_pb2.ACT_REJECT
    assert answers[2].write.outcome.HasField("condition_failed")
    assert answers[3].get.HasField("receipt")
    assert answers[4].write.outcome.HasField("applied")
    assert answers[5].error.code == "INVALID"
