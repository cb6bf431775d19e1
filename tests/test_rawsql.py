"""What text names is checked against what SQLite itself says it reads."""

from __future__ import annotations

import pickle
import sqlite3
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from sqlalchemy import (
    Column,
    Engine,
    Integer,
    MetaData,
    String,
    Table,
    Uuid,
    bindparam,
    create_engine,
    event,
    select,
    text,
    union_all,
)
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session
from sqlalchemy.pool import StaticPool
from sqlalchemy.sql.visitors import cloned_traverse

from partywall.context import TenantId, tenant_scope, unscoped
from partywall.errors import (
    ConfigurationError,
    CrossTenantAccessError,
    MissingTenantContextError,
)
from partywall.ownership import tenant_table
from partywall.positions import tables_in
from partywall.rawsql import TenantParameter, TenantText, scan, tenant_text

NAMES_ORDERS = [
    "SELECT * FROM orders",
    "select*from orDers",
    "SELECT * FROM ORDERS",
    "SELECT(1)FROM(orders)",
    "SELECT 1FROM orders",
    "SELECT 1 FROM/**/orders",
    "SELECT 1 FROM -- the\norders",
    "SELECT 1 FROM main.orders",
    'SELECT 1 FROM "public"."orders"',
    "SELECT 1 FROM `test`.`orders`",
    "SELECT 1 FROM [orders]",
    "SELECT 1 FROM stats, orders",
    "SELECT orders FROM stats",
    "TABLE orders",
    "COPY orders TO STDOUT",
    "HANDLER orders OPEN",
    "SELECT 1 WHERE 1 IN orders",
    # SQLite takes a string for a name
    "SELECT * FROM 'orders'",
    "SELECT * FROM main.'orders'",
    "SELECT * FROM stats JOIN 'orders' ON 1=1",
    "SELECT * FROM stats s JOIN stats t ON s.id = t.id, 'orders'",
    "SELECT * FROM (stats, ('orders'))",
    "SELECT 1 WHERE 1 IN 'orders'",
    "'orders'",
    "('orders')",
    "stats, 'orders' AS o",
    "DELETE FROM 'orders'",
    "INSERT OR IGNORE INTO 'orders' VALUES (1)",
    "UPDATE OR FAIL 'orders' SET id = 1",
    "SELECT * FROM \ufeff'orders'",
    "SELECT * FROM \ufefforders",
    "CREATE VIRTUAL TABLE f USING fts5(body, content='orders')",
    # a backslash: where the string ends depends on the database
    r"SELECT 'a\' FROM orders --'",
    r"SELECT 'a\' OR '1', x FROM orders WHERE x = ''",
    # comments that are code to some
    "SELECT 1 /*! FROM orders */",
    "SELECT 1 /*!50000FROM orders*/",
    "SELECT 1 /*M!100000 FROM orders */",
    "SELECT 1 --FROM orders",
    "SELECT 1 # FROM orders",
    "SELECT 1 -- a\rFROM orders",
    "SELECT /* /* */ id FROM orders -- */",
    "SELECT 1 --' \n FROM orders --'",
    "SELECT 1 #' \n FROM orders #'",
    # quotes that are code to some
    "DO $$ BEGIN DELETE FROM orders; END $$",
    "DO $$TABLE orders$$",
    "DO $body$DELETE FROM orders$body$",
    "SELECT $A$ x $a$ ' $A$, id FROM orders WHERE x = ''",
    "SELECT $$ ' $$ FROM orders --'",
    "SELECT 1 AS ['], x FROM orders --']",
    "SELECT ARRAY[(SELECT max(id) FROM orders)]",
    "SELECT ARRAY[']', (SELECT 'x' FROM orders)]",
    # not ASCII
    "SELECT 1 FROM orders\xa0",
    "SELECT 1 FROM order\u017f",
]

