"""Messages as the tests write them: a line each."""

from fulcrum.v1 import kv_pb2, transactions_pb2, types_pb2

LINEARIZABLE = types_pb2.Consistency(linearizable=types_pb2.Consistency.Linearizable())
SESSION = types_pb2.Consistency(session=types_pb2.Consistency.Session())
EVENTUAL = types_pb2.Consistency(eventual=types_pb2.Consistency.Eventual())


def bounded(milliseconds):
    return types_pb2.Consistency(bounded_ms=milliseconds)


def get(keyspace, key, level=LINEARIZABLE, **options):
    return kv_pb2.GetRequest(
        keyspace=keyspace, key=key, options=kv_pb2.ReadOptions(consistency=level, **options)
    )


def put(keyspace, key, value, **rest):
    return kv_pb2.PutRequest(keyspace=keyspace, key=key, value=value, **rest)


def absent():
    return types_pb2.Condition(absent=types_pb2.Condition.Absent())


def write_of(key, value):
    return types_pb2.Write(key=key, put=types_pb2.Write.Put(value=value))


def key_write(keyspace, key, value):
    return transactions_pb2.CommitRequest.KeyWrite(keyspace=keyspace, write=write_of(key, value))


def merged(token, receipt):
    """A session token that has also seen what this receipt is of."""
    seen = token.groups[receipt.group]
    if (receipt.epoch, receipt.index) > (seen.epoch, seen.index):
        seen.epoch, seen.index = receipt.epoch, receipt.index
    token.map_version = max(token.map_version, receipt.map_version)
    return token
