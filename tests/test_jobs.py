"""Jobs that carry their tenant, and functions that run for every tenant."""

from __future__ import annotations

import asyncio
import json
import re
import threading
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from enum import Enum
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from sqlalchemy import Engine, event, select, union
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker
from sqlalchemy.orm import Session, sessionmaker

import doors
from doors import Note, Tenant, count, stored, texts
from partywall.context import (
    active_scope,
    bind_tenant,
    current_tenant,
    tenant_scope,
    try_current_tenant,
    unscoped,
)
from partywall.errors import ConfigurationError, MalformedTenantError, MissingTenantContextError
from partywall.jobs import afor_each_tenant, capture, for_each_tenant, restore


@pytest.fixture(autouse=True)
def _nothing_is_left_bound() -> Iterator[None]:
    yield
    assert active_scope() is None


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    engine = doors.filled(tmp_path)
    yield engine
    engine.dispose()


@pytest.fixture
def sessions(engine: Engine) -> sessionmaker[Session]:
    @event.listens_for(engine, "connect")
    def wait_for_writers(connection: Any, _: object) -> None:
        connection.execute("PRAGMA busy_timeout = 20000")

    engine.dispose()
    return sessionmaker(engine)


@pytest_asyncio.fixture
async def async_sessions(
    engine: Engine, tmp_path: Path
) -> AsyncIterator[async_sessionmaker[AsyncSession]]:
    async_engine = doors.async_engine(tmp_path)
    yield async_sessionmaker(async_engine)
    await async_engine.dispose()


def current() -> Any:
    context = try_current_tenant()
    return None if context is None else context.tenant_id


# capture and restore


class Name(str, Enum):
    ACME = "acme"


@pytest.mark.parametrize(
    "tenant",
    ["acme", "globex", 7, 0, -1, 2**70, uuid.UUID(int=7), "7", " a b ", "\u00e4", Name.ACME],
)
def test_a_job_carries_its_tenant_through_json(tenant: Any) -> None:
    with tenant_scope(tenant):
        job = json.loads(json.dumps(capture()))

    assert len(json.dumps(job)) < 120
    with tenant_scope("initech"), restore(job) as context:
        assert context.tenant_id == tenant
        assert current_tenant().tenant_id == tenant
        assert isinstance(tenant, type(context.tenant_id))


def test_the_metadata_stays_behind() -> None:
    with tenant_scope(bind_tenant("acme", plan=object())), restore(capture()):
        assert not current_tenant().metadata


def test_there_is_nothing_to_capture_without_a_tenant() -> None:
    with pytest.raises(MissingTenantContextError, match="No tenant is current"):
        capture()

    with (
        unscoped("to see that it is no tenant"),
        pytest.raises(MissingTenantContextError, match="No tenant is current"),
    ):
        capture()


@pytest.mark.parametrize("job", [None, {}])
def test_a_job_without_a_tenant_is_refused(job: Any) -> None:
    with (
        tenant_scope("acme"),
        pytest.raises(
            MissingTenantContextError, match=r"This job carries no tenant. Send capture\(\) with it"
        ),
    ):
        restore(job)


@pytest.mark.parametrize(
    "job",
    [
        {"tenant": "acme"},
        {"kind": "str"},
        {"kind": "str", "tenant": ""},
        {"kind": "str", "tenant": None},
        {"kind": "int", "tenant": "acme"},
        {"kind": "int", "tenant": 7},
        {"kind": "uuid", "tenant": "7"},
        {"kind": "eval", "tenant": "acme"},
        {"kind": ["str"], "tenant": "acme"},
        {"other": "message"},
        ["acme"],
        "acme",
    ],
)
def test_a_job_that_was_tampered_with_is_refused(job: Any) -> None:
    with pytest.raises(MalformedTenantError, match="capture|job's tenant is no|blank"):
        restore(job)


def test_the_next_job_never_inherits_the_last_ones_tenant(sessions: sessionmaker[Session]) -> None:
    jobs = []
    for tenant in ("acme", "globex"):
        with tenant_scope(tenant):
            jobs.append(capture())

    seen: list[Any] = []

    def worker() -> None:
        for job in (jobs[0], None, jobs[1], {}, jobs[0]):
            try:
                with restore(job), sessions() as session:
                    seen.append(session.scalars(texts()).all())
                    if job is jobs[1]:
                        raise ZeroDivisionError

            except MissingTenantContextError:
                seen.append(current())
            except ZeroDivisionError:
                assert current() is None

    thread = threading.Thread(target=worker)
    thread.start()
    thread.join(timeout=10)
    acme, globex = doors.TEXTS.values()
    assert seen == [acme, None, globex, None, acme]