NAMES_NO_ORDERS = [
    "SELECT * FROM orders_archive",
    "SELECT * FROM my_orders",
    'SELECT * FROM "my orders"',
    'SELECT * FROM "orders.old"',
    "SELECT * FROM orders$1",
    "SELECT * FROM éorders",
    "INSERT INTO log VALUES ('orders updated')",
    "INSERT INTO log VALUES ('orders')",
    "INSERT INTO log VALUES (1, 'orders'), (2, 'orders')",
    "INSERT INTO log (a) SELECT 'orders' FROM stats",
    "SELECT * FROM stats WHERE kind IN ('orders', 'it''s')",
    "SELECT * FROM stats WHERE kind = 'orders' OR 'orders' = kind",
    "SELECT * FROM stats JOIN log ON log.kind IN ('x', 'orders')",
    "SELECT * FROM json_each('orders')",
    "SELECT * FROM stats WHERE kind = :orders",
    "UPDATE stats SET kind = 'orders', other = 'orders'",
    r"SELECT * FROM stats WHERE kind LIKE 'a\_%' AND b = 'orders'",
    r"SELECT 'C:\\', 'orders' FROM stats",
    "SELECT 1 -- from orders\n FROM stats",
    "SELECT 1 /* from orders */ FROM stats",
    "SELECT 1 /*+ INDEX(orders i) */ FROM stats",
    "SELECT TRIM('x' FROM 'orders') FROM stats",
    "SELECT 1 WHERE kind IS NOT DISTINCT FROM 'orders'",
    "SELECT ARRAY['orders', 'b'] FROM stats",
]


@pytest.mark.parametrize("sql", NAMES_ORDERS)
def test_a_table_is_found_in_every_spelling(sql: str) -> None:
    assert "orders" in scan(sql).names


@pytest.mark.parametrize("sql", NAMES_NO_ORDERS)
def test_a_table_that_is_not_named_is_not_found(sql: str) -> None:
    facts = scan(sql)
    assert "orders" not in facts.names
    assert not facts.opaque


def test_names_with_spaces_dots_and_doubled_quotes() -> None:
    names = scan('SELECT * FROM "My Orders", `a.b`, "x""y", [big table], 2024_orders').names
    assert {"my orders", "a.b", 'x"y', "big table", "2024_orders"} <= names


def test_a_name_that_postgresql_would_cut_is_found() -> None:
    assert "o" * 63 in scan(f"SELECT * FROM {'o' * 70}").names


def test_a_name_that_mysql_would_lower_is_found() -> None:
    assert "items" in scan("SELECT * FROM \u0130tems").names


@pytest.mark.parametrize(
    "sql",
    [
        'SELECT * FROM U&"\\006frders"',
        "SELECT * FROM u&\"!006frders\" UESCAPE '!'",
        "SELECT 'a\\' , U&\"x\" '",
        "SELECT query_to_xml('SELECT * FROM ord' || 'ers', true, false, '')",
        "SELECT \"query_to_xml\"(:sql, true, false, '')",
        "SELECT * FROM dblink('dbname=x', :sql) AS t(id int)",
        "PREPARE p FROM @sql",
        "EXECUTE p",
        "EXECUTE IMMEDIATE 'x'",
        "DO $$ BEGIN EXECUTE 'SELECT * FROM ord' || 'ers'; END $$",
        "DO 'BEGIN EXECUTE ''SELECT * FROM ord'' || ''ers''; END'",
        "SELECT 1; DO LANGUAGE plpgsql 'BEGIN PERFORM query_to_xml(a, b, c, d); END'",
        "DO 'BEGIN EXE'\n'CUTE a; END'",
        "DO LANGUAGE plpgsql E'BEGIN \\x45XECUTE a; END'",
        "DO U&'BEGIN !0045XECUTE a; END' UESCAPE '!'",
        "PRAGMA writable_schema = ON",
    ],
)
def test_what_could_name_anything_is_opaque(sql: str) -> None:
    assert scan(sql).opaque


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT 'U&\"x\"'",
        "CREATE TRIGGER t BEFORE INSERT ON stats FOR EACH ROW EXECUTE FUNCTION f()",
        "GRANT EXECUTE ON FUNCTION f TO bob",
        "SELECT prepare, exec FROM stats",
        "INSERT INTO stats VALUES (1) ON CONFLICT DO NOTHING RETURNING 'execute'",
        "DO 'BEGIN PERFORM refresh(); END'",
    ],
)
def test_what_names_all_it_uses_is_not_opaque(sql: str) -> None:
    assert not scan(sql).opaque


