"""Child processes of plugins: they hold nothing of the gateway's, and do not outlive it."""

import json
import os
import signal
import socket
import sys

import pytest

from tests.kit.process import is_alive
from tests.kit.wire import RawSocket, get

CONFIG = """
workers: 1
shutdown: {grace: 2s}
routes: [{name: all, match: {path: "/{rest...}"}, respond: {status: 200, body: here}}]
plugins: [{use: "./parent.py:Parent"}]
"""
PARENT = """
import asyncio, concurrent.futures, multiprocessing, os, subprocess, threading, time
from gatewright import Plugin, PluginConfig

class Parent(Plugin[PluginConfig]):
    async def on_request(self, exchange):
        if exchange.request.path == "/fork":
            pid = BODY
            return exchange.reject(503, "forked", str(pid))

def process():
    child = multiprocessing.Process(target=time.sleep, args=(100,))
    child.start()
    return child.pid

def pool():
    made = concurrent.futures.ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("fork"))
    kept.append(made)
    return made.submit(os.getpid).result()

def fork():
    pid = os.fork()
    if not pid:
        time.sleep(100)
        os._exit(0)
    return pid

def tell(pipe, queue):
    pipe.send("2")
    queue.put("3")

async def pipes():
    program = await asyncio.create_subprocess_exec("cat", stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    told = (await program.communicate(b"1"))[0].decode()
    here, there = multiprocessing.Pipe()  # two sockets
    queue = multiprocessing.Queue()
    child = multiprocessing.Process(target=tell, args=(there, queue))
    child.start()
    told += here.recv() + queue.get()
    child.join()
    return told + subprocess.run(["cat"], input=b"4", stdout=subprocess.PIPE, preexec_fn=os.getpid).stdout.decode()

kept = []
multiprocessing.set_start_method("fork")
"""
FORKS = ["process()", "pool()", "fork()", "await asyncio.to_thread(process)"]


@pytest.fixture
def parent(run, tmp_path):
    """Start a gateway whose plugin forks; `parent(how)` returns it and the child, once a client was served that the
    child has seen the connection of.
    """
    made = []

    def start(how):
        (tmp_path / "parent.py").write_text(PARENT.replace("BODY", how))
        gateway = run(CONFIG).ready()
        answer = get(
            gateway.port, "/fork", "Connection: close\r\n"
        )  # returns at the end, which a child must not hold up
        made.append(int(json.loads(answer.body)["detail"]))
        return gateway, made[-1]

    yield start
    for pid in made:
        if is_alive(pid):
            os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize("how", FORKS)
def test_a_fork_holds_no_address_and_ends_with_the_gateway(parent, how):
    gateway, child = parent(how)
    port = gateway.port
    with RawSocket.connect(port) as idle:
        assert is_alive(child)
        assert gateway.end() == 0
        assert idle.read_to_end() == b""
    gateway.until(lambda: not is_alive(child), "the child's end")
    with socket.create_server(("127.0.0.1", port)):
        pass


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends a child with its parent")
@pytest.mark.parametrize("how", FORKS[:3])
def test_a_fork_ends_with_a_worker_that_is_killed(parent, how):
    gateway, child = parent(how)
    (worker,) = gateway.workers()
    os.kill(worker, signal.SIGKILL)
    gateway.until(lambda: not is_alive(child), "the child's end")
    assert get(gateway.port).body == b"here"


def test_a_signal_to_a_fork_is_none_to_its_worker(parent):
    gateway, child = parent("process()")
    workers = gateway.workers()
    os.kill(child, signal.SIGTERM)
    gateway.until(lambda: not is_alive(child), "the child's end")
    assert get(gateway.port).body == b"here"
    assert gateway.workers() == workers


def test_programs_and_what_children_are_told_by_pipes_are_left_alone(run, tmp_path):
    (tmp_path / "parent.py").write_text(PARENT.replace("BODY", "await pipes()"))
    gateway = run(CONFIG).ready()
    assert json.loads(get(gateway.port, "/fork").body)["detail"] == "1234"
    assert gateway.end() == 0