async def test_a_restored_scope_decorates_and_serves_tasks() -> None:
    with tenant_scope("acme"):
        acme = capture()

    with tenant_scope("globex"):
        globex = capture()

    async def work() -> Any:
        await asyncio.sleep(0)
        return current()

    found = await asyncio.gather(*(restore(job)(work)() for job in (acme, globex) * 3))
    assert found == ["acme", "globex"] * 3


# For each tenant


def add(session: Session) -> int:
    session.add(Note(text=f"added for {current()}"))
    return count(session)


async def aadd(session: AsyncSession) -> int:
    session.add(Note(text=f"added for {current()}"))
    await asyncio.sleep(0)
    return await session.run_sync(count)


ADDED = {tenant: [*rows, f"added for {tenant}"] for tenant, rows in doors.TEXTS.items()}


@pytest.mark.parametrize("concurrency", [1, 2, 5])
@pytest.mark.parametrize(
    "tenants",
    [
        ["acme", "globex"],
        ("acme", "globex", "acme"),
        {"acme": 1, "globex": 2},
        [bind_tenant("acme", plan="gold"), "globex"],
        select(Tenant.name),
        union(select(Tenant.name), select(Tenant.name)),
    ],
    ids=["list", "twice", "dict", "contexts", "query", "union"],
)
def test_a_function_runs_once_for_every_tenant(
    engine: Engine, sessions: sessionmaker[Session], tenants: Any, concurrency: int
) -> None:
    found = for_each_tenant(tenants, add, sessions=sessions, concurrency=concurrency)
    assert found == {"acme": 4, "globex": 3}
    assert stored(engine) == ADDED


@pytest.mark.parametrize("concurrency", [1, 2, 5])
@pytest.mark.parametrize(
    "tenants",
    [
        ["acme", "globex", "acme"],
        "stream",
        select(Tenant.name),
        union(select(Tenant.name), select(Tenant.name)),
    ],
    ids=range(4),
)
async def test_an_async_function_runs_once_for_every_tenant(
    engine: Engine,
    async_sessions: async_sessionmaker[AsyncSession],
    tenants: Any,
    concurrency: int,
) -> None:
    async def stream() -> AsyncIterator[str]:
        for tenant in doors.TEXTS:
            await asyncio.sleep(0)
            yield tenant

    found = await afor_each_tenant(
        stream() if isinstance(tenants, str) else tenants,
        aadd,
        sessions=async_sessions,
        concurrency=concurrency,
    )
    assert found == {"acme": 4, "globex": 3}
    assert stored(engine) == ADDED


@pytest.mark.parametrize("concurrency", [1, 2])
async def test_a_list_of_tenants_that_breaks_off_is_its_own_error_in_both_flavours(
    engine: Engine,
    sessions: sessionmaker[Session],
    async_sessions: async_sessionmaker[AsyncSession],
    concurrency: int,
) -> None:
    def broken() -> Iterator[str]:
        yield from ["acme", "globex"]
        raise OSError("the registry is away")

    with pytest.raises(OSError, match="the registry is away"):
        for_each_tenant(broken(), add, sessions=sessions, concurrency=concurrency)

    assert stored(engine) == ADDED
    with pytest.raises(OSError, match="the registry is away"):
        await afor_each_tenant(broken(), aadd, sessions=async_sessions, concurrency=concurrency)

    assert {name: len(rows) for name, rows in stored(engine).items()} == {"acme": 5, "globex": 4}


def test_an_outer_tenant_is_not_used_nor_lost(sessions: sessionmaker[Session]) -> None:
    with tenant_scope("initech"):
        for concurrency in (1, 2):
            found = for_each_tenant(
                ["acme", "globex"],
                lambda session: (current(), session.scalars(texts()).all()),
                sessions=sessions,
                concurrency=concurrency,
            )
            assert found == {tenant: (tenant, rows) for tenant, rows in doors.TEXTS.items()}

        assert current() == "initech"


def fail_for(failing: set[str], calls: list[Any] | None = None) -> Any:
    def work(session: Session) -> str:
        session.add(Note(text=f"added for {current()}"))
        session.flush()
        if calls is not None:
            calls.append(current())

        if current() in failing:
            raise LookupError("no such invoice")

        return "done"

    return work