@pytest.mark.parametrize(
    "fragment",
    [
        "id IN (SELECT id FROM orders)",
        "EXISTS (SELECT 1)",
        "id IN (TABLE orders)",
        "id IN orders",
        'id IN "orders"',
        "id NOT IN 'orders'",
        "1=1 UNION SELECT 1",
        "JOIN orders ON 1=1",
        "1=1JOIN orders",
        "x FROM orders",
        "SUBSTRING((SELECT x FROM orders) FROM 1)",
        "INTO OUTFILE '/tmp/x'",
        "USING orders",
        ", LATERAL f()",
        "1.e5FROM orders",
        "$1FROM orders",
        "/*! UNION SELECT 1 */",
        "ARRAY[(SELECT 1)] = x",
        "TRIM(id IN orders)",
        r"x = 'a\' OR id IN (SELECT 1) --'",
        "x IN (\ufeffSELECT 1)",
    ],
)
def test_a_fragment_that_could_bring_rows(fragment: str) -> None:
    assert scan(fragment).brings_rows


@pytest.mark.parametrize(
    "fragment",
    [
        "orders.amount > 60",
        "EXTRACT(YEAR FROM orders.created) = 2024",
        "EXTRACT(EPOCH FROM (a - b)) > 1",
        "SUBSTRING(f(name) FROM 1 FOR 2) = 'ab'",
        "TRIM(BOTH 'x' FROM name) = 'a'",
        "POSITION('a' IN name) > 0",
        "CONVERT(name USING utf8mb4) = 'a'",
        "a IS DISTINCT FROM b AND a IS NOT DISTINCT FROM c",
        "FOR UPDATE",
        "FOR NO KEY UPDATE",
        "REPLACE(name, 'a', 'b') = 'x' AND INSERT(name, 1, 1, 'x') = 'y'",
        "VALUES(amount)",
        "id IN (1, 2)",
        "id IN :ids",
        "id IN %s",
        "name = 'select from orders'",
        "created > timestamp with time zone '2024-01-01'",
        "amount DESC NULLS LAST",
        "MATCH (name) AGAINST ('x' IN BOOLEAN MODE)",
        "MATCH (name) AGAINST ('x' WITH QUERY EXPANSION)",
        "tags && ARRAY['a', 'b'] AND tags[1] = 'x' AND tags[other[1]] = 'y'",
        'fromage = 1 AND selected AND "select" = 2',
        "name = $$it is$$",
        r"name LIKE 'a\_%' ESCAPE '\\'",
        "a -- why\n = 1",
        "x::int > :low",
        "count(*) FILTER (WHERE a > 1) OVER (PARTITION BY b ORDER BY c)",
    ],
)
def test_a_legitimate_fragment(fragment: str) -> None:
    facts = scan(fragment)
    assert not facts.brings_rows
    assert not facts.breaks_out
    assert not facts.opaque


@pytest.mark.parametrize(
    "fragment",
    [
        "1=1) OR (1=1",
        "(1=1",
        "1=1)",
        "1=1; DELETE FROM orders",
        "name = 'a",
        'name = "a',
        "name = `a",
        "1=1 -- ",
        "1=1 --",
        "1=1 --x",
        "1=1 # x",
        "1=1 #>> (\n) OR (1=1 #)\n",
        "1=1 /* x",
        "1=1 /* /* */",
        r"name = 'a\' OR 1=1 --'",
        "name = $$ ' $$",
        "name = [']",
        "a = 1 --(\n",
        "/*! ) */",
    ],
)
def test_a_fragment_that_breaks_out(fragment: str) -> None:
    assert scan(fragment).breaks_out


def test_a_hash_is_an_operator_where_it_begins_no_comment() -> None:
    sql = "data #>> '{orders}' = 'x' AND (data #- '{a}') = 'y'"
    assert scan(sql).breaks_out
    facts = scan(sql, hash_comments=False)
    assert not facts.breaks_out
    assert "orders" not in facts.names


