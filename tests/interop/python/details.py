"""The details of an error, read as everybody's library reads them."""

from fulcrum.v1 import types_pb2
from grpc_status import rpc_status


def details(error):
    """Our details, through the standard library for them: it refuses an envelope that contradicts the status."""
    status = rpc_status.from_call(error)
    assert status is not None
    found = types_pb2.Error()
    assert any(detail.Unpack(found) for detail in status.details)
    return found
