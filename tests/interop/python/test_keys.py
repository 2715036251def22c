"""Single keys and batches: what is written is read, and every answer says what it is worth."""

import time

import grpc
import pytest
from fulcrum.v1 import kv_pb2, types_pb2

from messages import LINEARIZABLE, absent, get, put, write_of
from waiting import until

feature = pytest.mark.feature


@feature("get, put, delete")
def test_a_value_is_put_read_and_deleted(kv, sync):
    assert not kv.Get(get(sync, b"cycle")).HasField("value")
    first = kv.Put(put(sync, b"cycle", b"one"))
    assert not first.outcome.applied.existed
    second = kv.Put(put(sync, b"cycle", b"two"))
    assert second.outcome.applied.existed
    assert second.outcome.applied.version > first.outcome.applied.version
    read = kv.Get(get(sync, b"cycle"))
    assert (read.value.value, read.value.version) == (b"two", second.outcome.applied.version)
    assert kv.Delete(kv_pb2.DeleteRequest(keyspace=sync, key=b"cycle")).outcome.applied.existed
    assert not kv.Get(get(sync, b"cycle")).HasField("value")


@feature("get, put, delete")
def test_an_empty_value_is_a_value_and_keys_are_bytes(kv, sync):
    key = bytes(range(256))
    kv.Put(put(sync, key, b""))
    read = kv.Get(get(sync, key))
    assert read.HasField("value") and read.value.value == b""


@feature("receipts")
def test_a_write_says_who_has_it_on_disk(kv, sync):
    receipt = kv.Put(put(sync, b"receipt", b"v")).receipt
    assert receipt.mode == types_pb2.MODE_SYNC
    assert receipt.role == types_pb2.ROLE_PRIMARY
    assert receipt.durable
    assert len(receipt.acknowledged_by) >= 2
    assert receipt.replica in receipt.acknowledged_by
    assert receipt.epoch >= 1 and receipt.index >= 1 and receipt.map_version >= 1


@feature("receipts")
def test_a_linearizable_read_says_why_it_is_fresh(kv, sync):
    written = kv.Put(put(sync, b"fresh", b"v")).receipt
    receipt = kv.Get(get(sync, b"fresh")).receipt
    assert receipt.asked == receipt.achieved == LINEARIZABLE
    assert receipt.group == written.group
    assert receipt.index >= written.index
    assert receipt.HasField("staleness_us")
    assert receipt.basis in (types_pb2.STALENESS_BASIS_LEASE, types_pb2.STALENESS_BASIS_CONFIRMING_ROUND)


@feature("compare-and-set")
def test_a_condition_that_does_not_hold_is_an_outcome(kv, sync):
    made = kv.Put(put(sync, b"cas", b"1", condition=absent()))
    version = made.outcome.applied.version
    again = kv.Put(put(sync, b"cas", b"2", condition=absent()))
    assert again.outcome.WhichOneof("outcome") == "condition_failed"
    assert again.outcome.condition_failed.current_version == version

    swapped = kv.Put(put(sync, b"cas", b"2", condition=types_pb2.Condition(version=version)))
    assert swapped.outcome.HasField("applied")
    stale = kv.Put(put(sync, b"cas", b"3", condition=types_pb2.Condition(version=version)))
    assert stale.outcome.HasField("condition_failed")
    by_value = types_pb2.Condition(value=b"2")
    deleted = kv.Delete(kv_pb2.DeleteRequest(keyspace=sync, key=b"cas", condition=by_value))
    assert deleted.outcome.HasField("applied")
    gone = kv.Put(put(sync, b"cas", b"4", condition=types_pb2.Condition(exists=types_pb2.Condition.Exists())))
    assert not gone.outcome.condition_failed.HasField("current_version")


@feature("time to live")
def test_a_value_expires(kv, sync):
    kv.Put(put(sync, b"{ttl}brief", b"v", ttl_ms=600))
    read = kv.Get(get(sync, b"{ttl}brief"))
    assert read.value.value == b"v"
    ahead = read.value.expires_at_ms - time.time() * 1000
    assert -1000 < ahead < 2000, "milliseconds since the Unix epoch"

    def gone():
        # Nobody writes: the group's time goes on by itself.
        return not kv.Get(get(sync, b"{ttl}brief")).HasField("value")

    assert not gone(), "not before its time"
    until(gone, within=5)


