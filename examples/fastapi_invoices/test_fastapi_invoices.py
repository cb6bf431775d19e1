"""A32: FastAPI with AsyncSession, under uvicorn, two tenants at once."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.sync.client import connect

HERE = Path(__file__).parent
OTHER = {"acme": "globex", "globex": "acme"}


@pytest.fixture
def address(serve: Callable[..., str], tmp_path: Path) -> str:
    return serve(
        *("-m", "uvicorn", "--app-dir", str(HERE), "invoices:app", "--port", "{port}"),
        DATABASE_URL=f"sqlite+aiosqlite:///{tmp_path / 'invoices.db'}",
    )


@pytest.fixture
def clients(address: str) -> Iterator[dict[str, httpx.Client]]:
    clients = {
        tenant: httpx.Client(base_url=address, headers={"X-Api-Key": f"{tenant}-key"}, timeout=30)
        for tenant in OTHER
    }
    yield clients
    for client in clients.values():
        client.close()


def test_each_tenant_has_its_own_invoices(clients: dict[str, httpx.Client]) -> None:
    numbers = {}
    for tenant, client in clients.items():
        invoices = client.get("/invoices").json()
        assert [invoice["amount"] for invoice in invoices] == [100, 250]
        assert {invoice["customer"] for invoice in invoices} == {f"{tenant}'s customer"}
        numbers[tenant] = [invoice["id"] for invoice in invoices]

    assert not set(numbers["acme"]) & set(numbers["globex"])
    for tenant, client in clients.items():
        for number in numbers[OTHER[tenant]]:
            assert client.get(f"/invoices/{number}").status_code == 404

        assert client.get(f"/invoices/{numbers[tenant][0]}").json()["amount"] == 100


def test_an_invoice_for_a_foreign_customer_is_refused_without_a_hint(
    clients: dict[str, httpx.Client],
) -> None:
    foreign = clients["acme"].post("/invoices", params={"customer_id": 2, "amount": 1})
    missing = clients["acme"].post("/invoices", params={"customer_id": 99, "amount": 1})
    assert (foreign.status_code, foreign.text) == (missing.status_code, missing.text)
    assert foreign.status_code == 404
    assert "globex" not in foreign.text
    assert clients["globex"].get("/invoices").json()[-1]["amount"] == 250
    assert len(clients["acme"].get("/invoices").json()) == 2


def test_without_a_key_only_public_pages_answer(address: str) -> None:
    assert httpx.get(f"{address}/health").json() == {"status": "well"}
    missing = httpx.get(f"{address}/invoices")
    assert (missing.status_code, missing.json()["detail"]) == (400, "This request needs a tenant.")
    stolen = httpx.get(f"{address}/invoices", headers={"X-Api-Key": "acme-key-2"})
    malformed = httpx.get(f"{address}/invoices", headers={"X-Api-Key": "acme-key,globex-key"})
    assert (stolen.status_code, malformed.status_code) == (404, 400)


def test_a_background_task_works_for_its_tenant(clients: dict[str, httpx.Client]) -> None:
    for client in clients.values():
        assert client.post("/reminders").status_code == 202

    for tenant, client in clients.items():
        deadline = time.monotonic() + 10
        while not (texts := client.get("/reminders").json()) and time.monotonic() < deadline:
            time.sleep(0.05)

        assert texts == [f"Dear {tenant}'s customer"]


def test_a_websocket_keeps_its_tenant(address: str) -> None:
    url = address.replace("http", "ws") + "/totals"
    with (
        connect(url, additional_headers={"X-Api-Key": "acme-key"}) as acme,
        connect(url, additional_headers={"X-Api-Key": "globex-key"}) as globex,
    ):
        for _ in range(3):
            for socket, tenant in ((acme, "acme"), (globex, "globex")):
                socket.send("total?")
                assert json.loads(socket.recv()) == {"tenant": tenant, "total": 350}


def test_two_tenants_at_once(clients: dict[str, httpx.Client]) -> None:
    customers = {"acme": 1, "globex": 2}

    def ask(job: tuple[str, int]) -> tuple[str, Any]:
        tenant, turn = job
        client = clients[tenant]
        if turn % 4 == 0:
            params = {"customer_id": customers[tenant], "amount": turn + 1}
            assert client.post("/invoices", params=params).status_code == 201
        elif turn % 4 == 1:
            params = {"customer_id": customers[tenant], "amount": 0}
            # uvicorn closes the connection after an error of the application.
            failed = client.post("/invoices", params=params, headers={"Connection": "close"})
            assert failed.status_code == 500

        return tenant, client.get("/export" if turn % 2 else "/invoices").text

    jobs = [(tenant, turn) for turn in range(40) for tenant in OTHER]
    with ThreadPoolExecutor(8) as threads:
        for tenant, text in threads.map(ask, jobs):
            assert f"{tenant}'s customer" in text
            assert OTHER[tenant] not in text

    for client in clients.values():
        assert len(client.get("/invoices").json()) == 12
