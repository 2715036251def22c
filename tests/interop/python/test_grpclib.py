"""With grpclib: another HTTP/2 and another event loop than everybody's C core."""

import asyncio
import os
import ssl

import pytest
from fulcrum.v1 import admin_grpc, admin_pb2, kv_grpc, kv_pb2, transactions_grpc, transactions_pb2, types_pb2
from google.rpc import status_pb2  # noqa: F401  (grpclib decodes details only if it is there)
from grpclib.client import Channel
from grpclib.const import Status
from grpclib.exceptions import GRPCError, StreamTerminatedError
from grpclib.health.v1 import health_grpc, health_pb2

from connect import ROUTERS
from messages import LINEARIZABLE, absent, get, key_write, put, write_of

feature = pytest.mark.feature
KEYSPACE = "grpclib"


def over_a_channel(test):
    """Runs a test that is a coroutine, with a channel that is closed behind it."""

    def run():
        async def with_channel():
            host, port = ROUTERS[0].split(":")
            async with Channel(host, int(port)) as channel:
                await asyncio.wait_for(test(channel), 60)

        asyncio.run(with_channel())

    run.__name__ = test.__name__
    return run


@pytest.fixture(scope="module", autouse=True)
def made():
    @over_a_channel
    async def make(channel):
        admin = admin_grpc.AdminStub(channel)
        spec = admin_pb2.KeyspaceSpec(groups=3)
        await admin.CreateKeyspace(admin_pb2.CreateKeyspaceRequest(name=KEYSPACE, spec=spec))
        while True:
            groups = (await admin.Status(admin_pb2.StatusRequest(keyspace=KEYSPACE))).groups
            if groups and all(group.ready for group in groups):
                return
            await asyncio.sleep(0.05)

    make()


@feature("get, put, delete")
@over_a_channel
async def test_a_value_is_put_read_and_deleted(channel):
    kv = kv_grpc.KvStub(channel)
    written = await kv.Put(put(KEYSPACE, b"k", b"v"))
    read = await kv.Get(get(KEYSPACE, b"k"))
    assert (read.value.value, read.value.version) == (b"v", written.outcome.applied.version)
    assert (await kv.Delete(kv_pb2.DeleteRequest(keyspace=KEYSPACE, key=b"k"))).outcome.applied.existed
    assert not (await kv.Get(get(KEYSPACE, b"k"))).HasField("value")


@feature("compare-and-set")
@over_a_channel
async def test_a_condition_that_does_not_hold_is_an_outcome(channel):
    kv = kv_grpc.KvStub(channel)
    await kv.Put(put(KEYSPACE, b"cas", b"1"))
    again = await kv.Put(put(KEYSPACE, b"cas", b"2", condition=absent()))
    assert again.outcome.HasField("condition_failed")


@feature("receipts")
@over_a_channel
async def test_a_read_says_what_it_is_worth(channel):
    receipt = (await kv_grpc.KvStub(channel).Get(get(KEYSPACE, b"cas"))).receipt
    assert receipt.achieved == LINEARIZABLE and receipt.HasField("staleness_us")


@feature("large values")
@over_a_channel
async def test_the_largest_value_goes_through_the_windows_of_flow_control(channel):
    kv = kv_grpc.KvStub(channel)
    value = bytes(range(256)) * 4096
    await kv.Put(put(KEYSPACE, b"large", value))
    assert (await kv.Get(get(KEYSPACE, b"large"))).value.value == value


@feature("scan")
@over_a_channel
async def test_pages_come_in_order_and_a_scan_may_be_left(channel):
    kv = kv_grpc.KvStub(channel)
    keys = [b"row/%05d" % number for number in range(4000)]
    for start in range(0, 4000, 1000):
        writes = [write_of(key, b"v") for key in keys[start : start + 1000]]
        await kv.BatchWrite(kv_pb2.BatchWriteRequest(keyspace=KEYSPACE, writes=writes))
    asked = kv_pb2.ScanRequest(keyspace=KEYSPACE, prefix=b"row/")
    seen = [row.key for page in await kv.Scan(asked) for row in page.rows]
    assert seen == keys
    async with kv.Scan.open() as stream:
        await stream.send_message(asked, end=True)
        assert (await stream.recv_message()).rows
        await stream.cancel()
    assert (await kv.Get(get(KEYSPACE, keys[0]))).value.value == b"v"


@feature("watch")
@over_a_channel
async def test_a_watch_tells_what_is_done_from_now_on(channel):
    kv = kv_grpc.KvStub(channel)
    async with kv.Watch.open() as stream:
        await stream.send_message(kv_pb2.WatchRequest(keyspace=KEYSPACE, key=b"watched"), end=True)
        assert (await stream.recv_message()).HasField("start")
        await kv.Put(put(KEYSPACE, b"watched", b"v"))
        while not (message := await stream.recv_message()).changes:
            pass
        assert message.changes[0].put.value == b"v"
        await stream.cancel()


@feature("pipeline")
@over_a_channel
async def test_operations_are_answered_by_id(channel):
    operations = [kv_pb2.PipelineOp(id=number, put=put(KEYSPACE, b"pipe/%d" % number, b"v")) for number in range(100)]
    answered = await kv_grpc.KvStub(channel).Pipeline([kv_pb2.PipelineRequest(ops=operations)])
    assert sorted(answer.id for response in answered for answer in response.answers) == list(range(100))


