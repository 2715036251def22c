"""A router that a test may stop: its own process, in the cluster that all tests share."""

import os
import signal
import socket
import subprocess

import grpc

from waiting import until


def free_port():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


class OwnRouter:
    """Started on entry; stopped on exit, if the test has not done it."""

    def __init__(self, tmp_path):
        self.address = f"127.0.0.1:{free_port()}"
        self.log = open(tmp_path / "router.log", "wb")

    def __enter__(self):
        command = [
            os.environ["FULCRUM_ROUTER_PROGRAM"],
            "--etcd",
            os.environ["FULCRUM_ETCD_URL"],
            "--cluster-id",
            os.environ["FULCRUM_CLUSTER_ID"],
            "--listen",
            self.address,
            "--metrics-listen",
            f"127.0.0.1:{free_port()}",
        ]
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log)
        with grpc.insecure_channel(self.address) as channel:
            until(lambda: self.process.poll() is None and grpc.channel_ready_future(channel).result(timeout=20) is None)
        return self

    def tell_to_stop(self):
        self.process.send_signal(signal.SIGTERM)

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.tell_to_stop()
        try:
            self.process.wait(timeout=15)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise
        finally:
            self.log.close()
