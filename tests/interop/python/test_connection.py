"""The connection: health, reflection, keepalive, more streams than one connection has, and a router that stops."""

import threading
import time

import grpc
import pytest
from fulcrum.v1 import admin_pb2, admin_pb2_grpc, kv_pb2, kv_pb2_grpc
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

import connect
from messages import get, put
from own_router import OwnRouter
from waiting import until

feature = pytest.mark.feature
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


@feature("health")
@pytest.mark.parametrize("service", ["", "fulcrum.v1.Kv", "fulcrum.v1.Transactions", "fulcrum.v1.Admin"])
def test_check_and_watch(channel, service):
    health = health_pb2_grpc.HealthStub(channel)
    asked = health_pb2.HealthCheckRequest(service=service)
    assert health.Check(asked, timeout=10).status == SERVING
    watching = health.Watch(asked)
    assert next(watching).status == SERVING
    watching.cancel()


@feature("health")
def test_a_service_that_is_not_there(channel):
    with pytest.raises(grpc.RpcError) as refused:
        health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(service="nothing"), timeout=10)
    assert refused.value.code() == grpc.StatusCode.NOT_FOUND


@feature("health")
@pytest.mark.parametrize("address", connect.NODES)
def test_shard_nodes_are_well(address):
    with connect.channel(address) as node:
        health = health_pb2_grpc.HealthStub(node)
        for service in ("", "fulcrum.v1.Kv"):
            assert health.Check(health_pb2.HealthCheckRequest(service=service), timeout=10).status == SERVING


@feature("reflection")
def test_what_is_served_is_listed_and_nothing_else(channel):
    # This library asks by the older version of the protocol, as many tools still do.
    served = set(ProtoReflectionDescriptorDatabase(channel).get_services())
    assert {"fulcrum.v1.Kv", "fulcrum.v1.Transactions", "fulcrum.v1.Admin", "grpc.health.v1.Health"} <= served
    assert not any(name.startswith("fulcrum.internal") for name in served), "a router does not serve them"


@feature("reflection")
def test_methods_and_messages_are_described(channel):
    pool = DescriptorPool(ProtoReflectionDescriptorDatabase(channel))
    kv = pool.FindServiceByName("fulcrum.v1.Kv")
    assert kv.FindMethodByName("Scan").server_streaming
    assert kv.FindMethodByName("Get").input_type.full_name == "fulcrum.v1.GetRequest"
    receipt = pool.FindMessageTypeByName("fulcrum.v1.Receipt")
    assert receipt.fields_by_name["achieved"].message_type.full_name == "fulcrum.v1.Consistency"


@feature("reflection")
def test_an_unknown_symbol_is_an_answer(channel):
    stub = reflection_pb2_grpc.ServerReflectionStub(channel)
    asked = reflection_pb2.ServerReflectionRequest(file_containing_symbol="fulcrum.v1.Nothing")
    try:
        answered = next(stub.ServerReflectionInfo(iter([asked]), timeout=10))
        assert answered.error_response.error_code == grpc.StatusCode.NOT_FOUND.value[0]
    except grpc.RpcError as error:
        assert error.code() == grpc.StatusCode.NOT_FOUND


@feature("keepalive")
def test_pings_are_not_punished(sync):
    eager = [
        ("grpc.keepalive_time_ms", 100),
        ("grpc.keepalive_timeout_ms", 2000),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.http2.min_ping_interval_without_data_ms", 100),
    ]
    with connect.channel(options=eager) as channel:
        states = []
        channel.subscribe(states.append)
        kv = kv_pb2_grpc.KvStub(channel)
        kv.Get(get(sync, b"k"))
        watching = kv.Watch(kv_pb2.WatchRequest(keyspace=sync, key=b"pinged"))
        assert next(watching).HasField("start")
        time.sleep(4)
        kv.Put(put(sync, b"pinged", b"v"))
        assert any(message.changes for message in watching)
        watching.cancel()
    assert grpc.ChannelConnectivity.TRANSIENT_FAILURE not in states, "the connection was closed in between"