@pytest.mark.parametrize("concurrency", [1, 3])
def test_failures_undo_their_own_tenant_and_are_told_at_the_end(
    engine: Engine, sessions: sessionmaker[Session], concurrency: int
) -> None:
    with pytest.raises(ExceptionGroup, match="1 of 2 tenants failed") as group:
        for_each_tenant(
            ["acme", "globex"], fail_for({"acme"}), sessions=sessions, concurrency=concurrency
        )

    (error,) = group.value.exceptions
    assert isinstance(error, LookupError)
    assert error.__notes__ == ["This is tenant 'acme'."]
    assert stored(engine) == {**ADDED, "acme": doors.TEXTS["acme"]}


async def test_async_failures_undo_their_own_tenant_and_are_told_at_the_end(
    engine: Engine, async_sessions: async_sessionmaker[AsyncSession]
) -> None:
    async def work(session: AsyncSession) -> None:
        await aadd(session)
        if current() == "acme":
            raise LookupError("no such invoice")

        if current() == "initech":
            raise asyncio.CancelledError

    with pytest.raises(ExceptionGroup, match="2 of 3 tenants failed") as group:
        await afor_each_tenant(
            ["acme", "initech", "globex"], work, sessions=async_sessions, concurrency=3
        )

    assert {str(error) for error in group.value.exceptions} == {
        "no such invoice",
        "The function cancelled itself.",
    }
    assert stored(engine) == {**ADDED, "acme": doors.TEXTS["acme"]}


@pytest.mark.parametrize("bad", [None, "", True, object()])
def test_what_is_no_tenant_fails_alone(sessions: sessionmaker[Session], bad: Any) -> None:
    with pytest.raises(ExceptionGroup, match="1 of 3 tenants failed") as group:
        for_each_tenant(["acme", bad, "globex"], count, sessions=sessions)

    assert "A tenant " in str(group.value.exceptions[0])


@pytest.mark.parametrize("concurrency", [1, 2])
def test_a_stopped_run_goes_on_where_it_was(
    engine: Engine, sessions: sessionmaker[Session], tmp_path: Path, concurrency: int
) -> None:
    journal = tmp_path / "nightly.jsonl"
    calls: list[Any] = []
    arguments: dict[str, Any] = {
        "sessions": sessions,
        "concurrency": concurrency,
        "journal": journal,
    }
    with pytest.raises(ExceptionGroup, match="1 of 2 tenants failed"):
        for_each_tenant(["acme", "globex"], fail_for({"globex"}, calls), **arguments)

    assert json.loads(journal.read_text()) == {"kind": "str", "tenant": "acme"}
    found = for_each_tenant(["acme", "globex"], fail_for(set(), calls), **arguments)
    assert found == {"globex": "done"}
    assert sorted(calls) == ["acme", "globex", "globex"]
    assert stored(engine) == ADDED
    assert not journal.exists()


async def test_a_stopped_async_run_goes_on_where_it_was(
    engine: Engine, async_sessions: async_sessionmaker[AsyncSession], tmp_path: Path
) -> None:
    journal = tmp_path / "nightly.jsonl"
    waiting = asyncio.Event()

    async def work(session: AsyncSession) -> None:
        await aadd(session)
        if current() == "globex":
            waiting.set()
            await asyncio.sleep(60)

    run = asyncio.create_task(
        afor_each_tenant(["acme", "globex"], work, sessions=async_sessions, journal=journal)
    )
    await waiting.wait()
    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run

    found = await afor_each_tenant(
        ["acme", "globex"], aadd, sessions=async_sessions, journal=journal
    )
    assert found == {"globex": 3}
    assert stored(engine) == ADDED
    assert not journal.exists()


@pytest.mark.parametrize("line", ["", "no JSON", '{"kind": "str"}', "[]"])
def test_a_journal_that_was_damaged_is_named(
    sessions: sessionmaker[Session], tmp_path: Path, line: str
) -> None:
    journal = tmp_path / "nightly.jsonl"
    journal.write_text(f'{line}\n{{"kind": "str", "tenant": "acme"}}\n')
    with pytest.raises(ConfigurationError, match="Line 1 of the journal .*nightly.jsonl"):
        for_each_tenant(["acme"], lambda session: None, sessions=sessions, journal=journal)


@pytest.mark.parametrize("tenants", ["acme", b"acme"])
def test_the_letters_of_a_name_are_no_tenants(
    sessions: sessionmaker[Session], tenants: Any
) -> None:
    with pytest.raises(TypeError, match="takes a list of tenants, but got"):
        for_each_tenant(tenants, lambda session: None, sessions=sessions)


