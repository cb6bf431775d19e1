"""Examples run as their readers run them: in a process of their own, behind a real server."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parent

Serve = Callable[..., str]


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    """Start `python ...` with a free port in its arguments or as PORT; gives the address."""
    started: list[subprocess.Popen[bytes]] = []

    def start(*arguments: str, **variables: str) -> str:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]

        log = (tmp_path / "server.log").open("wb")
        process = subprocess.Popen(
            [sys.executable, *(argument.format(port=port) for argument in arguments)],
            cwd=tmp_path,
            env={**os.environ, **variables, "PORT": str(port)},
            stdout=log,
            stderr=log,
        )
        started.append(process)
        for _ in range(300):
            if process.poll() is not None:
                break

            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                return f"http://127.0.0.1:{port}"
            except OSError:
                time.sleep(0.1)

        pytest.fail("The server did not start:\n" + (tmp_path / "server.log").read_text())

    yield start
    for process in started:
        process.terminate()
        process.wait(timeout=20)
