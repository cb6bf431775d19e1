"""What a fragment of SQL could do to the statement that it stands in."""

from __future__ import annotations

import pytest

from partywall.fragments import (
    adds_rows,
    ctes_in,
    goes_on,
    lists_more,
    only_modifies,
    selects_again,
    upserts,
)


@pytest.mark.parametrize(
    ("sql", "more"),
    [
        ("price + 1", False),
        ("coalesce(price, 0)", False),
        ("'a, b'", False),
        ('"a, b"', False),
        ("ARRAY[1, 2]", False),
        ("1 /* , */", False),
        ("1, owner = 2", True),
        ("1), owner = (2", True),
        ("f(1", True),
        (r"'\', owner = 2, x = ''", True),
        ("$$ x $$, owner = 2", True),
        ("1 --1, owner = 2", True),
    ],
)
@pytest.mark.parametrize("hashes", [True, False])
def test_a_value_is_one_item_of_a_list_or_more(sql: str, more: bool, hashes: bool) -> None:
    assert lists_more(sql, hash_comments=hashes) is more


@pytest.mark.parametrize(
    ("sql", "times"),
    [
        ("INSERT INTO t VALUES (1)", 0),
        ("INSERT INTO t VALUES ('on conflict', \"on duplicate\")", 0),
        ("INSERT INTO t (duplicate) SELECT x.conflict FROM x", 0),
        ("WITH x AS (INSERT INTO t VALUES (1) ON CONFLICT DO NOTHING) INSERT INTO t SELECT 1", 0),
        ("INSERT INTO t VALUES (1) ON CONFLICT (id) DO NOTHING", 1),
        ("INSERT INTO t VALUES (1) on/**/duplicate KEY UPDATE a = 1", 1),
        ("INSERT INTO t SELECT 1ON CONFLICT DO NOTHING", 1),
        ("INSERT INTO t SELECT 1 /*!ON DUPLICATE KEY UPDATE a = 1*/", 1),
        ("INSERT INTO t SELECT 1 --1 ON DUPLICATE KEY UPDATE a = 1", 1),
        (r"INSERT INTO t SELECT '\' ON CONFLICT DO NOTHING", 1),
        ("INSERT INTO t SELECT 1 ON CONFLICT DO NOTHING ON CONFLICT DO NOTHING", 2),
    ],
)
@pytest.mark.parametrize("hashes", [True, False])
def test_a_clash_of_keys_is_counted(sql: str, times: int, hashes: bool) -> None:
    assert upserts(sql, hash_comments=hashes) == times


@pytest.mark.parametrize(
    ("sql", "adds"),
    [
        ("a > 1", False),
        ("a IN (SELECT 1 UNION SELECT 2)", False),
        ("a = 'union'", False),
        ("a UNION SELECT b", True),
        ("1) UNION SELECT (2", True),
        ("$$ x $$ EXCEPT SELECT 1", True),
    ],
)
def test_a_text_adds_the_rows_of_another_select_or_not(sql: str, adds: bool) -> None:
    assert adds_rows(sql) is adds


@pytest.mark.parametrize(
    ("sql", "again"),
    [
        ("SELECT 1 FROM t WHERE a", False),
        ("SELECT (SELECT 1) FROM (SELECT 2) AS t WHERE a", False),
        ("SELECT 'select' FROM t WHERE a", False),
        ("SELECT 1 FROM t UNION ALL SELECT 2 FROM u WHERE a", True),
        ("SELECT 1 FROM t ON 1) UNION (SELECT 2 FROM u WHERE a", True),
    ],
)
@pytest.mark.parametrize("hashes", [True, False])
def test_another_select_begins_outside_of_parentheses(sql: str, again: bool, hashes: bool) -> None:
    assert selects_again(sql, hash_comments=hashes) is again


@pytest.mark.parametrize(
    ("behind", "more"),
    [
        ("", False),
        (" ORDER BY a", False),
        ("\nLIMIT 1", False),
        (" /* OR */ FOR UPDATE", False),
        (" OR 1 = 1", True),
        (" /* ORDER BY */ OR 1 = 1", True),
        (" IS NOT NULL", True),
        (" LEFT JOIN t ON 1", False),
        (" ON CONFLICT DO NOTHING", False),
        (" = 1", True),
        # Of what the criterion stood in, a subquery or a list.
        (") OR 1 = 1", False),
        (", 1", False),
    ],
)
@pytest.mark.parametrize("hashes", [True, False])
def test_what_stands_behind_a_criterion_goes_on_with_it_or_not(
    behind: str, more: bool, hashes: bool
) -> None:
    assert goes_on(behind, hash_comments=hashes) is more


@pytest.mark.parametrize(
    ("behind", "more"),
    [
        (" /* a */", False),
        (") SELECT 1", False),
        (" RETURNING a", False),
        (", (1)", True),
        (" ON CONFLICT DO NOTHING", True),
        (" UNION SELECT 1", True),
    ],
)
@pytest.mark.parametrize("hashes", [True, False])
def test_what_stands_behind_rows_goes_on_with_them_or_not(
    behind: str, more: bool, hashes: bool
) -> None:
    assert goes_on(behind, rows=True, hash_comments=hashes) is more


@pytest.mark.parametrize(
    ("sql", "names"),
    [
        ("SELECT a AS b FROM t", set()),
        ("WITH a AS (SELECT 1) SELECT 2 AS c", {"a"}),
        ("WITH RECURSIVE A AS (SELECT 1), b (c, d) AS NOT MATERIALIZED (SELECT 1)", {"a", "b"}),
        ('WITH "a"/* */AS(SELECT 1), `b` AS (SELECT cast(c AS int))', {"a", "b"}),
        ('WITH U&"a" AS (SELECT 1) SELECT b', {"with", "u", "a", "as", "select", "1", "b"}),
    ],
)
@pytest.mark.parametrize("hashes", [True, False])
def test_the_names_of_ctes(sql: str, names: set[str], hashes: bool) -> None:
    assert ctes_in(sql, hash_comments=hashes) == names


@pytest.mark.parametrize(
    ("prefix", "modifies"),
    [("DISTINCT", True), ("/* a */ SQL_NO_CACHE", True), ("1,", False), ("ALL tenant_id,", False)],
)
def test_a_prefix_leaves_the_columns_as_they_are_or_not(prefix: str, modifies: bool) -> None:
    assert only_modifies(prefix) is modifies