def test_a_journal_whose_last_line_was_cut_off(
    engine: Engine, sessions: sessionmaker[Session], tmp_path: Path
) -> None:
    journal = tmp_path / "nightly.jsonl"
    journal.write_text('{"kind": "str", "tenant": "acme"}\n{"kind": "str", "ten')
    calls: list[Any] = []
    with pytest.raises(ExceptionGroup, match="1 of 2"):
        for_each_tenant(
            ["acme", "initech", "globex"],
            fail_for({"globex"}, calls),
            sessions=sessions,
            journal=journal,
        )

    assert calls == ["initech", "globex"]
    assert [json.loads(line)["tenant"] for line in journal.read_text().splitlines()] == [
        "acme",
        "initech",
    ]


@pytest.mark.parametrize("concurrency", [1, 2])
def test_an_interrupt_stops_the_run_and_keeps_the_journal(
    engine: Engine, sessions: sessionmaker[Session], tmp_path: Path, concurrency: int
) -> None:
    journal = tmp_path / "nightly.jsonl"

    def work(session: Session) -> None:
        add(session)
        if current() == "globex":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        for_each_tenant(
            ["acme", "globex"], work, sessions=sessions, journal=journal, concurrency=concurrency
        )

    assert [json.loads(line)["tenant"] for line in journal.read_text().splitlines()] == ["acme"]
    assert stored(engine) == {**ADDED, "globex": doors.TEXTS["globex"]}


def test_no_more_run_at_once_than_allowed(sessions: sessionmaker[Session]) -> None:
    running, most = 0, 0
    lock = threading.Lock()

    def work(session: Session) -> Any:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)

        time.sleep(0.005)
        with lock:
            running -= 1

        return current()

    tenants = [f"tenant-{number}" for number in range(20)]
    found = for_each_tenant(tenants, work, sessions=sessions, concurrency=3)
    assert found == {tenant: tenant for tenant in tenants}
    assert 1 < most <= 3


async def test_no_more_tasks_run_at_once_than_allowed(
    async_sessions: async_sessionmaker[AsyncSession],
) -> None:
    running, most = 0, 0

    async def work(session: AsyncSession) -> Any:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.005)
        running -= 1
        return current()

    tenants = [f"tenant-{number}" for number in range(20)]
    found = await afor_each_tenant(tenants, work, sessions=async_sessions, concurrency=3)
    assert found == {tenant: tenant for tenant in tenants}
    assert most == 3


def test_progress_is_shown_on_a_terminal_only(
    sessions: sessionmaker[Session],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for_each_tenant(["acme", "globex"], count, sessions=sessions)
    assert capsys.readouterr().err == ""
    with pytest.raises(ExceptionGroup):
        for_each_tenant(["acme", "globex"], fail_for({"globex"}), sessions=sessions, progress=True)

    shown = capsys.readouterr().err
    assert re.findall(r"\r\[#+\.*\] \d/2[^\r\n]*", shown)[-1].endswith("2/2, 1 failed")
    assert shown.endswith("\n")
    for_each_tenant(iter(["acme", "globex"]), count, sessions=sessions, progress=True)
    assert capsys.readouterr().err == "\r1 tenants\r2 tenants\n"
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    for_each_tenant(["acme", "globex"], count, sessions=sessions)
    assert "2/2" in capsys.readouterr().err


async def test_the_wrong_kind_of_function_or_number_is_refused(
    sessions: sessionmaker[Session], async_sessions: async_sessionmaker[AsyncSession]
) -> None:
    with pytest.raises(TypeError, match="use afor_each_tenant"):
        for_each_tenant(["acme"], aadd, sessions=sessions)  # type: ignore[arg-type]

    for number in (0, -1):
        with pytest.raises(ValueError, match="concurrency is 1 or more"):
            for_each_tenant(["acme"], add, sessions=sessions, concurrency=number)

        with pytest.raises(ValueError, match="concurrency is 1 or more"):
            await afor_each_tenant(["acme"], aadd, sessions=async_sessions, concurrency=number)


def test_a_query_for_owned_rows_is_refused_without_a_tenant(
    sessions: sessionmaker[Session],
) -> None:
    with pytest.raises(MissingTenantContextError, match="No tenant is current"):
        for_each_tenant(select(Note.tenant_id), add, sessions=sessions)