@pytest.mark.parametrize(
    "sql",
    [
        'PRAGMA main.table_info("orders")',
        "PRAGMA foreign_keys=ON",
        "SHOW CREATE TABLE `orders`",
        "SHOW FULL COLUMNS FROM `orders`",
        "DESCRIBE `orders`",
        "\nCREATE TABLE orders (\n\tid INTEGER NOT NULL, \n\tPRIMARY KEY (id)\n)\n\n",
        "CREATE TABLE orders (c INT REFERENCES x (id) ON DELETE CASCADE ON UPDATE SET NULL)",
        "CREATE TABLE x (LIKE orders INCLUDING ALL)",
        "CREATE TABLE x PARTITION OF orders FOR VALUES IN ('a')",
        "CREATE TABLE orders (a INT COMMENT 'select from')",
        "CREATE INDEX i ON orders (a) WHERE a IS NOT NULL",
        "CREATE POLICY p ON orders FOR SELECT USING (t IN (SELECT t FROM allowed))",
        "CREATE TRIGGER t BEFORE INSERT OR UPDATE OF a OR DELETE ON orders EXECUTE FUNCTION f()",
        "CREATE TRIGGER t AFTER INSERT ON orders BEGIN DELETE FROM x; SELECT CASE 1 END; END;",
        "ALTER TABLE orders ADD COLUMN a INT",
        "ALTER TABLE orders ADD COLUMN a INT GENERATED ALWAYS AS (b) STORED",
        "ALTER TABLE orders ALTER COLUMN a TYPE int, ADD PRIMARY KEY USING INDEX i",
        "ALTER TABLE orders RENAME COLUMN a TO b",
        "ALTER TABLE orders RENAME a TO b",
        'ALTER TABLE orders RENAME "a" TO b',
        "ALTER TABLE orders ENABLE ROW LEVEL SECURITY",
        "ALTER TABLE orders ADD CONSTRAINT c CHECK (a > 1) NO INHERIT",
        "DROP TABLE IF EXISTS orders",
        "DROP VIEW orders; DROP TABLE orders;",
        "GRANT SELECT, INSERT, UPDATE (a), DELETE ON orders TO bob",
        "REVOKE ALL ON TABLE orders FROM bob",
        "COMMENT ON TABLE orders IS 'it''s'",
        "ANALYZE orders",
        "LOCK TABLE orders IN EXCLUSIVE MODE",
        "BEGIN",
        "BEGIN IMMEDIATE",
        "SAVEPOINT sa_savepoint_1",
        "PREPARE TRANSACTION 'one'",
        "RELEASE SAVEPOINT sa_savepoint_1",
        "SET LOCAL app.tenant = 'x'",
        "-- first\nDROP TABLE orders",
    ],
)
def test_a_definition(sql: str) -> None:
    assert scan(sql).is_definition