@feature("errors with details")
@over_a_channel
async def test_an_unknown_keyspace(channel):
    with pytest.raises(GRPCError) as refused:
        await kv_grpc.KvStub(channel).Get(get("nowhere", b"k"))
    assert refused.value.status == Status.NOT_FOUND
    [details] = refused.value.details
    assert isinstance(details, types_pb2.Error)
    assert (details.code, details.act) == ("UNKNOWN_KEYSPACE", types_pb2.ACT_REJECT)


@feature("deadlines")
@over_a_channel
async def test_a_deadline_ends_a_watch(channel):
    asked = kv_pb2.WatchRequest(keyspace=KEYSPACE, key=b"never")
    with pytest.raises((GRPCError, asyncio.TimeoutError)) as ended:
        await kv_grpc.KvStub(channel).Watch(asked, timeout=0.5)
    if isinstance(ended.value, GRPCError):
        assert ended.value.status == Status.DEADLINE_EXCEEDED


@feature("health")
@over_a_channel
async def test_check(channel):
    health = health_grpc.HealthStub(channel)
    answered = await health.Check(health_pb2.HealthCheckRequest(service="fulcrum.v1.Kv"))
    assert answered.status == health_pb2.HealthCheckResponse.SERVING


@feature("watch")
@over_a_channel
async def test_a_watch_goes_on_where_another_was_left(channel):
    kv = kv_grpc.KvStub(channel)
    async with kv.Watch.open() as stream:
        await stream.send_message(kv_pb2.WatchRequest(keyspace=KEYSPACE, prefix=b"resumed/"), end=True)
        token = (await stream.recv_message()).start
        await stream.cancel()
    for number in range(3):
        await kv.Put(put(KEYSPACE, b"resumed/k", b"%d" % number))
    asked = kv_pb2.WatchRequest(keyspace=KEYSPACE, prefix=b"resumed/")
    getattr(asked, "from").CopyFrom(token)
    seen = []
    async with kv.Watch.open() as stream:
        await stream.send_message(asked, end=True)
        while len(seen) < 3:
            seen += [change.put.value for change in (await stream.recv_message()).changes]
        await stream.cancel()
    assert seen == [b"0", b"1", b"2"]


@feature("cancellation")
@over_a_channel
async def test_cancelled_watches_free_their_streams(channel):
    """More of them, one behind the other, than a connection takes streams."""
    kv = kv_grpc.KvStub(channel)
    for _ in range(400):
        async with kv.Watch.open() as stream:
            await stream.send_message(kv_pb2.WatchRequest(keyspace=KEYSPACE, key=b"cancelled"), end=True)
            assert (await stream.recv_message()).HasField("start")
            await stream.cancel()
    assert (await kv.Get(get(KEYSPACE, b"k"), timeout=10)).HasField("receipt")


@feature("batches")
@over_a_channel
async def test_a_batch_is_written_and_read(channel):
    kv = kv_grpc.KvStub(channel)
    keys = [b"batch/%d" % number for number in range(50)]
    await kv.BatchWrite(kv_pb2.BatchWriteRequest(keyspace=KEYSPACE, writes=[write_of(key, b"v") for key in keys]))
    read = await kv.BatchGet(kv_pb2.BatchGetRequest(keyspace=KEYSPACE, keys=keys))
    assert [item.value.value for item in read.items] == [b"v"] * 50


@feature("transactions")
@over_a_channel
async def test_the_second_of_two_that_read_the_same_is_aborted(channel):
    transactions = transactions_grpc.TransactionsStub(channel)
    session = await kv_grpc.KvStub(channel).OpenSession(kv_pb2.OpenSessionRequest())

    def commit(sequence, value):
        id = types_pb2.TransactionId(begun_at_ms=session.issued_at_ms, client=session.client, sequence=sequence)
        asked = transactions_pb2.CommitRequest(id=id, writes=[key_write(KEYSPACE, b"txn", value)])
        # Both have seen that nothing is there.
        asked.reads.add(keyspace=KEYSPACE, key=b"txn", exists=False)
        return transactions.Commit(asked)

    assert (await commit(1, b"1")).HasField("committed")
    with pytest.raises(GRPCError) as aborted:
        await commit(2, b"2")
    assert aborted.value.status == Status.ABORTED
    assert aborted.value.details[0].act == types_pb2.ACT_ABORT


@feature("mutual TLS")
def test_the_right_certificate_and_token_open_and_no_others():
    host, port = os.environ["FULCRUM_SECURED_ROUTER"].split(":")
    certs, strangers = os.environ["FULCRUM_CERTS"], os.environ["FULCRUM_STRANGERS"]
    root = {"authorization": "Bearer " + os.environ["FULCRUM_ROOT_TOKEN"]}

    async def keyspaces(certificates, metadata):
        encrypted = ssl.create_default_context(cafile=f"{certs}/ca.pem")
        encrypted.set_alpn_protocols(["h2"])
        encrypted.load_cert_chain(f"{certificates}/client.pem", f"{certificates}/client.key")
        async with Channel(host, int(port), ssl=encrypted) as channel:
            admin = admin_grpc.AdminStub(channel)
            return await admin.ListKeyspaces(admin_pb2.ListKeyspacesRequest(), metadata=metadata, timeout=10)

    assert asyncio.run(keyspaces(certs, root)) is not None
    with pytest.raises(GRPCError) as refused:
        asyncio.run(keyspaces(certs, {}))
    assert refused.value.status == Status.UNAUTHENTICATED
    # An alert, or the connection is closed: in TLS 1.3 the client may have sent its request by then.
    with pytest.raises((OSError, StreamTerminatedError)):
        asyncio.run(keyspaces(strangers, root))
