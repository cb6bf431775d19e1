"""A32: Flask with Session, under a threaded server, two tenants at once."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

HERE = Path(__file__).parent
OTHER = {"acme": "globex", "globex": "acme"}


@pytest.fixture
def address(serve: Callable[..., str], tmp_path: Path) -> str:
    return serve(str(HERE / "tickets.py"), DATABASE_URL=f"sqlite:///{tmp_path / 'tickets.db'}")


@pytest.fixture
def clients(address: str) -> Iterator[dict[str, httpx.Client]]:
    clients = {
        name: httpx.Client(base_url=address, headers={"Host": host}, timeout=30)
        for name, host in [
            ("acme", "acme.localhost"),
            ("globex", "Globex.localhost:8000"),
            ("initech", "initech.localhost"),
            ("nobody", "localhost"),
            ("forged", "acme.globex.localhost"),
        ]
    }
    yield clients
    for client in clients.values():
        client.close()


def test_each_tenant_has_its_own_tickets(clients: dict[str, httpx.Client]) -> None:
    numbers = {}
    for tenant in OTHER:
        tickets = clients[tenant].get("/tickets").json()
        assert [ticket["title"] for ticket in tickets] == [
            f"{tenant}: printer",
            f"{tenant}: coffee",
        ]
        numbers[tenant] = [ticket["id"] for ticket in tickets]

    for tenant, other in OTHER.items():
        assert clients[tenant].get(f"/tickets/{numbers[other][0]}").status_code == 404
        assert clients[tenant].get(f"/tickets/{numbers[tenant][0]}").status_code == 200


def test_closing_all_closes_ones_own(clients: dict[str, httpx.Client]) -> None:
    assert clients["globex"].post("/close-all").json() == {"closed": 2}
    assert [ticket["open"] for ticket in clients["acme"].get("/tickets").json()] == [True, True]
    assert [ticket["open"] for ticket in clients["globex"].get("/tickets").json()] == [False, False]


def test_who_is_no_tenant_sees_public_pages_only(clients: dict[str, httpx.Client]) -> None:
    assert clients["nobody"].get("/").status_code == 200
    for path in ("/tickets", "/export"):
        answer = clients["nobody"].get(path)
        assert (answer.status_code, answer.json()["status"]) == (400, 400)
        assert answer.headers["content-type"] == "application/problem+json"

    assert clients["initech"].get("/").status_code == 404
    assert clients["forged"].get("/").status_code == 400


def test_two_tenants_at_once(clients: dict[str, httpx.Client]) -> None:
    def ask(job: tuple[str, int]) -> tuple[str, str]:
        tenant, turn = job
        client = clients[tenant]
        if turn % 4 == 0:
            added = client.post("/tickets", data={"title": f"{tenant}: {turn}"})
            assert added.status_code == 201
        elif turn % 4 == 1:
            assert client.post("/tickets", data={"title": ""}).status_code == 500

        return tenant, client.get("/export" if turn % 2 else "/tickets").text

    jobs = [(tenant, turn) for turn in range(40) for tenant in OTHER]
    with ThreadPoolExecutor(8) as threads:
        for tenant, text in threads.map(ask, jobs):
            assert f"{tenant}: printer" in text
            assert OTHER[tenant] not in text

    for tenant in OTHER:
        assert len(clients[tenant].get("/tickets").json()) == 12


def test_a_command_counts_one_tenants_tickets(tmp_path: Path) -> None:
    def flask(*arguments: str) -> subprocess.CompletedProcess[str]:
        app = "tickets:create_app('sqlite:///tickets.db')"
        return subprocess.run(
            [sys.executable, "-m", "flask", "--app", app, *arguments],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE), *sys.path])},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    for tenant in OTHER:
        assert flask("count", "--tenant", tenant).stdout == f"{tenant} has 2 tickets\n"

    assert "Missing option '--tenant'" in flask("count").stderr