@pytest.mark.parametrize(
    "sql",
    [
        "",
        "SELECT 1",
        "TRUNCATE orders",
        "ALTER TABLE orders ALTER COLUMN a TYPE int USING a::int",
        "ALTER TABLE orders ALTER a SET EXPRESSION AS (b)",
        "ALTER TABLE orders MODIFY a INT GENERATED ALWAYS AS (b) STORED",
        "CREATE TABLE x AS SELECT * FROM orders",
        "CREATE TABLE x AS TABLE orders",
        "CREATE TABLE x TABLE orders",
        "CREATE TABLE x AS EXECUTE p",
        "CREATE TABLE x (a INT) ENGINE=MERGE UNION=(orders)",
        "CREATE VIEW v AS TABLE orders",
        "CREATE OR REPLACE VIEW v AS SELECT * FROM orders",
        "CREATE MATERIALIZED VIEW v AS TABLE orders",
        "CREATE VIRTUAL TABLE f USING fts5(body, content=orders)",
        "CREATE FUNCTION f() RETURNS SETOF orders AS $$ SELECT * FROM orders $$ LANGUAGE sql",
        "CREATE RULE r AS ON INSERT TO x DO INSTEAD DELETE FROM orders",
        "CREATE TRIGGER t AFTER INSERT ON x BEGIN SELECT 1; END; DELETE FROM orders; END",
        "ALTER TABLE orders RENAME TO x",
        "ALTER TABLE orders RENAME AS x",
        "ALTER TABLE orders RENAME x",
        "ALTER TABLE orders RENAME = x, ADD a INT",
        "ALTER TABLE orders RENAME a TO b, RENAME TO x",
        "ALTER TABLE orders RENAME TO x, RENAME a TO b",
        "RENAME TABLE a TO b, orders TO x",
        "RENAME TABLE orders TO x",
        "ALTER TABLE x EXCHANGE PARTITION p WITH TABLE orders",
        "ALTER TABLE x ATTACH PARTITION orders FOR VALUES IN (1)",
        "ALTER TABLE orders INHERIT x",
        "ALTER TABLE orders SET SCHEMA other",
        "ALTER TABLE orders TRUNCATE PARTITION p",
        "DROP TABLE x; DELETE FROM orders",
        "BEGIN; DELETE FROM orders; COMMIT",
        "BEGIN NOT ATOMIC HANDLER orders OPEN",
        "SET @x = (SELECT max(id) FROM orders)",
        "SET STATEMENT max_statement_time=1 FOR SELECT * FROM orders",
        "DESCRIBE SELECT * FROM orders",
        "ANALYZE DELETE FROM orders",
        "ANALYZE FORMAT=JSON UPDATE orders SET a = 1",
        "EXPLAIN SELECT * FROM orders",
        "DROP TABLE x /*! ; DELETE FROM orders */",
        r"COMMENT ON TABLE x IS 'a\'; DELETE FROM orders --'",
        "SET x = 1 --\rDELETE FROM orders",
        "PRAGMA main.writable_schema(1)",
        'PRAGMA "writable_schema" = 1',
    ],
)
def test_what_is_no_mere_definition(sql: str) -> None:
    assert not scan(sql).is_definition


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT * FROM orders",
        "(SELECT 1 FROM orders) UNION (SELECT 2)",
        "WITH x AS (SELECT 1) SELECT * FROM x FOR UPDATE",
        "TABLE orders",
        "VALUES (1)",
        "EXPLAIN ANALYZE SELECT * FROM orders",
        "SELECT REPLACE(a, 'delete', 'x'), load FROM orders;",
        "SELECT 'DELETE FROM orders' -- delete\n",
        "SELECT 1; SELECT 2",
    ],
)
def test_a_statement_that_only_reads(sql: str) -> None:
    assert scan(sql).reads_only


@pytest.mark.parametrize(
    "sql",
    [
        "",
        "DELETE FROM orders",
        "WITH x AS (DELETE FROM orders RETURNING *) SELECT * FROM x",
        "WITH x AS (UPDATE orders SET a = 1 RETURNING *) SELECT * FROM x",
        "SELECT * INTO x FROM orders",
        "EXPLAIN ANALYZE DELETE FROM orders",
        "EXPLAIN ANALYZE EXECUTE p",
        "SELECT 1; DROP TABLE orders",
        "SELECT 1 /*! ; DELETE FROM orders */",
        r"SELECT 'a\'; DELETE FROM orders --'",
        "SELECT 1 --\r; DELETE FROM orders",
        "CALL purge()",
        "MERGE INTO orders USING x ON 1=1",
        "REPLACE INTO orders VALUES (1)",
    ],
)
def test_a_statement_that_may_change_something(sql: str) -> None:
    assert not scan(sql).reads_only


def test_a_long_text_is_read_and_not_kept() -> None:
    assert "orders" in scan("SELECT 1" + " " * 30_000 + "FROM orders").names


WORDS = r"""
    SELECT * 1 FROM orders 'orders' "orders" [orders] `orders` ORDERS main . , ( ) JOIN stats id
    WHERE = IN AND OR -- /* */ /**/ /*! ' '' " ` [ ] \ \' # $$ $a$ $ @ x AS UNION ALL 0 1e5 E u&
    :orders ; 'a' ['] VALUES SET INTO UPDATE
"""
BREAKS = ["-- ", "\n", "\r", "\ufeff", "\xa0", "DELETE FROM", "INSERT INTO", "1=1) OR (1=1"]
PIECES = st.sampled_from([*WORDS.split(), *BREAKS])
STARTS = st.sampled_from(["SELECT * FROM ", "SELECT 1 ", "DELETE FROM ", "SELECT 1 WHERE 1 IN "])


@settings(deadline=None)
@given(st.text(max_size=200))
@example("$a$ $a$ [' ']] /*!*/ --\r")
def test_any_text_can_be_read(sql: str) -> None:
    assert scan(sql) == scan(sql)


