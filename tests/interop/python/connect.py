"""How every test connects: the one place for options of a channel, encryption and tokens."""

import os

import grpc

ROUTERS = os.environ["FULCRUM_ROUTERS"].split(",")
NODES = os.environ["FULCRUM_NODES"].split(",")

#: Batches and transactions are larger than the 4 MiB that gRPC takes in by itself.
LARGE = [
    ("grpc.max_receive_message_length", 16 * 1024 * 1024),
    ("grpc.max_send_message_length", 16 * 1024 * 1024),
]


def channel(address=None, options=(), compression=None):
    """A channel to one router; `options` are added to those of gRPC, which are otherwise as they are by default."""
    return grpc.insecure_channel(address or ROUTERS[0], options=list(options), compression=compression)


def balanced(addresses, options=()):
    """A channel to several routers that takes turns, and leaves out those that do not answer.

    Of a list of addresses grpcio makes an authority with a comma in it, which is none: servers refuse every stream. So it is named.
    """
    service_config = '{"loadBalancingConfig": [{"round_robin": {}}]}'
    options = [("grpc.service_config", service_config), ("grpc.default_authority", "fulcrum"), *options]
    return channel("ipv4:" + ",".join(addresses), options)


def secure_channel(address, authority, certificate=None, token=None):
    """An encrypted channel: by the authority in a folder of `fulcrum cert dev`, with the client's certificate in another, if it has one."""
    shown = [(certificate / name).read_bytes() for name in ("client.key", "client.pem")] if certificate else [None, None]
    credentials = grpc.ssl_channel_credentials((authority / "ca.pem").read_bytes(), *shown)
    if token:
        credentials = grpc.composite_channel_credentials(credentials, grpc.access_token_call_credentials(token))
    return grpc.secure_channel(address, credentials)
