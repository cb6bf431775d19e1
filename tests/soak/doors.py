"""The examples under load and faults: many clients of many tenants, and not one foreign row.

    python tests/soak/doors.py                  200 clients of 50 tenants, a minute for each example
    python tests/soak/doors.py --short          40 clients of 10 tenants, a few seconds
    python tests/soak/doors.py --database postgresql://postgres@127.0.0.1/test

Each example runs behind its server in this process, so that afterwards every thread, and the event
loop, can be asked whether a tenant was left bound. The clients run in a process of their own: they
read, write, stream, use websockets, hang up in the middle and provoke server errors, and look in
every answer for a row of another tenant. It ends with an error if one was found.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import multiprocessing
import random
import socket
import socketserver
import sys
import tempfile
import threading
import time
import wsgiref.simple_server
from collections import Counter
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from sqlalchemy import create_engine, text
from sqlalchemy.engine import make_url

EXAMPLES = Path(__file__).parents[2] / "examples"
sys.path[:0] = [str(EXAMPLES / name) for name in ("fastapi_invoices", "flask_tickets", "worker")]

THREADS = 8

Ask = Callable[["Client"], Awaitable[str]]


# The clients


class Client:
    """One tenant's browser. Speaks HTTP by hand, so that it can hang up where it likes."""

    def __init__(self, port: int, tenant: str, others: list[str], headers: str) -> None:
        self.port = port
        self.tenant = tenant
        self.others = others
        self.headers = headers
        self.number = 0

    async def ask(self, method: str, path: str, body: str = "", hang_up: bool = False) -> str:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            writer.write(
                f"{method} {path} HTTP/1.0\r\n{self.headers}"
                f"Content-Type: application/x-www-form-urlencoded\r\n"
                f"Content-Length: {len(body)}\r\n\r\n{body}".encode()
            )
            await writer.drain()
            if hang_up:
                await asyncio.sleep(random.random() / 50)
                return "hung up"

            return (await reader.read()).decode()
        finally:
            writer.close()

    async def talk(self, path: str) -> str:
        from websockets.asyncio.client import connect

        headers = dict(line.split(": ", 1) for line in self.headers.splitlines())
        async with connect(
            f"ws://127.0.0.1:{self.port}{path}", additional_headers=headers, open_timeout=60
        ) as websocket:
            answers = []
            for _ in range(3):
                await websocket.send("total?")
                answers.append(json.loads(await websocket.recv())["tenant"])

            if set(answers) != {self.tenant}:
                return f"FOREIGN {answers}"

        return "websocket"


async def _invoices(client: Client) -> tuple[str, str]:
    index = int(client.tenant.removeprefix("tenant").removesuffix("x"))
    amount = random.randint(1, 99)
    choices: list[tuple[str, Callable[[], Awaitable[str]]]] = [
        ("read", lambda: client.ask("GET", "/invoices")),
        ("stream", lambda: client.ask("GET", "/export")),
        ("hang up", lambda: client.ask("GET", "/export", hang_up=True)),
        ("hang up", lambda: client.ask("POST", "/reminders", hang_up=True)),
        ("background", lambda: client.ask("POST", "/reminders")),
        ("read", lambda: client.ask("GET", "/reminders")),
        ("websocket", lambda: client.talk("/totals")),
        ("foreign id", lambda: client.ask("GET", f"/invoices/{random.randint(1, 200)}")),
        ("error", lambda: client.ask("POST", f"/invoices?customer_id={index + 1}&amount=0")),
        ("write", lambda: client.ask("POST", f"/invoices?customer_id={index + 1}&amount={amount}")),
        (
            "foreign write",
            lambda: client.ask("POST", f"/invoices?customer_id={(index + 1) % 10 + 1}&amount=1"),
        ),
    ]
    name, ask = random.choice(choices)
    return name, await ask()


async def _tickets(client: Client) -> tuple[str, str]:
    title = f"title={client.tenant}%3A+{random.randint(1, 99)}"
    choices: list[tuple[str, Callable[[], Awaitable[str]]]] = [
        ("read", lambda: client.ask("GET", "/tickets")),
        ("stream", lambda: client.ask("GET", "/export")),
        ("hang up", lambda: client.ask("GET", "/export", hang_up=True)),
        ("foreign id", lambda: client.ask("GET", f"/tickets/{random.randint(1, 200)}")),
        ("bulk", lambda: client.ask("POST", "/close-all")),
        ("error", lambda: client.ask("POST", "/tickets", "title=")),
        ("write", lambda: client.ask("POST", "/tickets", title)),
    ]
    name, ask = random.choice(choices)
    return name, await ask()