@feature("batches")
def test_a_batch_has_an_answer_for_each_write_and_key(kv, sync):
    keys = [b"batch/%d" % number for number in range(40)]
    writes = [write_of(key, b"v" + key) for key in keys]
    writes.append(types_pb2.Write(key=b"batch/none", condition=types_pb2.Condition(version=7), put=types_pb2.Write.Put()))
    written = kv.BatchWrite(kv_pb2.BatchWriteRequest(keyspace=sync, writes=writes))
    kinds = [item.outcome.WhichOneof("outcome") for item in written.items]
    assert kinds == ["applied"] * 40 + ["condition_failed"]
    read = kv.BatchGet(
        kv_pb2.BatchGetRequest(keyspace=sync, keys=keys + [b"batch/none"], options=kv_pb2.ReadOptions(consistency=LINEARIZABLE))
    )
    assert [item.value.value for item in read.items[:40]] == [b"v" + key for key in keys]
    assert read.items[40].WhichOneof("result") == "missing"
    groups = {receipt.group for receipt in read.receipts}
    assert len(groups) == len(read.receipts) > 1, "one receipt a group"


@feature("idempotent retries")
def test_a_write_that_is_sent_again_is_applied_once(kv, sync):
    session = kv.OpenSession(kv_pb2.OpenSessionRequest())
    key = types_pb2.IdempotencyKey(client=session.client, sequence=1, issued_at_ms=session.issued_at_ms, low_water=1)
    first = kv.Put(put(sync, b"once", b"mine", idempotency=key, condition=absent()))
    kv.Put(put(sync, b"once", b"another's"))
    again = kv.Put(put(sync, b"once", b"mine", idempotency=key, condition=absent()))
    assert again.outcome == first.outcome, "it is answered as the first time"
    assert kv.Get(get(sync, b"once")).value.value == b"another's"

    asked = kv_pb2.GetOutcomeRequest(keyspace=sync, key=b"once", idempotency=key)
    known = kv.GetOutcome(asked)
    assert known.state == kv_pb2.GetOutcomeResponse.STATE_KNOWN
    assert list(known.outcomes) == [first.outcome]
    key.sequence = 2
    asked = kv_pb2.GetOutcomeRequest(keyspace=sync, key=b"once", idempotency=key)
    assert kv.GetOutcome(asked).state == kv_pb2.GetOutcomeResponse.STATE_NOT_SEEN


@feature("large values")
def test_the_largest_value_and_the_largest_batch(kv, sync):
    value = bytes(1024 * 1024)
    kv.Put(put(sync, b"large", value), timeout=20)
    assert kv.Get(get(sync, b"large"), timeout=20).value.value == value
    writes = [write_of(b"large/%d" % number, value[:-16]) for number in range(8)]
    written = kv.BatchWrite(kv_pb2.BatchWriteRequest(keyspace=sync, writes=writes), timeout=30)
    assert all(item.outcome.HasField("applied") for item in written.items)
    keys = [write.key for write in writes]
    read = kv.BatchGet(kv_pb2.BatchGetRequest(keyspace=sync, keys=keys), timeout=30)
    assert sum(len(item.value.value) for item in read.items) == 8 * (1024 * 1024 - 16)


@feature("large values")
def test_many_large_values_at_once(kv, sync):
    value = bytes(1024 * 1024)
    writing = [kv.Put.future(put(sync, b"wide/%d" % number, value), timeout=60) for number in range(24)]
    for written in writing:
        assert written.result().outcome.HasField("applied")
    reading = [kv.Get.future(get(sync, b"wide/%d" % number), timeout=60) for number in range(24)]
    assert all(len(read.result().value.value) == len(value) for read in reading)
    for number in range(24):
        kv.Delete(kv_pb2.DeleteRequest(keyspace=sync, key=b"wide/%d" % number))


@feature("large values")
def test_what_is_too_large_for_the_api_is_refused_by_its_limit(kv, sync):
    with pytest.raises(grpc.RpcError) as refused:
        kv.Put(put(sync, b"larger", bytes(1024 * 1024 + 1)))
    assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert "1048576" in refused.value.details() or "1 MiB" in refused.value.details()


@feature("large values")
def test_a_message_above_the_servers_limit_is_refused_and_the_connection_lives(kv, sync):
    with pytest.raises(grpc.RpcError) as refused:
        kv.Put(put(sync, b"larger", bytes(15 * 1024 * 1024 + 1000 * 1000)), timeout=20)
    assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert kv.Get(get(sync, b"larger")).HasField("receipt")