@given(STARTS, st.lists(st.tuples(PIECES, st.sampled_from(["", " "])), max_size=8))
@settings(max_examples=1000, deadline=None)
def test_every_table_that_sqlite_reads_is_found(start: str, pieces: list[tuple[str, str]]) -> None:
    sql = start + "".join(piece + space for piece, space in pieces)
    facts = scan(sql)
    read = _read_by_sqlite(sql)
    assert read <= facts.names
    assert read <= set(tables_in(sql))


@given(st.lists(st.tuples(PIECES, st.sampled_from(["", " "])), max_size=8))
@settings(max_examples=1000, deadline=None)
def test_a_fragment_that_undoes_a_condition_in_sqlite_is_seen(
    pieces: list[tuple[str, str]],
) -> None:
    fragment = "1=1" + "".join(piece + space for piece, space in pieces)
    with sqlite3.connect(":memory:") as connection:
        connection.execute("CREATE TABLE orders (id, tenant)")
        connection.execute("INSERT INTO orders VALUES (1, 'acme'), (2, 'globex')")
        try:
            rows = connection.execute(
                f"SELECT id, tenant FROM orders WHERE ({fragment}) AND tenant = 'acme'"
            ).fetchall()
        except sqlite3.Error:
            rows = []

    if (2, "globex") in rows:
        assert scan(fragment).breaks_out


def _read_by_sqlite(sql: str) -> set[str]:
    read = set()

    def note(action: int, table: str | None, *_: object) -> int:
        if action in (sqlite3.SQLITE_READ, sqlite3.SQLITE_INSERT, sqlite3.SQLITE_DELETE):
            read.add(table or "")

        return sqlite3.SQLITE_OK

    connection = sqlite3.connect(":memory:")
    connection.execute("CREATE TABLE orders (id, tenant)")
    connection.execute("CREATE TABLE stats (id, kind)")
    connection.set_authorizer(note)
    try:
        connection.execute(f"EXPLAIN {sql}")
    except sqlite3.Error:
        return set()
    finally:
        connection.close()

    return read & {"orders", "stats"}


# The wall stands from the first mark on.
tenant_table(
    Table("rawsql_marked", MetaData(), Column("id", Integer), Column("tenant_id", String(20)))
)
notes = Table(
    "rawsql_notes",
    MetaData(),
    Column("id", Integer, primary_key=True),
    Column("tenant_id", String(20)),
    Column("body", String(20)),
)
READ = "SELECT id, body FROM rawsql_notes WHERE tenant_id = :tenant AND id >= :low ORDER BY id"


@pytest.fixture
def engine() -> Iterator[Engine]:
    engine = create_engine("sqlite://", poolclass=StaticPool)
    notes.metadata.create_all(engine)
    with engine.begin() as connection:
        connection.execute(
            notes.insert(),
            [
                {"id": 1, "tenant_id": "acme", "body": "a"},
                {"id": 2, "tenant_id": "globex", "body": "g"},
            ],
        )

    yield engine
    engine.dispose()


@pytest.mark.parametrize(("tenant", "body"), [("acme", "a"), ("globex", "g")])
def test_tenant_text_reads_the_current_tenants_rows(engine: Engine, tenant: str, body: str) -> None:
    with tenant_scope(tenant), Session(engine) as session:
        rows = session.execute(tenant_text(READ), {"low": 0}).all()

    assert [row.body for row in rows] == [body]


def test_one_statement_and_one_compiled_form_serve_all_tenants(engine: Engine) -> None:
    statement = tenant_text(READ)
    cached = []
    event.listen(
        engine,
        "before_cursor_execute",
        lambda *args: cached.append(args[4].cache_hit.name),
    )
    seen = []
    for tenant in ("acme", "globex", "acme"):
        with tenant_scope(tenant), engine.connect() as connection:
            seen += connection.execute(statement, {"low": 0}).scalars()
            seen += connection.execute(tenant_text(READ), {"low": 0}).scalars()

    assert seen == [1, 1, 2, 2, 1, 1]
    assert cached == ["CACHE_MISS"] + ["CACHE_HIT"] * 5