def run_clients(
    example: str, port: int, clients: int, tenants: list[str], until: float, results: Any
) -> None:
    random.seed(clients)
    counts: Counter[str] = Counter()

    async def one(number: int) -> None:
        tenant = tenants[number % len(tenants)]
        others = [other for other in tenants if other != tenant]
        headers = (
            f"X-Api-Key: {tenant}-key\r\n"
            if example == "invoices"
            else f"Host: {tenant}.localhost\r\n"
        )
        client = Client(port, tenant, others, headers)
        turn = _invoices if example == "invoices" else _tickets
        while time.time() < until:
            try:
                name, answer = await turn(client)
            except Exception as error:  # noqa: BLE001 - counted and shown
                counts[f"no answer: {type(error).__name__}"] += 1
                continue

            counts[name] += 1
            if "HTTP/1" in answer[:6]:
                counts[f"answered {answer.split(' ', 2)[1]}"] += 1

            if "FOREIGN" in answer or any(other in answer for other in others):
                counts["FOREIGN"] += 1
                print(f"{tenant} was told: {answer[:500]}", file=sys.stderr)

    async def everybody() -> None:
        await asyncio.gather(*(one(number) for number in range(clients)))

    asyncio.run(everybody())
    results.put(dict(counts))


# The servers


class ThreadedServer(socketserver.ThreadingMixIn, wsgiref.simple_server.WSGIServer):
    """A WSGI server with a fixed set of threads, each of which serves many requests."""

    request_queue_size = 512
    daemon_threads = True

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.threads = ThreadPoolExecutor(THREADS)

    def process_request(self, request: Any, client_address: Any) -> None:
        self.threads.submit(self.process_request_thread, request, client_address)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients hang up; that is what they are for."""


class QuietHandler(wsgiref.simple_server.WSGIRequestHandler):
    timeout = 30

    def log_message(self, format: str, *args: Any) -> None: ...

    def get_stderr(self) -> Any:
        return open("/dev/null", "w")


def left_bound() -> bool:
    from partywall.context import active_scope

    return active_scope() is not None


def serve_tickets(url: str, tenants: list[str]) -> tuple[int, Callable[[], int]]:
    from tickets import create_app

    app = create_app(url, tenants)
    server = ThreadedServer(("127.0.0.1", 0), QuietHandler)
    server.set_app(app)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()

    def stop() -> int:
        server.shutdown()
        thread.join()
        barrier = threading.Barrier(THREADS)

        def asked() -> bool:
            barrier.wait(timeout=120)
            return left_bound()

        left = sum(
            probe.result() for probe in [server.threads.submit(asked) for _ in range(THREADS)]
        )
        server.threads.shutdown()
        server.server_close()
        app.extensions["engine"].dispose()
        return left

    return server.server_port, stop


def serve_invoices(url: str, tenants: list[str]) -> tuple[int, Callable[[], int]]:
    import anyio.to_thread
    import uvicorn
    from invoices import create_app

    asked: list[bool] = []
    app = create_app(url, tenants)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    config = uvicorn.Config(app, port=port, log_level="critical", backlog=512)
    server = uvicorn.Server(config)

    async def main() -> None:
        await server.serve()
        asked.append(left_bound())
        async with asyncio.TaskGroup() as group:
            for _ in range(THREADS):
                group.create_task(ask_in_thread())

    async def ask_in_thread() -> None:
        def probe() -> bool:
            time.sleep(0.05)
            return left_bound()

        asked.append(await anyio.to_thread.run_sync(probe))

    thread = threading.Thread(target=lambda: asyncio.run(main()))
    thread.start()
    while not server.started:
        time.sleep(0.05)

    def stop() -> int:
        server.should_exit = True
        thread.join()
        return sum(asked)

    return port, stop


# The worker


def soak_worker(path: Path, tenants: list[str], seconds: float) -> Counter[str]:
    """Jobs of all tenants, some broken, some without a tenant, by several workers at once."""
    from sqlalchemy import select
    from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine
    from worker import Entry, Job, fill, send, work

    from partywall import atenant_scope, unscoped

    counts: Counter[str] = Counter()

    async def main() -> None:
        engine = create_async_engine(
            f"sqlite+aiosqlite:///{path / 'worker.db'}", pool_size=1, max_overflow=0
        )
        sessions = async_sessionmaker(engine, expire_on_commit=False)
        await fill(engine, sessions, tenants)
        until = time.time() + seconds
        while time.time() < until:
            for tenant in tenants:
                async with atenant_scope(tenant):
                    await send(sessions, "book", month=tenant, amount=1)
                    await send(sessions, "balance")
                    await send(sessions, "book", wrong=True)

            async with sessions.begin() as session:
                session.add(Job(task="balance", arguments={}, tenant=None))

            counts["jobs"] += await work(sessions)

        async with sessions() as session:
            for job in await session.scalars(select(Job)):
                whose = None if job.tenant is None else job.tenant["tenant"]
                assert job.outcome is not None
                if job.task == "balance" and whose and not job.outcome.startswith(f"{whose} has "):
                    counts["FOREIGN"] += 1

        with unscoped("the soak checks whose entries there are"):
            async with sessions() as session:
                for tenant, month in await session.execute(select(Entry.tenant_id, Entry.month)):
                    counts["FOREIGN"] += tenant != month

        counts["LEFT BOUND"] += left_bound()
        await engine.dispose()

    asyncio.run(main())
    return counts


# The command


def soak(example: str, options: argparse.Namespace, path: Path) -> Counter[str]:
    # No name is a part of another.
    tenants = [f"tenant{number}x" for number in range(options.tenants)]
    if example == "worker":
        return soak_worker(path, tenants, options.seconds)

    serve = serve_invoices if example == "invoices" else serve_tickets
    port, stop = serve(database(example, options.database, path), tenants)
    spawn = multiprocessing.get_context("spawn")
    results = spawn.SimpleQueue()
    until = time.time() + options.seconds + 2
    clients = spawn.Process(
        target=run_clients, args=(example, port, options.clients, tenants, until, results)
    )
    clients.start()
    clients.join(options.seconds + 300)
    if clients.is_alive():
        clients.kill()
        raise SystemExit("The clients did not come to an end.")

    counts = Counter(results.get())
    counts["LEFT BOUND"] += stop()
    return counts


def database(example: str, url: str | None, path: Path) -> str:
    driver = {"invoices": "aiosqlite", "tickets": "pysqlite"}[example]
    if url is None:
        return f"sqlite+{driver}:///{path / example}.db"

    name = f"soak_{example}"
    admin = create_engine(
        make_url(url).set(drivername="postgresql+psycopg"), isolation_level="AUTOCOMMIT"
    )
    with admin.connect() as connection:
        connection.execute(text(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)"))
        connection.execute(text(f"CREATE DATABASE {name}"))

    admin.dispose()
    driver = {"invoices": "postgresql+asyncpg", "tickets": "postgresql+psycopg"}[example]
    found = make_url(url).set(drivername=driver, database=name)
    return found.render_as_string(hide_password=False)


def main() -> None:
    parser = argparse.ArgumentParser(description="Soak the examples.")
    parser.add_argument("--short", action="store_true")
    parser.add_argument("--clients", type=int)
    parser.add_argument("--tenants", type=int)
    parser.add_argument("--seconds", type=float)
    parser.add_argument("--database", help="a PostgreSQL URL; SQLite without it")
    parser.add_argument("--example", choices=["invoices", "tickets", "worker"], action="append")
    options = parser.parse_args()
    options.clients = options.clients or (40 if options.short else 200)
    options.tenants = options.tenants or (10 if options.short else 50)
    options.seconds = options.seconds or (4 if options.short else 60)
    logging.disable(logging.CRITICAL)

    bad = 0
    for example in options.example or ["invoices", "tickets", "worker"]:
        with tempfile.TemporaryDirectory() as path:
            counts = soak(example, options, Path(path))

        bad += counts["FOREIGN"] + counts["LEFT BOUND"]
        # Once, so that a soak in which nothing worked is not taken for a good one.
        useful = counts["jobs"] + counts["answered 200"]
        bad += not useful
        told = ", ".join(f"{name} {counts[name]}" for name in sorted(counts) if counts[name])
        print(
            f"{example}: {options.clients} clients of {options.tenants} tenants, "
            f"{options.seconds:g} s; foreign rows {counts['FOREIGN']}, "
            f"left bound {counts['LEFT BOUND']}; {told}",
            flush=True,
        )

    if bad:
        raise SystemExit("A tenant saw or left what it must not.")


if __name__ == "__main__":
    main()