@feature("many streams")
def test_more_streams_than_a_connection_takes_are_answered_in_turn(sync):
    with connect.channel() as channel:
        kv = kv_pb2_grpc.KvStub(channel)
        kv.Put(put(sync, b"many", b"v"))
        reading = [kv.Get.future(get(sync, b"many"), timeout=60) for _ in range(3000)]
        assert all(read.result().value.value == b"v" for read in reading)


@feature("many streams")
def test_watches_that_fill_a_connection_do_not_hold_up_another(kv, sync):
    with connect.channel(options=[("grpc.use_local_subchannel_pool", 1)]) as crowded:
        stub = kv_pb2_grpc.KvStub(crowded)
        watches = [stub.Watch(kv_pb2.WatchRequest(keyspace=sync, key=b"crowd")) for _ in range(150)]
        for watch in watches:
            assert next(watch).HasField("start")
        assert kv.Get(get(sync, b"crowd"), timeout=10).HasField("receipt")
        for watch in watches:
            watch.cancel()


@feature("drain")
def test_a_router_that_stops_fails_no_call(sync, tmp_path):
    """Calls go on at the other router, without a failed one and without a retry by the client's code."""
    with OwnRouter(tmp_path) as leaving:
        with connect.balanced([leaving.address, connect.ROUTERS[0]]) as channel:
            kv = kv_pb2_grpc.KvStub(channel)
            done, failed, over = [0] * 8, [], threading.Event()

            def work(number):
                while not over.is_set():
                    try:
                        kv.Put(put(sync, b"drain/%d" % number, b"%d" % done[number]), timeout=10)
                        assert kv.Get(get(sync, b"drain/%d" % number), timeout=10).value.value == b"%d" % done[number]
                        done[number] += 1
                    except Exception as error:  # noqa: BLE001  (every failure is of interest)
                        failed.append(error)

            workers = [threading.Thread(target=work, args=(number,)) for number in range(8)]
            for worker in workers:
                worker.start()
            time.sleep(1)
            leaving.tell_to_stop()
            leaving.process.wait(timeout=15)
            before = list(done)
            until(lambda: all(now > then + 5 for now, then in zip(done, before)))
            over.set()
            for worker in workers:
                worker.join()
            assert failed == []


@feature("drain")
def test_streams_of_a_router_that_stops_end_and_it_does_not_wait_for_them(sync, tmp_path):
    with OwnRouter(tmp_path) as leaving, connect.channel(leaving.address) as channel:
        kv, health = kv_pb2_grpc.KvStub(channel), health_pb2_grpc.HealthStub(channel)
        watching = kv.Watch(kv_pb2.WatchRequest(keyspace=sync, prefix=b"drain/"))
        asleep = threading.Event()
        pipeline = kv.Pipeline(iter(asleep.wait, True))
        maps = admin_pb2_grpc.AdminStub(channel).WatchMap(admin_pb2.WatchMapRequest())
        wells = {name: health.Watch(health_pb2.HealthCheckRequest(service=name)) for name in ("", "fulcrum.v1.Kv")}
        assert next(watching).HasField("start") and next(maps).version
        for well in wells.values():
            assert next(well).status == SERVING

        begun = time.monotonic()
        leaving.tell_to_stop()
        for name, well in wells.items():
            assert next(well).status == NOT_SERVING, f"{name!r} is still said to be well"
            assert list(well) == []
        for stream in (watching, maps, pipeline):
            ended(stream)
        assert leaving.process.wait(timeout=15) == 0
        took = time.monotonic() - begun
        asleep.set()
        assert took < 4, f"it waited {took:.1f} s, as if a stream had not ended"


def ended(stream):
    """A stream ends in good order, or by a refusal in words; not by a broken connection."""
    try:
        for _ in stream:
            pass
    except grpc.RpcError as error:
        assert error.trailing_metadata() is not None and "grpc-status-details-bin" in dict(error.trailing_metadata()), error
