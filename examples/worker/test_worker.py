"""A32: a command-line worker with AsyncSessionScope, jobs of two tenants."""

from __future__ import annotations

import ast
import json
import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent


def worker(path: Path, command: str) -> str:
    return subprocess.run(
        [sys.executable, str(HERE / "worker.py"), command],
        cwd=path,
        env={**os.environ, "DATABASE_URL": "sqlite+aiosqlite:///worker.db"},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    ).stdout


@pytest.fixture
def database(tmp_path: Path) -> sqlite3.Connection:
    worker(tmp_path, "work")
    return sqlite3.connect(tmp_path / "worker.db")


def queue(database: sqlite3.Connection, task: str, tenant: str | None, **arguments: object) -> None:
    job = None if tenant is None else {"kind": "str", "tenant": tenant}
    database.execute(
        "INSERT INTO job (task, arguments, tenant) VALUES (?, ?, ?)",
        (task, json.dumps(arguments), json.dumps(job)),
    )
    database.commit()


def outcomes(database: sqlite3.Connection) -> list[str]:
    return [outcome for (outcome,) in database.execute("SELECT outcome FROM job ORDER BY id")]


def entries(database: sqlite3.Connection) -> list[tuple[str, int, int]]:
    rows = database.execute("SELECT tenant_id, amount, is_closed FROM entry ORDER BY id")
    return [*rows]


def test_the_demonstration(tmp_path: Path) -> None:
    lines = worker(tmp_path, "demo").splitlines()
    assert lines[3].endswith("acme has 150")
    assert lines[4].endswith("globex has 900")
    assert "refused: This job carries no tenant" in lines[5]
    assert ast.literal_eval(lines[6].removeprefix("closed: ")) == {"acme": 2, "globex": 1}


def test_each_job_is_done_as_its_own_tenant(tmp_path: Path, database: sqlite3.Connection) -> None:
    for tenant, amount in (("acme", 1), ("globex", 20), ("acme", 2), ("globex", 40)):
        queue(database, "book", tenant, month="2024-05", amount=amount)
        queue(database, "balance", None)

    queue(database, "book", "acme", month="2024-05")
    queue(database, "balance", "acme")
    queue(database, "balance", "globex")
    assert worker(tmp_path, "work") == "11 jobs done\n"
    done = outcomes(database)
    assert all(outcome.startswith("refused: This job carries no tenant") for outcome in done[1:8:2])
    assert done[8].startswith("failed: TypeError")
    assert done[9:] == ["acme has 3", "globex has 60"]
    assert entries(database) == [
        ("acme", 1, 0),
        ("globex", 20, 0),
        ("acme", 2, 0),
        ("globex", 40, 0),
    ]


def test_the_nightly_run_goes_on_where_it_was(tmp_path: Path, database: sqlite3.Connection) -> None:
    for tenant in ("acme", "globex"):
        queue(database, "book", tenant, month="2024-05", amount=1)

    worker(tmp_path, "work")
    (tmp_path / "nightly.jsonl").write_text('{"kind": "str", "tenant": "acme"}\n')
    assert worker(tmp_path, "nightly") == "closed: {'globex': 1}\n"
    assert entries(database) == [("acme", 1, 0), ("globex", 1, 1)]
    closed = worker(tmp_path, "nightly").removeprefix("closed: ")
    assert ast.literal_eval(closed) == {"acme": 1, "globex": 0}
