"""Table positions are checked with attacks, with SQLite's own reading and with what compiles."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import (
    Column,
    Integer,
    MetaData,
    Table,
    column,
    delete,
    exists,
    extract,
    func,
    insert,
    select,
    true,
    tuple_,
    union,
    update,
    values,
)
from sqlalchemy.dialects import mysql, postgresql, sqlite

from partywall.positions import tables_in
from partywall.rawsql import runs_sql, scan

ONCE = [
    "SELECT * FROM orders",
    "SELECT * FROM public.orders",
    "SELECT * FROM `test`.`orders`",
    "SELECT * FROM main.'orders'",
    "SELECT * FROM 'orders'",
    "SELECT * FROM [orders]",
    "SELECT 1 FROM/**/orders",
    "SELECT(1)FROM(orders)",
    "SELECT 1FROM orders",
    "SELECT 1.FROM orders",
    "SELECT 1.e5FROM orders",
    "SELECT 1.5FROM orders",
    "SELECT 1e5FROM orders",
    "SELECT * FROM a x, orders",
    "SELECT * FROM a AS x, orders",
    "SELECT * FROM a JOIN b ON a.x = b.y, orders",
    "SELECT * FROM a JOIN (b, orders) ON 1",
    "SELECT * FROM a JOIN (b JOIN orders ON 1) ON 1",
    "SELECT * FROM a LEFT JOIN LATERAL orders ON true",
    "SELECT * FROM a, LATERAL orders",
    "SELECT * FROM ONLY orders",
    "SELECT * FROM ONLY (orders)",
    "SELECT * FROM a STRAIGHT_JOIN orders",
    "SELECT * FROM a NATURAL JOIN orders",
    "SELECT * FROM a CROSS APPLY orders",
    "SELECT * FROM a CROSS JOIN orders",
    "UPDATE a, orders SET a.x = 1",
    "UPDATE a JOIN orders ON 1 SET a.x = 1",
    "UPDATE a JOIN b ON 1, orders SET a.x = 1, orders = 2",
    "UPDATE (a, orders) SET a.x = 1, orders = 2",
    "UPDATE orders SET orders = 1, x = 2",
    "UPDATE a SET x = 1, orders = 2 FROM b, orders",
    "UPDATE OR IGNORE orders SET x = 1",
    "UPDATE LOW_PRIORITY IGNORE orders SET x = 1",
    "UPDATE ONLY orders SET x = 1",
    "DELETE orders FROM a",
    "DELETE a, orders FROM a",
    "DELETE a.*, orders.* FROM a",
    "DELETE QUICK orders FROM a",
    "DELETE FROM a USING orders",
    "DELETE FROM a USING a, orders",
    "DELETE FROM a USING (a, orders)",
    "DELETE FROM a USING a JOIN b USING (orders), orders",
    "DELETE FROM ONLY orders",
    "DELETE QUICK FROM orders",
    "SELECT * FROM a JOIN b USING (orders, x), orders",
    "SELECT * FROM a returning, orders",
    "SELECT * FROM a JOIN b returning ON 1, orders",
    "SELECT * FROM a returning USE INDEX (x), orders",
    "SELECT * FROM orders USE INDEX (ix) , other",
    "SELECT * FROM a USE INDEX (ix) , orders",
    "SELECT * FROM a USE INDEX FOR ORDER BY (ix) , orders",
    "SELECT * FROM a USE INDEX FOR GROUP BY (ix) , orders",
    "SELECT * FROM a USE INDEX FOR JOIN (ix) , orders",
    "SELECT * FROM a INDEXED BY ix, orders",
    "SELECT * FROM a NOT INDEXED, orders",
    "SELECT * FROM a PARTITION (p0), orders",
    "SELECT * FROM a TABLESAMPLE bernoulli (10) REPEATABLE (1), orders",
    "SELECT * FROM (orders)",
    "SELECT * FROM ((a, orders))",
    "SELECT * FROM ((a), (orders))",
    "SELECT 1 UNION SELECT 1 FROM orders",
    "SELECT 1 FROM a UNION TABLE orders",
    "SELECT 1 FROM a EXCEPT (SELECT 1 FROM orders)",
    "TABLE orders",
    "(TABLE orders)",
    "WITH x AS (DELETE FROM orders RETURNING *) SELECT * FROM x",
    "WITH x AS (SELECT 1), y AS (UPDATE orders SET x = 1 RETURNING orders) SELECT * FROM x, y",
    "WITH orders AS (SELECT 1) SELECT 1 FROM orders",
    "WITH delete AS (SELECT 1) UPDATE orders SET x = 1",
    "WITH update(x) AS (SELECT 1) UPDATE orders SET x = 1",
    "WITH x AS (SELECT 1) INSERT INTO orders SELECT 1",
    "SELECT * FROM (WITH orders AS (SELECT 1) SELECT * FROM orders)",
    "SELECT * FROM (with, orders)",
    "SELECT * FROM (with x, orders)",
    "SELECT * FROM with, orders",
    "SELECT * FROM with x, orders",
    "SELECT * FROM only, orders",
    "SELECT * FROM a set, orders",
    "SELECT * FROM a values, orders",
    "SELECT * FROM a values(x), orders",
    "SELECT * FROM a update, orders",
    "SELECT * FROM a delete, orders",
    "SELECT * FROM a window, orders",
    "SELECT * FROM a offset, orders",
    "SELECT * FROM a except, orders",
    "SELECT * FROM a AS where, orders",
    "SELECT * FROM a JOIN b ON b.where = 1, orders",
    "SELECT * FROM a JOIN b ON b.group, orders",
    "SELECT * FROM a JOIN b ON CASE WHEN 1 THEN update END, orders",
    "SELECT * FROM a JOIN b ON percentile_cont(0.5) WITHIN GROUP (ORDER BY x) > 1, orders",
    "SELECT * FROM f(x) WITH ORDINALITY AS t(a, b), orders",
    "SELECT * FROM json_each(orders.data) AS x, orders",
    "SELECT * FROM unnest(a, b) AS orders, orders",
    "SELECT * FROM ROWS FROM (f(x), g(y)), orders",
    "SELECT 1 WHERE 1 IN orders",
    "SELECT 1 WHERE 1 IN 'orders'",
    "SELECT 1 WHERE 1 NOT IN main.orders",
    "SELECT SUBSTRING((SELECT x FROM orders) FROM 1)",
    "SELECT TRIM(SELECT x FROM orders)",
    "SELECT DISTINCT FROM orders",
    "INSERT INTO orders (orders, b) VALUES (orders, 2)",
    "INSERT orders VALUES (1)",
    "INSERT IGNORE orders VALUES (1)",
    "INSERT LOW_PRIORITY IGNORE INTO orders VALUES (1)",
    "REPLACE orders VALUES (1)",
    "REPLACE INTO orders VALUES (1)",
    "INSERT OR REPLACE INTO orders VALUES (1)",
    "INSERT INTO a TABLE orders",
    "MERGE INTO orders USING a ON 1=1 WHEN MATCHED THEN UPDATE SET x = 1, orders = 2",
    "MERGE INTO a USING orders ON 1=1 WHEN MATCHED THEN UPDATE SET x = 1, orders = 2 WHEN NOT MATCHED THEN INSERT (x, orders) VALUES (1, orders) WHEN MATCHED THEN DELETE",
    "MERGE INTO a USING (SELECT * FROM orders) o ON 1=1 WHEN MATCHED THEN DELETE",
    "MERGE INTO a USING (b JOIN orders ON 1) ON 1=1 WHEN MATCHED THEN DELETE",
    "MERGE INTO a USING (orders JOIN b ON 1) ON 1=1 WHEN MATCHED THEN DELETE",
    "SELECT ARRAY[ARRAY[(SELECT x FROM orders)], ARRAY[2]] FROM a",
    "SELECT ARRAY[(SELECT x FROM orders)] FROM a",
    "TRUNCATE orders",
    "TRUNCATE a, orders",
    "COPY orders TO STDOUT",
    "HANDLER orders OPEN",
    "LOCK TABLES a READ, orders WRITE",
    "LOAD DATA INFILE 'x' INTO TABLE orders",
    "EXPLAIN DELETE FROM orders",
    "EXPLAIN (ANALYZE, BUFFERS) UPDATE orders SET x = 1",
    "EXPLAIN FORMAT=JSON UPDATE a, orders SET x = 1",
    "SELECT 1; TRUNCATE orders",
    "SELECT 1; SELECT 1 FROM orders;",
    "SELECT 1 FROM a WHERE x = 'FROM orders' AND y IN (SELECT 1 FROM orders)",
    "SELECT 1 --FROM orders",
    "SELECT 1 # FROM orders",
    "SELECT 1 /*! FROM orders */",
    "SELECT 1 /*! FROM */ orders",
    "SELECT $$ FROM orders $$",
    "SELECT $$ x $$, orders",
    "SELECT (1, orders",
    "SELECT 1), orders",
    "SELECT * FROM { OJ orders }",
    "SELECT * FROM { OJ a LEFT JOIN orders ON 1 }",
    "SELECT 1 FROM orders\xa0",
    'SELECT * FROM U&"\\006frders"',
    "SELECT * FROM u&\"!006frders\" UESCAPE '!'",
    "SELECT * FROM .orders",
    "SELECT x FROM a WHERE b IN (TABLE orders)",
    "SELECT 1 FROM (VALUES (1, 2)) AS v (a, b), orders",
    "SELECT (SELECT count(*) FROM orders) AS orders, b.orders FROM b",
    "SELECT * FROM JSON_TABLE(x, '$' COLUMNS (orders int PATH '$')) AS jt, orders",
    "SELECT * FROM a FOR SYSTEM_TIME AS OF now(), orders",
    "SELECT * INTO orders FROM a",
    "SELECT * INTO TEMP orders FROM a",
    "SELECT x FROM a INTO @x, @y, orders",
    "SELECT * FROM a a1 LEFT JOIN b ON EXISTS (SELECT 1 FROM c WHERE x), orders",
    "SELECT * FROM __[SCHEMA__none].orders AS o JOIN __[SCHEMA__none].orders_b ON 1",
    "SELECT __[SCHEMA__none].a.orders FROM __[SCHEMA_x].a, __[SCHEMA_x].orders WHERE __[SCHEMA_x].orders.id IN (__[POSTCOMPILE_x~~lower(~~REPL~~)~~])",
    "SELECT * FROM a __ , orders",
]

NEVER = [
    "SELECT * FROM orders.stats",
    "SELECT STRAIGHT_JOIN a.orders, orders FROM a",
    "UPDATE a SET x = 1, orders = 2",
    "DELETE FROM a USING a JOIN b USING (orders)",
    "DELETE FROM a RETURNING id, orders",
    "DELETE FROM a USING b RETURNING id, orders",
    "SELECT * FROM a JOIN b USING (orders, x)",
    "SELECT 1 FROM a UNION VALUES (1), (orders)",
    "WITH orders AS (SELECT 1) SELECT 1",
    "SELECT * FROM (WITH a AS (SELECT 1), orders AS (SELECT 1) SELECT * FROM a)",
    "SELECT * FROM json_each(x) AS t(a, orders)",
    "SELECT 1 WHERE 1 IN (orders, 2)",
    "SELECT EXTRACT(YEAR FROM orders) FROM a",
    "SELECT EXTRACT(YEAR FROM orders.x), TRIM(BOTH ' ' FROM orders), SUBSTRING(orders FROM 1 FOR 2), OVERLAY(a PLACING b FROM orders FOR 1) FROM a",
    "SELECT POSITION('a' IN orders), CONVERT(orders USING utf8) FROM a",
    "SELECT 1 FROM a WHERE x IS DISTINCT FROM orders AND y IS NOT DISTINCT FROM orders",
    "SELECT 1 FROM a FOR UPDATE OF orders, b",
    "SELECT 1 FROM a, b FOR NO KEY UPDATE OF b, orders",
    "SELECT 1 FROM a, b FOR SHARE OF b, orders",
    "SELECT 1 FROM a, b FOR KEY SHARE OF b, orders SKIP LOCKED",
    "SELECT a AS orders FROM b AS orders",
    "SELECT a orders FROM b orders",
    "INSERT INTO a (orders, b) VALUES (1, 2), (3, 4)",
    "INSERT INTO a SET x = 1, orders = 2",
    "INSERT INTO a (x) VALUES (1) ON DUPLICATE KEY UPDATE x = VALUES(orders), orders = 1",
    "INSERT INTO a (x) SELECT x FROM b ON DUPLICATE KEY UPDATE x = VALUES(orders), orders = 1",
    "INSERT INTO a (x) SELECT x FROM b ON CONFLICT (orders, y) DO UPDATE SET x = 1, orders = excluded.orders RETURNING id, orders",
    "INSERT INTO a (x) SELECT x FROM b WHERE true ON CONFLICT (y) DO NOTHING RETURNING id, orders",
    "SELECT a, orders FROM b ORDER BY a, orders",
    "SELECT a FROM b GROUP BY a, orders HAVING a > 1 LIMIT 1, 2",
    "SELECT a FROM b WHERE c ORDER BY a USING >, orders",
    "SELECT a FROM b WINDOW w AS (ORDER BY x), orders AS (ORDER BY y)",
    "SELECT ARRAY[orders.x, ARRAY[1, orders]], x[1] FROM a JOIN b ON x = ARRAY[ARRAY[1], orders], b",
    "SELECT 1 FROM a -- orders\n WHERE 1",
    "SELECT x FROM a WHERE b IN (__[POSTCOMPILE_orders]) AND c = %(orders)s AND d = :orders",
    "INSERT INTO a (update, orders) VALUES (1, 2)",
    "SELECT update, delete, orders FROM a",
    "UPDATE a SET update = 1, orders = 2",
    "SELECT 1 FROM (VALUES (1, orders.x), (x, orders)) AS v (orders, b)",
    "SELECT * FROM a LEFT OUTER JOIN b ON a.id = b.id AND b.x IN (1, 2) AND (b.orders, 3) = (1, orders) WHERE a.x",
    "SELECT __[SCHEMA__none].a.orders FROM __[SCHEMA_x].a, x",
]


@pytest.mark.parametrize("sql", ONCE)
def test_a_table_is_counted_once(sql: str) -> None:
    assert tables_in(sql)["orders"] == 1


@pytest.mark.parametrize("sql", NEVER)
def test_columns_aliases_and_definitions_are_not_counted(sql: str) -> None:
    assert tables_in(sql)["orders"] == 0


def test_each_use_is_counted() -> None:
    sql = "SELECT * FROM orders JOIN orders o ON 1=1, orders p WHERE x IN (SELECT x FROM orders)"
    assert tables_in(sql)["orders"] == 4
    assert tables_in("DELETE a, orders FROM a, orders")["orders"] == 2


@pytest.mark.parametrize(
    ("sql", "times"),
    [
        ("INSERT INTO a (x) SELECT p0 FROM (VALUES (1, 2)) AS s(p0, n) ORDER BY n", 0),
        ("SELECT * FROM a JOIN LATERAL (VALUES (1), (2)) AS v(x) ON true", 0),
        ("SELECT * FROM (VALUES (1) UNION SELECT x FROM values)", 1),
        ("SELECT * FROM (values)", 1),
        ("SELECT * FROM (values values (x))", 1),
        ("SELECT * FROM (values, b)", 1),
        ("SELECT * FROM (b.values (x))", 1),
        ('SELECT * FROM ("values" (x))', 1),
        ("SELECT * FROM a, values (x)", 1),
    ],
)
def test_rows_are_no_table_called_values(sql: str, times: int) -> None:
    assert tables_in(sql)["values"] == times


def test_a_hash_is_an_operator_where_it_begins_no_comment() -> None:
    sql = "SELECT a #>> '{x}', orders.b FROM stats"
    assert tables_in(sql)["orders"] == 1
    assert tables_in(sql, hash_comments=False)["orders"] == 0


def test_what_is_returned_can_be_changed() -> None:
    tables_in("SELECT 1 FROM orders").clear()
    assert tables_in("SELECT 1 FROM orders")["orders"] == 1


def test_a_long_statement_is_read_and_not_kept() -> None:
    assert tables_in("SELECT 1" + " " * 30_000 + "FROM orders")["orders"] == 1


metadata = MetaData()
orders = Table("orders", metadata, *(Column(name, Integer) for name in ("id", "stats", "at")))
# Columns and labels of the tables' names are what could be mistaken.
stats = Table("stats", metadata, *(Column(name, Integer) for name in ("id", "orders", "stats")))
schema = Table("orders", metadata, Column("id", Integer), schema="stats")
o = orders.alias("stats")
recursive = select(orders.c.id.label("orders")).cte("tree", recursive=True)
recursive = recursive.union_all(select(stats.c.orders).join(recursive, recursive.c.orders == 1))
pairs = values(column("orders", Integer), column("stats", Integer), name="v").data([(1, 2), (3, 4)])
COMPILED: list[tuple[Any, int, int]] = [
    (select(orders.c.id.label("orders"), stats.c.orders), 1, 1),
    (select(stats.c.orders, stats.c.stats).order_by(stats.c.id, stats.c.orders), 0, 1),
    (select(stats.c.orders).group_by(stats.c.id, stats.c.orders).limit(1).offset(2), 0, 1),
    (select(o.c.id).join(stats, o.c.id == stats.c.orders), 1, 1),
    (select(orders).outerjoin(stats.join(o, o.c.id == stats.c.id), stats.c.orders == 1), 2, 1),
    (select(orders, stats).join_from(orders, stats, tuple_(orders.c.id, 1).in_([(1, 2)])), 1, 1),
    (select(schema.c.id, stats.c.id), 1, 1),
    (select(select(orders.c.id).scalar_subquery().label("orders"), stats.c.orders), 1, 1),
    (select(stats).where(exists().where(orders.c.id == stats.c.orders)), 1, 1),
    (select(stats).where(stats.c.id.in_(select(orders.c.id))).with_for_update(of=stats), 1, 1),
    (select(recursive), 1, 1),
    (select(union(select(orders.c.id), select(stats.c.orders)).subquery("orders")), 1, 1),
    (select(extract("year", stats.c.orders), func.trim(stats.c.orders), stats.c.id), 0, 1),
    (select(stats.c.id.is_distinct_from(stats.c.orders), stats.c.orders), 0, 1),
    (select(func.count().over(partition_by=[stats.c.id, stats.c.orders]).label("orders")), 0, 1),
    (insert(stats).values(orders=1, stats=2), 0, 1),
    (insert(stats).values([{"orders": 1, "stats": 2}, {"orders": 3, "stats": 4}]), 0, 1),
    (insert(stats).from_select(["orders", "stats"], select(orders.c.id, orders.c.stats)), 1, 1),
    (update(stats).values(id=1, orders=2, stats=stats.c.orders), 0, 1),
    (update(stats).values(orders=select(orders.c.id).scalar_subquery(), stats=3), 1, 1),
    (delete(stats).where(stats.c.orders == 1), 0, 1),
]
FROM_LIST: list[tuple[Any, int, int]] = [
    (update(stats).values(id=1, orders=2).where(orders.c.id == stats.c.orders), 1, 1),
    (select(pairs.c.orders, stats.c.orders).where(pairs.c.stats == stats.c.id), 0, 1),
]
LATERAL = select(orders.c.id.label("stats")).where(orders.c.id == stats.c.orders).lateral("orders")
ON_POSTGRESQL: list[tuple[Any, int, int]] = [
    *FROM_LIST,
    (
        delete(stats).where(orders.c.id == stats.c.orders).returning(stats.c.id, stats.c.orders),
        1,
        1,
    ),
    (select(stats.c.orders, LATERAL.c.stats).join(LATERAL, true()), 1, 1),
    (select(postgresql.array([select(orders.c.id).scalar_subquery(), stats.c.orders])), 1, 1),
    (select(stats).with_for_update(of=[stats, orders]).join(orders, true()), 1, 1),
    (select(stats, orders.tablesample(5)), 1, 1),
]


def upserted(dialect: Any) -> tuple[Any, int, int]:
    upsert = dialect.insert(stats).from_select(["id"], select(orders.c.id).where(true()))
    changed = {"id": 1, "orders": upsert.excluded.orders}
    upsert = upsert.on_conflict_do_update(index_elements=["id"], set_=changed)
    return upsert.returning(stats.c.id, stats.c.orders), 1, 1


upsert = mysql.insert(stats).from_select(["id"], select(orders.c.id))
ON_MYSQL: list[tuple[Any, int, int]] = [
    (upsert.on_duplicate_key_update(id=1, orders=upsert.inserted.orders, stats=3), 1, 1),
    (update(stats).values(id=1, orders=2).where(orders.c.id == stats.c.orders), 1, 1),
    # MySQL names the target of a DELETE with several tables twice.
    (delete(stats).where(orders.c.id == stats.c.orders), 1, 2),
    (select(stats.c.id, stats.c.orders).prefix_with("STRAIGHT_JOIN"), 0, 1),
    (select(stats, orders).with_hint(stats, "USE INDEX (orders)"), 1, 1),
]
CASES = [
    *((dialect, case) for dialect in (postgresql, mysql, sqlite) for case in COMPILED),
    *((postgresql, case) for case in ON_POSTGRESQL),
    *((mysql, case) for case in ON_MYSQL),
    *((dialect, upserted(dialect)) for dialect in (postgresql, sqlite)),
    *((sqlite, case) for case in FROM_LIST),
]


@pytest.mark.parametrize(("dialect", "case"), CASES)
def test_what_sqlalchemy_renders_is_counted_exactly(dialect: Any, case: Any) -> None:
    statement, of_orders, of_stats = case
    sql = str(statement.compile(dialect=dialect.dialect()))
    found = tables_in(sql, hash_comments=dialect is mysql)
    assert (found["orders"], found["stats"]) == (of_orders, of_stats), sql


def test_a_schema_that_is_put_in_later_is_no_table() -> None:
    sql = str(
        select(schema.c.id).compile(
            dialect=postgresql.dialect(), schema_translate_map={"stats": "orders"}
        )
    )
    assert tables_in(sql)["orders"] == 1


DDL = [
    "CREATE TABLE x (a INT DEFAULT 1)",
    "CREATE TABLE x (a INT);",
    "CREATE VIEW v AS SELECT * FROM orders",
    "CREATE OR REPLACE VIEW v AS SELECT * FROM orders",
    "CREATE TRIGGER t AFTER INSERT ON x BEGIN DELETE FROM orders; SELECT CASE WHEN 1 THEN 2 END; END;",
    "CREATE DEFINER=`root`@`localhost` TRIGGER t BEFORE INSERT ON x FOR EACH ROW BEGIN IF NEW.a THEN SET NEW.a = 1; END IF; CASE x WHEN 1 THEN SET @y=1; END CASE; END",
    "CREATE FUNCTION f() RETURNS trigger AS $$ BEGIN RAISE EXCEPTION 'no; %'; END; $$ LANGUAGE plpgsql",
    "CREATE OR REPLACE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS $body$ BEGIN DELETE FROM orders; END $body$;",
    "CREATE FUNCTION f() RETURNS int BEGIN ATOMIC SELECT 1; SELECT 2; END",
    "CREATE RULE r AS ON INSERT TO x DO INSTEAD DELETE FROM orders",
    "ALTER TABLE orders RENAME TO x",
    "ALTER TABLE orders ALTER COLUMN a TYPE int USING a::int",
    "DROP TABLE orders",
    "COMMENT ON TABLE orders IS 'select; x'",
    "GRANT SELECT ON orders TO bob",
    "CREATE INDEX i ON orders (a) WHERE b = 'x'",
    "CREATE TYPE t AS ENUM ('a', 'b')",
    "CREATE TABLE x (LIKE orders INCLUDING ALL)",
    "CREATE TABLE x PARTITION OF orders FOR VALUES IN ('a')",
    "CREATE POLICY p ON orders USING (t IN (SELECT t FROM a))",
    "CREATE TABLE orders (a INT GENERATED ALWAYS AS (b + 1) STORED)",
    "CREATE VIRTUAL TABLE f USING fts5(body)",
    "\n-- x\nCREATE TABLE [x] (a int)",
    "CREATE TABLE x (a INT REFERENCES orders (id) ON DELETE CASCADE ON UPDATE SET NULL)",
    "CREATE TEMPORARY VIEW v AS SELECT 1",
    "CREATE TABLE values_table (a int)",
    "CREATE CONSTRAINT TRIGGER t AFTER INSERT ON x EXECUTE FUNCTION f()",
]

NO_DDL = [
    "CREATE TABLE x (a INT DEFAULT 1); DELETE FROM orders",
    "CREATE TABLE x AS SELECT * FROM orders",
    "CREATE TABLE x AS TABLE orders",
    "CREATE TABLE x TABLE orders",
    "CREATE TABLE x AS VALUES (1)",
    "CREATE TABLE x AS (VALUES (1))",
    "CREATE TABLE x AS EXECUTE p",
    "CREATE TABLE x SELECT * FROM orders",
    "CREATE TABLE x (a int) SELECT * FROM orders",
    "CREATE TEMP TABLE x AS WITH y AS (SELECT 1) TABLE y",
    "CREATE MATERIALIZED VIEW v AS SELECT * FROM orders",
    "CREATE MATERIALIZED VIEW v AS TABLE orders",
    "SELECT 1",
    "DELETE FROM orders",
    "TRUNCATE orders",
    "COPY orders TO STDOUT",
    "CALL f()",
    "DO $$ BEGIN END $$",
    "CREATE TABLE x (a int DEFAULT 'b",
    "CREATE TABLE x (a int",
    "CREATE TABLE x (a int) /*! AS SELECT * FROM orders */",
    "CREATE TABLE x (a int) /*! ; DELETE FROM orders */",
    "CREATE TABLE x (a int) --x; DELETE FROM orders\n",
    "CREATE TRIGGER t AFTER INSERT ON x BEGIN SELECT 1; END; DELETE FROM orders; END",
    "CREATE VIEW v AS SELECT 1; DELETE FROM orders",
    "CREATE FUNCTION f() AS $$ x $$; DELETE FROM orders",
    "CREATE FUNCTION f() AS $$ ' $$; DELETE FROM orders --'",
    "CREATE TRIGGER t AFTER INSERT ON x BEGIN SELECT begin; END; DELETE FROM orders",
    "CREATE TABLE x (a int) $$; DELETE FROM orders; $$ AS SELECT",
    "CREATE SCHEMA s CREATE TABLE x AS SELECT * FROM orders",
    "CREATE TABLE view AS SELECT * FROM orders",
    "CREATE TABLE x AS SELECT * FROM view",
    "DROP TABLE x; SELECT * FROM orders",
    "GRANT SELECT ON x TO bob; SELECT 1",
    "CREATE TABLE x (a int) ENGINE=MERGE UNION=(orders)",
    "",
    ";",
]


@pytest.mark.parametrize("sql", DDL)
def test_ddl(sql: str) -> None:
    assert scan(sql).is_ddl


@pytest.mark.parametrize("sql", NO_DDL)
def test_what_copies_rows_or_brings_a_second_statement_is_no_ddl(sql: str) -> None:
    assert not scan(sql).is_ddl


@pytest.mark.parametrize(
    "name",
    ["query_to_xml", "QUERY_TO_XML_AND_XMLSCHEMA", "dblink_exec", "crosstab3", "connectby"]
    + ["ts_stat", "pg_read_file", "pg_read_binary_file", "lo_import", "load_file"],
)
def test_functions_that_run_what_a_string_names(name: str) -> None:
    assert runs_sql(name)
    assert scan(f"SELECT {name}('x')").opaque


@pytest.mark.parametrize("name", ["count", "lower", "query", "ts_rank", "load", "xmlagg"])
def test_other_functions(name: str) -> None:
    assert not runs_sql(name)
    assert not scan(f"SELECT {name}('x')").opaque