def test_tenant_text_writes_for_the_current_tenant(engine: Engine) -> None:
    insert = tenant_text("INSERT INTO rawsql_notes (id, tenant_id, body) VALUES (:id, :tenant, :b)")
    with tenant_scope("globex"), engine.begin() as connection:
        connection.execute(insert, [{"id": 3, "b": "x"}, {"id": 4, "b": "y"}])
        gone = connection.execute(tenant_text("DELETE FROM rawsql_notes WHERE :tenant = tenant_id"))
        assert gone.rowcount == 3

    with unscoped("look"), engine.connect() as connection:
        assert connection.execute(select(notes.c.tenant_id)).scalars().all() == ["acme"]


async def test_tenant_text_in_an_async_session() -> None:
    engine = create_async_engine("sqlite+aiosqlite://", poolclass=StaticPool)
    async with engine.begin() as connection:
        await connection.run_sync(notes.metadata.create_all)
        await connection.execute(notes.insert(), {"id": 1, "tenant_id": "acme"})
        await connection.execute(notes.insert(), {"id": 2, "tenant_id": "globex"})

    for tenant, found in [("acme", [1]), ("globex", [2])]:
        with tenant_scope(tenant):
            async with AsyncSession(engine) as session:
                rows = await session.scalars(tenant_text(READ), {"low": 0})
                assert rows.all() == found

    await engine.dispose()


def test_without_a_tenant_there_is_no_value(engine: Engine) -> None:
    with engine.connect() as connection, pytest.raises(Exception, match="No tenant is current"):
        connection.execute(tenant_text(READ), {"low": 0})

    with (
        unscoped("look"),
        engine.connect() as connection,
        pytest.raises(Exception, match=r"Use text\(\) there"),
    ):
        connection.execute(tenant_text(READ), {"low": 0})


def test_the_value_is_read_at_each_execution_and_missing_is_an_error() -> None:
    parameter = TenantParameter()
    with tenant_scope("acme"):
        assert parameter.effective_value == "acme"
    with tenant_scope("globex"):
        assert parameter.effective_value == "globex"
    with pytest.raises(MissingTenantContextError, match="No tenant is current"):
        parameter.effective_value  # noqa: B018
    with (
        unscoped("look"),
        pytest.raises(MissingTenantContextError, match=r"unscoped\(\) has none"),
    ):
        parameter.effective_value  # noqa: B018


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT 1",
        "SELECT 1 WHERE tenant_id = tenant",
        "SELECT x::tenant FROM notes",
        r"SELECT '\:tenant' FROM notes",
        r"SELECT x\:tenant FROM notes",
        "SELECT * FROM notes -- WHERE tenant_id = :tenant",
        "SELECT * FROM notes --WHERE tenant_id = :tenant",
        "SELECT * FROM notes # WHERE tenant_id = :tenant",
        "SELECT * FROM notes /* WHERE tenant_id = :tenant */",
        "SELECT * FROM notes /*! WHERE tenant_id = :tenant */",
        "SELECT * FROM notes WHERE body = ' :tenant '",
        'SELECT * FROM notes WHERE body = " :tenant "',
        r"SELECT * FROM notes WHERE body = 'a\' OR body = :tenant --'",
        "SELECT $$ :tenant $$ FROM notes",
        "SELECT * FROM notes WHERE tenant_id = :tenants",
        "SELECT * FROM notes WHERE tenant_id = :Tenant",
        None,
        b"SELECT :tenant",
        text("SELECT :tenant"),
    ],
)
def test_tenant_text_needs_its_parameter(sql: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"tenant_text\(\) needs :tenant outside quotes"):
        tenant_text(sql)


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT * FROM notes WHERE tenant_id=:tenant",
        "SELECT * FROM notes WHERE tenant_id=(:tenant)",
        "SELECT * FROM notes WHERE tenant_id = CAST(:tenant AS uuid) -- it's :tenant\n",
        "SELECT data #>> '{a}' FROM notes WHERE tenant_id = :tenant",
        r"SELECT * FROM notes WHERE body LIKE 'a\_%' AND tenant_id = :tenant",
        "SELECT ARRAY['a'] FROM notes WHERE tenant_id = :tenant",
    ],
)
def test_tenant_text_with_its_parameter(sql: str) -> None:
    clause = tenant_text(sql)
    with tenant_scope("acme"):
        assert set(clause.compile().params.values()) == {"acme"}
    with tenant_scope("globex"):
        assert set(clause.compile().params.values()) == {"globex"}


