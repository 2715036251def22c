"""Transactions: read, commit, conflict, run again under a new id, and what became of one."""

import itertools
import time

import grpc
import pytest
from fulcrum.v1 import kv_pb2, transactions_pb2, types_pb2

from details import details
from messages import absent, get, key_write, put

feature = pytest.mark.feature
CommitRequest = transactions_pb2.CommitRequest


@pytest.fixture(scope="module")
def attempt(kv):
    """A new id for each attempt."""
    session = kv.OpenSession(kv_pb2.OpenSessionRequest())
    numbers = itertools.count(1)
    begun = time.monotonic()

    def new():
        passed = int((time.monotonic() - begun) * 1000)
        return types_pb2.TransactionId(
            begun_at_ms=session.issued_at_ms + passed, client=session.client, sequence=next(numbers)
        )

    return new


def key_of(keyspace, key):
    return transactions_pb2.KeyRef(keyspace=keyspace, key=key)


def read(transactions, id, *keys, consistent=False):
    return transactions.Read(
        transactions_pb2.TransactionReadRequest(id=id, keys=list(keys), consistent=consistent), timeout=20
    ).observed


def checked(ref, seen):
    return CommitRequest.CheckedRead(
        keyspace=ref.keyspace, key=ref.key, version=seen.version, exists=seen.HasField("value")
    )


@feature("transactions")
def test_what_was_read_and_written_takes_effect_at_one_moment(kv, transactions, sync, attempt):
    alice, bob = key_of(sync, b"alice"), key_of(sync, b"bob")
    kv.Put(put(sync, b"alice", b"100"))
    id = attempt()
    seen = read(transactions, id, alice, bob)
    assert seen[0].value.value == b"100" and not seen[1].HasField("value")
    committed = transactions.Commit(
        CommitRequest(
            id=id,
            reads=[checked(alice, seen[0]), checked(bob, seen[1])],
            writes=[key_write(sync, b"alice", b"60"), key_write(sync, b"bob", b"40")],
        ),
        timeout=20,
    )
    assert committed.HasField("committed") and len(committed.committed.versions) == 2
    assert committed.receipts
    both = read(transactions, attempt(), alice, bob, consistent=True)
    assert [one.value.value for one in both] == [b"60", b"40"]

    outcome = transactions.GetOutcome(transactions_pb2.TransactionOutcomeRequest(id=id, first_written=alice), timeout=20)
    assert outcome.state == transactions_pb2.TransactionOutcomeResponse.STATE_COMMITTED
    again = transactions.Commit(
        CommitRequest(
            id=id,
            reads=[checked(alice, seen[0]), checked(bob, seen[1])],
            writes=[key_write(sync, b"alice", b"60"), key_write(sync, b"bob", b"40")],
        ),
        timeout=20,
    )
    assert again.committed.versions == committed.committed.versions, "sent again it is the same transaction"


@feature("transactions")
def test_a_conflict_aborts_and_a_new_attempt_commits(kv, transactions, sync, attempt):
    ref = key_of(sync, b"contended")
    kv.Put(put(sync, b"contended", b"0"))
    first = attempt()
    seen = read(transactions, first, ref)
    kv.Put(put(sync, b"contended", b"another's"))
    commit = CommitRequest(id=first, reads=[checked(ref, seen[0])], writes=[key_write(sync, b"contended", b"mine")])
    with pytest.raises(grpc.RpcError) as aborted:
        transactions.Commit(commit, timeout=20)
    assert aborted.value.code() == grpc.StatusCode.ABORTED
    error = details(aborted.value)
    assert (error.code, error.act) == ("ABORTED", types_pb2.ACT_ABORT)
    assert error.abort.kind == types_pb2.AbortCause.KIND_READ_INVALIDATED
    assert error.transaction == first

    outcome = transactions.GetOutcome(
        transactions_pb2.TransactionOutcomeRequest(id=first, first_written=ref, settle=True), timeout=20
    )
    assert outcome.state == transactions_pb2.TransactionOutcomeResponse.STATE_ABORTED

    second = attempt()
    seen = read(transactions, second, ref)
    commit = CommitRequest(
        id=second, first_attempt=first, reads=[checked(ref, seen[0])], writes=[key_write(sync, b"contended", b"mine")]
    )
    assert transactions.Commit(commit, timeout=20).HasField("committed")
    assert kv.Get(get(sync, b"contended")).value.value == b"mine"


@feature("transactions")
def test_a_condition_that_does_not_hold_is_an_outcome(transactions, sync, attempt):
    condition = CommitRequest.KeyCondition(keyspace=sync, key=b"alice", condition=absent())
    commit = CommitRequest(id=attempt(), conditions=[condition], writes=[key_write(sync, b"carol", b"1")])
    answered = transactions.Commit(commit, timeout=20)
    assert answered.condition_failed.key == key_of(sync, b"alice")


@feature("transactions")
def test_an_async_keyspace_takes_part_in_none(transactions, asynchronous, attempt):
    with pytest.raises(grpc.RpcError) as refused:
        transactions.Commit(CommitRequest(id=attempt(), writes=[key_write(asynchronous, b"k", b"v")]), timeout=20)
    assert details(refused.value).code == "NO_TRANSACTIONS"


@feature("transactions")
def test_many_on_one_stream(transactions, sync, attempt):
    commits = [
        transactions_pb2.TransactionCall(
            id=number,
            commit=CommitRequest(
                id=attempt(), writes=[key_write(sync, b"stream/%d" % number, b"v"), key_write(sync, b"log/%d" % number, b"v")]
            ),
        )
        for number in range(50)
    ]
    answered = transactions.Pipeline(iter([transactions_pb2.TransactionPipelineRequest(calls=commits)]), timeout=60)
    answers = {answer.id: answer for response in answered for answer in response.answers}
    assert sorted(answers) == list(range(50))
    assert all(answer.commit.HasField("committed") for answer in answers.values())
