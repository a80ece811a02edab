"""Robots for the tests: real processes at the end of a link, a line that is tapped, and a robot that talks nonsense."""

import json
import os
import socket
import subprocess
import sys
import threading
from contextlib import contextmanager
from pathlib import Path

from simtoreal.robot import READY


def write_target(folder: Path, task: str, parameters: dict[str, float], **more) -> Path:
    path = folder / f"target-{len(list(folder.glob('target-*')))}.yaml"
    document = {"task": task, "version": 1, "reset_seconds": 1.0, "parameters": parameters, **more}
    path.write_text(json.dumps(document))  # JSON is YAML
    return path


@contextmanager
def running_robot(target: Path, *, seed: int = 0, listen: str = "tcp://127.0.0.1:0", once: bool = False):
    """The address of a robot started by hand, and its process."""
    words = [
        "-m",
        "simtoreal.robot",
        str(target),
        "--listen",
        listen,
        "--seed",
        str(seed),
        *(["--once"] if once else []),
    ]
    process = subprocess.Popen([sys.executable, *words], stdout=subprocess.PIPE, text=True, env=dict(os.environ))
    try:
        said = process.stdout.readline()
        assert said.startswith(READY), said
        yield said.split()[-1], process
    finally:
        process.kill()
        process.communicate()


@contextmanager
def tapped(address: str):
    """The address of a line to the robot at `address`, and all bytes that cross it in either direction."""
    host, port = address.removeprefix("tcp://").split(":")
    crossed = bytearray()
    listener = socket.create_server(("127.0.0.1", 0))

    def pump(source, sink):
        while data := source.recv(1 << 14):
            crossed.extend(data)
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)

    def serve():
        learner, _ = listener.accept()
        with learner, socket.create_connection((host, int(port))) as robot:
            back = threading.Thread(target=pump, args=(robot, learner))
            back.start()
            pump(learner, robot)
            back.join()

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield f"tcp://127.0.0.1:{listener.getsockname()[1]}", crossed
    finally:
        listener.close()
        thread.join(5)


@contextmanager
def scripted(*answers: bytes | None):
    """The address of a robot that gives these answers, one to each request, and hangs up; None is silence."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve():
        learner, _ = listener.accept()
        with learner:
            for answer in answers:
                if not learner.recv(1 << 14):
                    return
                if answer is not None:
                    learner.sendall(answer)
            if answers[-1] is None:
                learner.recv(1)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield f"tcp://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        listener.close()
        thread.join(5)