@pytest.mark.parametrize("value", ["globex", "acme", None])
def test_nobody_gives_the_tenant_a_value(value: Any) -> None:
    clause = tenant_text(READ)
    with tenant_scope("acme"):
        with pytest.raises(ConfigurationError, match="binds :tenant to the current tenant itself"):
            clause.bindparams(tenant=value)
        for bind in (
            bindparam("tenant", value),
            bindparam("tenant", value, unique=True),
            bindparam("tenant", callable_=lambda: value),
            bindparam("tenant", expanding=True),
        ):
            with pytest.raises(ConfigurationError, match="leave 'tenant' out of bindparams"):
                clause.bindparams(bind)

        given = clause.bindparams(low=1).params(tenant=value, low=2)
        assert sorted(given.compile().params.values(), key=str) == [2, "acme"]


def test_a_parameter_of_the_same_name_elsewhere_names_the_tenant_too(engine: Engine) -> None:
    mine = tenant_text("SELECT id FROM rawsql_notes WHERE tenant_id = :tenant").columns(notes.c.id)
    other = select(notes.c.id).where(bindparam("tenant", "globex") == "nobody")
    with tenant_scope("acme"), engine.connect() as connection:
        assert set(connection.execute(union_all(mine, mine)).scalars()) == {1}
        with pytest.raises(CrossTenantAccessError, match="names tenant 'globex'"):
            connection.execute(union_all(other, mine))


@pytest.mark.parametrize("tenant", [uuid.UUID(int=1), uuid.UUID(int=2)])
def test_the_type_of_the_tenant_can_be_given(tenant: TenantId) -> None:
    sql = "SELECT id FROM things WHERE tenant_id = :tenant"
    clause = tenant_text(sql).bindparams(bindparam("tenant", type_=Uuid()))
    things = Table(
        "things", MetaData(), Column("id", Integer, primary_key=True), Column("tenant_id", Uuid)
    )
    engine = create_engine("sqlite://", poolclass=StaticPool)
    things.metadata.create_all(engine)
    with engine.begin() as connection:
        for number in (1, 2):
            connection.execute(things.insert(), {"id": number, "tenant_id": uuid.UUID(int=number)})

    with tenant_scope(tenant), engine.connect() as connection:
        rows = connection.execute(clause).scalars().all()

    engine.dispose()
    assert [uuid.UUID(int=row) for row in rows] == [tenant]


def _same(clause: TenantText) -> TenantText:
    return clause


@pytest.mark.parametrize(
    "copied",
    [
        _same,
        lambda clause: clause._clone(),
        lambda clause: clause.self_group(),
        lambda clause: clause.bindparams(low=1),
        lambda clause: clause.execution_options(x=1),
        lambda clause: cloned_traverse(clause, {}, {}),
        lambda clause: pickle.loads(pickle.dumps(clause)),
        lambda clause: clause.columns(notes.c.id).element,
        lambda clause: clause.columns(notes.c.id)._clone().element,
        lambda clause: cloned_traverse(clause.columns(notes.c.id), {}, {}).element,
        lambda clause: pickle.loads(pickle.dumps(clause.columns(id=Integer))).element,
        lambda clause: clause.columns(notes.c.id).self_group().element,
        lambda clause: clause.columns(notes.c.id).subquery().element.element,
        lambda clause: clause.columns(notes.c.id).cte().element.element,
    ],
)
def test_a_copy_is_still_tenant_text_and_keeps_no_tenant(copied: Any) -> None:
    with tenant_scope("acme"):
        clause = copied(tenant_text(READ))

    assert isinstance(clause, TenantText)
    with tenant_scope("globex"):
        assert "globex" in clause.compile().params.values()


def test_another_parameter_in_the_place_of_tenant() -> None:
    clause = tenant_text("SELECT :tenant")
    bound = clause.bound_to(bindparam("other", "acme"))
    assert isinstance(bound, TenantText)
    assert bound.compile().params == {"other": "acme"}
    with tenant_scope("globex"):
        assert set(clause.compile().params.values()) == {"globex"}
