"""What is refused, and what finds nothing to do. Of each, nothing may have changed afterwards."""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    ColumnElement,
    Integer,
    bindparam,
    case,
    column,
    delete,
    event,
    func,
    insert,
    literal,
    literal_column,
    null,
    select,
    table,
    text,
    tuple_,
    update,
)
from sqlalchemy.dialects.mysql import insert as mysql_insert
from sqlalchemy.dialects.postgresql import insert as postgresql_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.orm import Session, make_transient, make_transient_to_detached
from sqlalchemy.sql import quoted_name

from oracle import Shapes
from partywall.context import tenant_scope
from partywall.errors import (
    CrossTenantAccessError,
    CrossTenantReferenceError,
    TenancyError,
    UnscopedStatementError,
)

RAW = Shapes()
FOREIGN = Shapes()
REFERENCES = Shapes()
POWERLESS = Shapes()


class Largest(ColumnElement[int]):
    """A developer's own construct, which renders SQL as it likes."""

    inherit_cache = True


@compiles(Largest)
def _render_largest(element: Any, compiler: Any, **_: Any) -> str:
    return "(SELECT max(amount) FROM orders)"


def _raw(named: dict[str, Any], match: str, **options: Any) -> None:
    for name, build in named.items():
        RAW(
            lambda session, m, build=build: session.execute(build(m)).all(),
            name=name,
            error=UnscopedStatementError,
            match=match,
            **options,
        )
        RAW(
            lambda session, m, build=build: session.connection().execute(build(m)).all(),
            name=f"{name}, by the connection",
            twin=True,
            error=UnscopedStatementError,
            match=match,
            **options,
        )


_raw(
    {
        "a text select": lambda m: text("SELECT * FROM orders"),
        "a text select in capitals": lambda m: text("SELECT * FROM ORDERS"),
        "a quoted name": lambda m: text('SELECT * FROM "orders"'),
        "a qualified name": lambda m: text("SELECT * FROM main.orders"),
        "a name after a comment": lambda m: text("SELECT * FROM/**/orders"),
        "a name in a comma join": lambda m: text("SELECT 1 FROM countries, orders"),
        "a common table expression": lambda m: text("WITH x AS (SELECT * FROM orders) SELECT 1"),
        "text with its columns": lambda m: select(
            text("SELECT id, number FROM orders").columns(m.Order.id, m.Order.number).subquery()
        ),
        "an entity from a text": lambda m: select(m.Order).from_statement(
            text("SELECT * FROM orders")
        ),
        "an entity from a text with columns": lambda m: select(m.Order).from_statement(
            text("SELECT id, number FROM orders").columns(m.Order.id, m.Order.number)
        ),
        "a text insert": lambda m: text("INSERT INTO tags (name) VALUES ('x')"),
        "a text update": lambda m: text("UPDATE orders SET amount = 1"),
        "a text delete": lambda m: text("DELETE FROM memos"),
        "a text update of another tenant": lambda m: text(
            "UPDATE orders SET tenant_id = 'acme' WHERE id = 2"
        ),
        "a text that names a two-step table": lambda m: text("SELECT body FROM remarks"),
        "a text that names a sub table": lambda m: text("SELECT budget FROM managers"),
        "a text that names a secondary": lambda m: text("SELECT tag_id FROM order_tags"),
        "a text that names the user table": lambda m: text('SELECT name FROM "user"'),
        "a text that names a core table": lambda m: text("SELECT entry FROM audit"),
        "a text with the tenant written in": lambda m: text(
            "SELECT id FROM orders WHERE tenant_id = 'acme'"
        ),
        "a literal column with a subquery": lambda m: select(
            m.Tag.id, literal_column("(SELECT max(amount) FROM orders)")
        ),
        "a text column with a subquery": lambda m: select(
            m.Tag.id, text("(SELECT max(amount) FROM orders)")
        ),
        "a literal subquery alone": lambda m: select(
            literal_column("(SELECT max(amount) FROM orders)")
        ),
        "a criterion with a subquery": lambda m: select(m.Tag.id).where(
            text("id IN (SELECT id FROM orders)")
        ),
        "a criterion with a literal subquery": lambda m: select(m.Tag.id).where(
            literal_column("(SELECT count(*) FROM orders)") > 0
        ),
        "an order by a subquery": lambda m: select(m.Tag.id).order_by(
            text("(SELECT max(amount) FROM orders)")
        ),
        "a group by a subquery": lambda m: select(func.count(m.Tag.id)).group_by(
            text("(SELECT max(amount) FROM orders)")
        ),
        "a having with a subquery": lambda m: select(func.count(m.Tag.id)).having(
            text("(SELECT max(amount) FROM orders) > 0")
        ),
        "an on clause with a subquery": lambda m: select(m.Tag.id).join(
            m.Label, text("1 IN (SELECT id FROM orders)")
        ),
        "from a text": lambda m: select(literal_column("amount")).select_from(text("orders")),
        "from a text with an alias": lambda m: select(literal_column("amount")).select_from(
            text("orders AS o")
        ),
        "a text subquery of an unowned select": lambda m: select(m.Country.code).where(
            text("EXISTS (SELECT 1 FROM orders)")
        ),
        "a union in a criterion": lambda m: select(m.Order.id).where(
            text("1 = 0 UNION SELECT id FROM orders")
        ),
        "a prefix that brings rows": lambda m: select(m.Tag.id).prefix_with(
            "(SELECT max(amount) FROM orders),"
        ),
        "a suffix that brings rows": lambda m: select(m.Tag.id).suffix_with(
            "UNION ALL SELECT id FROM orders"
        ),
        "a literal column that is a whole from": lambda m: select(
            column("amount FROM orders --", is_literal=True)
        ),
        "an operator that brings rows": lambda m: select(m.Tag.id).where(
            m.Tag.id.op("IN (SELECT id FROM orders) AND 1 <")(2)
        ),
        "a table name that is sql": lambda m: select(literal_column("1")).select_from(
            table(quoted_name("countries, orders", quote=False))
        ),
        "a text in an in": lambda m: select(m.Tag.id).where(
            m.Tag.id.in_(text("(SELECT id FROM orders)"))
        ),
        "a text in a function": lambda m: select(
            func.coalesce(text("(SELECT max(amount) FROM orders)"), 0)
        ),
        "a construct that compiles itself": lambda m: select(m.Tag.id, Largest()),
        "an update from a text": lambda m: update(m.Tag).values(
            name=text("(SELECT max(number) FROM orders)")
        ),
        "an insert from a text": lambda m: insert(m.Tag).values(
            name=literal_column("(SELECT max(number) FROM orders)")
        ),
        "a delete by a text": lambda m: delete(m.Memo).where(text("id IN (SELECT id FROM orders)")),
    },
    "Raw SQL names owned tables",
    only="sqlite postgresql",
    families="str",
)

_raw(
    {
        "a criterion that closes the parenthesis": lambda m: select(m.Order.id).where(
            text("1 = 1) OR (1 = 1")
        ),
        "a criterion that comments the rest away": lambda m: select(m.Order.id).where(
            text("1 = 1) --")
        ),
        "a criterion that opens a comment": lambda m: select(m.Order.id).where(text("1 = 1 /*")),
        "a criterion with a semicolon": lambda m: select(m.Order.id).where(
            text("1 = 1; DELETE FROM nothing")
        ),
        "a literal that closes the parenthesis": lambda m: select(m.Order.id).where(
            literal_column("1) OR (1", Integer) == 1
        ),
        "an order that opens a quote": lambda m: select(m.Order.id).order_by(text("amount 'x")),
        "a delete that comments the rest away": lambda m: delete(m.Memo).where(text("1 = 1) --")),
        "an update that comments the rest away": lambda m: (
            update(m.Order).where(text("1 = 1) --")).values(amount=1)
        ),
    },
    "could undo its tenant condition",
    families="str",
)


def _driver_sql(sql: str) -> Any:
    return lambda session, m: session.connection().exec_driver_sql(sql)


def _copied(session: Any, m: Any) -> None:
    from sqlalchemy import CreateTableAs

    session.connection().execute(CreateTableAs(select(m.Order.id), "copied"))


RAW(
    _copied,
    name="create table as",
    error=UnscopedStatementError,
    match="would copy owned rows",
    series=(2, 1),
)
RAW(
    lambda session, m: session.execute(select(m.Order.id).into("copied")),
    name="select into",
    error=UnscopedStatementError,
    match="would copy owned rows",
    series=(2, 1),
    only="postgresql",
)

for _sql in (
    "SELECT * FROM orders",
    "select * from Orders o",
    "UPDATE orders SET amount = 1",
    "DELETE FROM memos",
    "INSERT INTO tags (tenant_id, name) VALUES ('acme', 'x')",
    "SELECT * FROM countries WHERE EXISTS (SELECT 1 FROM orders)",
):
    RAW(
        _driver_sql(_sql),
        name=f"driver SQL: {_sql}",
        error=UnscopedStatementError,
        match="Raw SQL names owned tables",
        families="str",
    )


def _tenant_error(name: str, run: Any, **options: Any) -> None:
    options.setdefault("error", CrossTenantAccessError)
    options.setdefault("match", "tenant")
    FOREIGN(run, name=name, **options)


def _flushed(build: Any) -> Any:
    def run(session: Any, m: Any) -> None:
        session.add(build(m))
        session.flush()

    return run


for _name, _build in {
    "an object of another tenant": lambda m: m.Order(number="x", tenant_id=m.globex),
    "an object under another column name": lambda m: m.Product(sku="x", organization=m.globex),
    "an object under another attribute name": lambda m: m.Subscription(owner=m.globex),
    "a joined object": lambda m: m.Manager(name="x", tenant_id=m.globex),
    "a single-table object": lambda m: m.Vehicle(name="x", tenant_id=m.globex),
    "a concrete object": lambda m: m.CardPayment(tenant_id=m.globex),
    "an imperative object": lambda m: m.Ticket(subject="x", tenant_id=m.globex),
    "an object with a composite key": lambda m: m.Account(tenant_id=m.globex, number=99),
    "an object of a marked mixin": lambda m: m.Comment(body="x", tenant_id=m.globex),
    "a setting": lambda m: m.Setting(name="x", tenant_id=m.globex),
}.items():
    _tenant_error(f"{_name} added", _flushed(_build), match="belongs to tenant|names tenant")


@FOREIGN(error=CrossTenantAccessError, match="belongs to tenant")
def an_object_given_away_before_the_flush(session: Any, m: Any) -> None:
    order = m.Order(number="x")
    session.add(order)
    order.tenant_id = m.globex
    session.flush()


@FOREIGN(error=CrossTenantAccessError, match="belongs to tenant")
def a_row_given_away(session: Any, m: Any) -> None:
    session.get(m.Order, 1).tenant_id = m.globex
    session.flush()


@FOREIGN(error=CrossTenantAccessError, match="belongs to tenant")
def a_row_given_away_under_another_name(session: Any, m: Any) -> None:
    product = session.get(m.Product, 1)
    product.organization = m.globex
    session.flush()


@FOREIGN(error=CrossTenantAccessError, match="belongs to tenant")
def an_expired_row_given_away(session: Any, m: Any) -> None:
    order = session.get(m.Order, 1)
    session.expire(order)
    order.tenant_id = m.globex
    session.flush()


@FOREIGN(error=TenancyError, match="tenant")
def a_row_given_to_nobody(session: Any, m: Any) -> None:
    session.get(m.Setting, 1).tenant_id = None
    session.flush()


@FOREIGN(error=UnscopedStatementError, match="SQL expression|cannot be set to an expression")
def a_row_given_away_by_an_expression(session: Any, m: Any) -> None:
    session.get(m.Order, 1).tenant_id = literal(m.globex)
    session.flush()


@FOREIGN(error=UnscopedStatementError, match="SQL expression|cannot be set to an expression")
def an_object_added_with_an_expression(session: Any, m: Any) -> None:
    session.add(m.Order(number="x", tenant_id=literal(m.globex)))
    session.flush()


@FOREIGN(error=CrossTenantAccessError, match="belongs to tenant")
def a_row_given_away_and_deleted(session: Any, m: Any) -> None:
    memo = session.get(m.Memo, 1)
    memo.tenant_id = m.globex
    session.delete(memo)
    session.flush()


@FOREIGN(error=CrossTenantAccessError, match="belongs to tenant")
def a_key_that_holds_the_tenant_changed(session: Any, m: Any) -> None:
    session.get(m.Account, (m.acme, 3)).tenant_id = m.globex
    session.flush()


@FOREIGN(error=CrossTenantAccessError, match="tenant")
def bulk_saved_objects(session: Any, m: Any) -> None:
    session.bulk_save_objects([m.Tag(name="a"), m.Tag(name="b", tenant_id=m.globex)])


@FOREIGN(error=CrossTenantAccessError, match="tenant")
def bulk_inserted_mappings(session: Any, m: Any) -> None:
    session.bulk_insert_mappings(m.Tag, [{"name": "a"}, {"name": "b", "tenant_id": m.globex}])


@FOREIGN(error=CrossTenantAccessError, match="tenant")
def bulk_inserted_mappings_all_foreign(session: Any, m: Any) -> None:
    session.bulk_insert_mappings(m.Tag, [{"name": "b", "tenant_id": m.globex}])


@FOREIGN(error=CrossTenantAccessError, match="tenant")
def bulk_updated_mappings(session: Any, m: Any) -> None:
    session.bulk_update_mappings(
        m.Order, [{"id": 1, "tenant_id": m.acme}, {"id": 3, "tenant_id": m.globex}]
    )


@FOREIGN(error=CrossTenantAccessError, match="tenant")
def updated_by_primary_key(session: Any, m: Any) -> None:
    session.execute(update(m.Order), [{"id": 1, "tenant_id": m.globex}])


@FOREIGN(error=CrossTenantAccessError, match="tenant")
def inserted_in_many_sets(session: Any, m: Any) -> None:
    session.execute(
        insert(m.Tag),
        [{"name": f"n{n}", "tenant_id": m.globex if n == 40 else m.acme} for n in range(50)],
    )


@FOREIGN(error=CrossTenantAccessError, match="tenant")
def inserted_in_many_sets_by_the_connection(session: Any, m: Any) -> None:
    session.connection().execute(
        m.Tag.__table__.insert(),
        [{"name": f"n{n}", "tenant_id": m.globex if n == 40 else m.acme} for n in range(50)],
    )


@FOREIGN(error=CrossTenantAccessError, match="tenant")
def inserted_in_many_sets_under_another_key(session: Any, m: Any) -> None:
    session.connection().execute(
        m.audit.insert(), [{"entry": "a", "who": m.acme}, {"entry": "b", "who": m.globex}]
    )


@FOREIGN(error=CrossTenantAccessError, match="tenant")
def updated_in_many_sets(session: Any, m: Any) -> None:
    orders = m.Order.__table__
    session.connection().execute(
        update(orders).where(orders.c.id == bindparam("key")).values(tenant_id=bindparam("whose")),
        [{"key": 1, "whose": m.acme}, {"key": 3, "whose": m.globex}],
    )


@FOREIGN(error=CrossTenantAccessError, match="tenant")
def updated_by_the_parameters_apart(session: Any, m: Any) -> None:
    session.connection().execute(update(m.Order.__table__), {"tenant_id": m.globex})


@FOREIGN(error=CrossTenantAccessError, match="tenant")
def inserted_by_the_parameters_apart(session: Any, m: Any) -> None:
    session.connection().execute(insert(m.Tag.__table__), {"name": "x", "tenant_id": m.globex})


@FOREIGN(error=CrossTenantAccessError, match="tenant")
def inserted_by_a_write_only_relationship(session: Any, m: Any) -> None:
    session.execute(session.get(m.Order, 1).shipments.insert(), [{"carrier": "x"}])
    session.execute(insert(m.Event), [{"kind": "x", "order_id": 1, "tenant_id": m.globex}])


@FOREIGN(error=CrossTenantAccessError, match="tenant")
def given_away_by_query_update(session: Any, m: Any) -> None:
    session.query(m.Order).filter_by(id=1).update({"tenant_id": m.globex})


def _statements(named: dict[str, Any], **options: Any) -> None:
    for name, build in named.items():
        _tenant_error(name, lambda session, m, build=build: session.execute(build(m)), **options)
        _tenant_error(
            f"{name}, by the connection",
            lambda session, m, build=build: session.connection().execute(build(m)),
            twin=True,
            **options,
        )


_statements(
    {
        "insert of another tenant": lambda m: insert(m.Tag).values(name="x", tenant_id=m.globex),
        "insert by column of another tenant": lambda m: insert(m.Tag).values(
            {m.Tag.name: "x", m.Tag.tenant_id: m.globex}
        ),
        "insert of several, one foreign": lambda m: insert(m.Tag).values(
            [{"name": "x", "tenant_id": m.acme}, {"name": "y", "tenant_id": m.globex}]
        ),
        "insert of several, one with another tenant": lambda m: insert(m.Tag).values(
            [{"name": "x", "tenant_id": m.globex}, {"name": "y", "tenant_id": m.globex}]
        ),
        "insert of a secondary row of another tenant": lambda m: m.order_labels.insert().values(
            order_id=1, label_id=5, tenant_id=m.globex
        ),
        "insert of a core row of another tenant": lambda m: m.audit.insert().values(who=m.globex),
        "insert from a select of another tenant": lambda m: insert(m.Tag).from_select(
            ["name", "tenant_id"], select(m.Label.name, literal(m.globex, m.family.column_type))
        ),
        "update to another tenant": lambda m: update(m.Order).values(tenant_id=m.globex),
        "update by string to another tenant": lambda m: update(m.Order).values(
            {"tenant_id": m.globex}
        ),
        "update by column to another tenant": lambda m: update(m.Order).values(
            {m.Order.tenant_id: m.globex}
        ),
        "update by table column to another tenant": lambda m: update(m.Order.__table__).values(
            {m.Order.__table__.c.tenant_id: m.globex}
        ),
        "update in order to another tenant": lambda m: update(m.Order).ordered_values(
            (m.Order.amount, 1), (m.Order.tenant_id, m.globex)
        ),
        "update under another attribute name": lambda m: update(m.Subscription).values(
            owner=m.globex
        ),
        "update under another column name": lambda m: update(m.Product).values(
            organization=m.globex
        ),
        "update of a core table to another tenant": lambda m: m.audit.update().values(who=m.globex),
        "update of a secondary to another tenant": lambda m: m.order_labels.update().values(
            tenant_id=m.globex
        ),
        "update of a composite key": lambda m: (
            update(m.Account).where(m.Account.number == 3).values(tenant_id=m.globex)
        ),
        "update to a cast of another tenant": lambda m: update(m.Order).values(
            tenant_id=func.coalesce(literal(m.globex, m.family.column_type), "x")
        ),
        "update to a case": lambda m: update(m.Order).values(
            tenant_id=case((m.Order.id > 0, literal(m.globex, m.family.column_type)))
        ),
        "update to null": lambda m: update(m.Setting).values(tenant_id=null()),
        "update to none": lambda m: update(m.Setting).values(tenant_id=None),
        "update to another table's tenant": lambda m: update(m.Order).values(
            tenant_id=select(literal(m.globex, m.family.column_type)).scalar_subquery()
        ),
    },
    error=TenancyError,
)

_statements(
    {
        "an ad-hoc update to another tenant": lambda m: (
            table("orders", column("tenant_id")).update().values(tenant_id=m.globex)
        ),
        "an ad-hoc insert of another tenant": lambda m: (
            table("tags", column("tenant_id"), column("name"))
            .insert()
            .values(name="x", tenant_id=m.globex)
        ),
        "an insert of an expression": lambda m: insert(m.Tag).values(
            name="x", tenant_id=func.lower("GLOBEX")
        ),
        "an update to an expression": lambda m: update(m.Order).values(
            tenant_id=func.lower("GLOBEX")
        ),
        "an update to a text": lambda m: update(m.Order).values(tenant_id=text("'globex'")),
    },
    error=TenancyError,
    families="str",
)

_statements(
    {
        "insert or replace": lambda m: insert(m.Order).prefix_with("OR REPLACE").values(number="x"),
        "replace in small letters": lambda m: (
            insert(m.Order).prefix_with("or replace").values(id=2, number="x")
        ),
        "update or replace": lambda m: update(m.Order).prefix_with("OR REPLACE").values(number="x"),
        "replace of a two-step row": lambda m: (
            insert(m.Remark).prefix_with("OR REPLACE").values(id=2, line_id=1)
        ),
    },
    error=UnscopedStatementError,
    match="OR REPLACE on",
    only="sqlite",
)


def _upsert(session: Any, target: Any) -> Any:
    return {"sqlite": sqlite_insert, "postgresql": postgresql_insert}[
        session.get_bind().dialect.name
    ](target)


@FOREIGN(error=TenancyError, match="tenant", only="sqlite postgresql")
def given_away_by_an_upsert(session: Any, m: Any) -> None:
    session.execute(
        _upsert(session, m.Customer)
        .values(name="x", email="ada@example.com")
        .on_conflict_do_update(index_elements=["tenant_id", "email"], set_={"tenant_id": m.globex})
    )


@FOREIGN(error=TenancyError, match="tenant", only="sqlite postgresql")
def given_away_by_an_upsert_by_column(session: Any, m: Any) -> None:
    session.execute(
        _upsert(session, m.Customer)
        .values(name="x", email="ada@example.com")
        .on_conflict_do_update(
            index_elements=["tenant_id", "email"], set_={m.Customer.tenant_id: m.globex}
        )
    )


@FOREIGN(error=TenancyError, match="tenant", only="mariadb")
def given_away_on_a_duplicate_key(session: Any, m: Any) -> None:
    session.execute(
        mysql_insert(m.Customer)
        .values(name="x", email="ada@example.com")
        .on_duplicate_key_update(tenant_id=m.globex)
    )


@FOREIGN(error=TenancyError, match="tenant", only="mariadb")
def given_away_by_an_update_of_two_tables(session: Any, m: Any) -> None:
    session.execute(
        update(m.Order)
        .where(m.Order.customer_id == m.Customer.id)
        .values({m.Order.status: "x", m.Customer.tenant_id: m.globex})
    )


@FOREIGN(error=TenancyError, match="tenant", only="postgresql")
def given_away_in_a_cte(session: Any, m: Any) -> None:
    moved = update(m.Order).values(tenant_id=m.globex).returning(m.Order.id).cte()
    session.execute(select(moved.c.id))


@FOREIGN(error=TenancyError, match="tenant", only="postgresql")
def inserted_for_another_tenant_in_a_cte(session: Any, m: Any) -> None:
    new = insert(m.Tag).values(name="x", tenant_id=m.globex).returning(m.Tag.id).cte()
    session.execute(select(new.c.id))


def of_globex(session: Any, m: Any, cls: Any, key: Any) -> Any:
    """An object that globex loaded honestly, in a session of its own."""
    with tenant_scope(m.globex), Session(session.get_bind()) as other:
        found = other.get(cls, key)
        assert found is not None
        other.expunge_all()
        return found


@FOREIGN(error=CrossTenantAccessError, match="belongs to tenant")
def a_foreign_object_attached(session: Any, m: Any) -> None:
    session.add(of_globex(session, m, m.Order, 2))


@FOREIGN(error=TenancyError, match="tenant")
def a_foreign_object_deleted(session: Any, m: Any) -> None:
    session.delete(of_globex(session, m, m.Memo, 2))


@FOREIGN(error=TenancyError, match="tenant")
def a_foreign_object_merged(session: Any, m: Any) -> None:
    session.merge(of_globex(session, m, m.Order, 2))
    session.flush()


@FOREIGN(error=TenancyError, match="tenant")
def a_foreign_object_merged_without_load(session: Any, m: Any) -> None:
    session.merge(of_globex(session, m, m.Order, 2), load=False)


@FOREIGN(error=TenancyError, match="tenant")
def a_foreign_object_in_a_collection(session: Any, m: Any) -> None:
    customer = session.get(m.Customer, 1)
    customer.orders.append(of_globex(session, m, m.Order, 2))
    session.flush()


@FOREIGN(error=TenancyError, match="tenant")
def a_foreign_object_as_parent(session: Any, m: Any) -> None:
    order = session.get(m.Order, 1)
    order.customer = of_globex(session, m, m.Customer, 2)
    session.flush()


@FOREIGN(error=TenancyError, match="tenant")
def a_foreign_object_behind_a_new_one(session: Any, m: Any) -> None:
    session.add(m.Order(number="x", customer=of_globex(session, m, m.Customer, 2)))
    session.flush()


@FOREIGN(error=TenancyError, match="tenant")
def a_foreign_object_in_a_secondary(session: Any, m: Any) -> None:
    order = session.get(m.Order, 1)
    order.tags.append(of_globex(session, m, m.Tag, 2))
    session.flush()


@FOREIGN(error=TenancyError, match="tenant")
def a_foreign_object_through_an_association(session: Any, m: Any) -> None:
    user = session.get(m.User, 1)
    user.teams.append(of_globex(session, m, m.Team, 2))
    session.flush()


@POWERLESS
def a_foreign_object_bulk_saved(session: Any, m: Any) -> None:
    order = of_globex(session, m, m.Order, 2)
    order.amount = 1
    session.bulk_save_objects([order])


@FOREIGN(error=TenancyError, match="tenant")
def a_foreign_object_made_new(session: Any, m: Any) -> None:
    tag = of_globex(session, m, m.Tag, 2)
    make_transient(tag)
    tag.id = None
    session.add(tag)
    session.flush()


@FOREIGN(error=TenancyError, match="tenant")
def a_foreign_object_added_by_a_before_flush(session: Any, m: Any) -> None:
    def add(session: Any, *_: Any) -> None:
        session.add(m.Comment(body="x", tenant_id=m.globex))

    event.listen(session, "before_flush", add)
    session.add(m.Tag(name="x"))
    session.flush()


@FOREIGN(error=TenancyError, match="tenant")
def a_foreign_object_added_by_an_after_flush(session: Any, m: Any) -> None:
    def add(session: Any, *_: Any) -> None:
        session.execute(m.audit.insert().values(entry="x", who=m.globex))

    event.listen(session, "after_flush", add)
    session.add(m.Tag(name="x"))
    session.flush()


@FOREIGN(error=TenancyError, match="tenant")
def an_object_given_away_by_a_before_flush(session: Any, m: Any) -> None:
    def give_away(session: Any, *_: Any) -> None:
        for found in session.dirty:
            found.tenant_id = m.globex

    event.listen(session, "before_flush", give_away)
    session.get(m.Order, 1).amount = 1
    session.flush()


@FOREIGN(error=TenancyError, match="tenant")
def an_object_given_away_by_a_before_insert(session: Any, m: Any) -> None:
    def give_away(_: Any, __: Any, target: Any) -> None:
        target.tenant_id = m.globex

    event.listen(m.Label, "before_insert", give_away)
    try:
        session.add(m.Label(name="x"))
        session.flush()
    finally:
        event.remove(m.Label, "before_insert", give_away)


@FOREIGN(error=TenancyError, match="tenant")
def an_object_given_away_by_a_before_update(session: Any, m: Any) -> None:
    def give_away(_: Any, __: Any, target: Any) -> None:
        target.tenant_id = m.globex

    event.listen(m.Label, "before_update", give_away)
    try:
        session.get(m.Label, 1).name = "x"
        session.flush()
    finally:
        event.remove(m.Label, "before_update", give_away)


def _reference(name: str, run: Any, **options: Any) -> None:
    options.setdefault("match", "does not belong to the current tenant")
    REFERENCES(run, name=name, error=CrossTenantReferenceError, **options)


for _name, _build in {
    "a foreign customer": lambda m: m.Order(number="x", customer_id=2),
    "a foreign order of a line": lambda m: m.LineItem(order_id=2),
    "a foreign product of a line": lambda m: m.LineItem(order_id=1, product_id=2),
    "a foreign line of a remark": lambda m: m.Remark(line_id=2),
    "a foreign parent in a tree": lambda m: m.Category(name="x", parent_id=2),
    "a foreign team of an association": lambda m: m.Membership(user_id=5, team_id=2),
    "a foreign user of an association": lambda m: m.Membership(user_id=2, team_id=5),
    "a foreign team of a joined class": lambda m: m.Engineer(name="x", team_id=2),
    "a foreign manager": lambda m: m.Project(name="x", manager_id=8),
    "a foreign customer of a single-table class": lambda m: m.Vehicle(customer_id=2),
    "a foreign order of a concrete class": lambda m: m.CardPayment(order_id=2),
    "a foreign order of an imperative class": lambda m: m.Ticket(order_id=2),
    "a foreign order of an invoice": lambda m: m.Invoice(order_id=12),
}.items():
    _reference(f"{_name} added", _flushed(_build))


@REFERENCES(error=CrossTenantReferenceError, match="does not belong to the current tenant")
def a_reference_changed(session: Any, m: Any) -> None:
    session.get(m.Order, 1).customer_id = 2
    session.flush()


@REFERENCES(error=CrossTenantReferenceError, match="does not belong to the current tenant")
def one_reference_among_many(session: Any, m: Any) -> None:
    session.add_all([m.Order(number=f"r{n}", customer_id=2 if n == 30 else 1) for n in range(50)])
    session.flush()


@REFERENCES(error=CrossTenantReferenceError, match="does not belong to the current tenant")
def a_reference_bulk_inserted(session: Any, m: Any) -> None:
    session.bulk_insert_mappings(m.LineItem, [{"order_id": 1}, {"order_id": 2}])


@REFERENCES(error=CrossTenantReferenceError, match="does not belong to the current tenant")
def a_reference_bulk_updated(session: Any, m: Any) -> None:
    session.bulk_update_mappings(m.Order, [{"id": 1, "customer_id": 2}])


@REFERENCES(error=CrossTenantReferenceError, match="does not belong to the current tenant")
def a_reference_bulk_saved(session: Any, m: Any) -> None:
    session.bulk_save_objects([m.Order(number="x", customer_id=2)])


@REFERENCES(error=CrossTenantReferenceError, match="does not belong to the current tenant")
def a_reference_in_many_sets(session: Any, m: Any) -> None:
    session.execute(insert(m.LineItem), [{"order_id": 1}, {"order_id": 3}, {"order_id": 2}])


@REFERENCES(error=CrossTenantReferenceError, match="does not belong to the current tenant")
def a_reference_updated_in_many_sets(session: Any, m: Any) -> None:
    orders = m.Order.__table__
    session.connection().execute(
        update(orders).where(orders.c.id == bindparam("key")).values(customer_id=bindparam("c")),
        [{"key": 1, "c": 3}, {"key": 3, "c": 2}],
    )


@REFERENCES(error=CrossTenantReferenceError, match="does not belong to the current tenant")
def a_reference_updated_by_primary_key(session: Any, m: Any) -> None:
    session.execute(update(m.Order), [{"id": 1, "customer_id": 2}])


@REFERENCES(error=CrossTenantReferenceError, match="does not belong to the current tenant")
def a_reference_in_a_secondary(session: Any, m: Any) -> None:
    session.connection().execute(m.order_tags.insert(), {"order_id": 1, "tag_id": 4})


@REFERENCES(error=CrossTenantReferenceError, match="does not belong to the current tenant")
def a_reference_in_a_secondary_with_a_tenant(session: Any, m: Any) -> None:
    session.connection().execute(m.order_labels.insert(), {"order_id": 2, "label_id": 5})


@REFERENCES(error=CrossTenantReferenceError, match="does not belong to the current tenant")
def a_reference_by_a_write_only_insert(session: Any, m: Any) -> None:
    session.execute(insert(m.Shipment), [{"order_id": 2, "carrier": "x"}])


def _references(named: dict[str, Any], **options: Any) -> None:
    for name, build in named.items():
        _reference(name, lambda session, m, build=build: session.execute(build(m)), **options)
        _reference(
            f"{name}, by the connection",
            lambda session, m, build=build: session.connection().execute(build(m)),
            twin=True,
            **options,
        )


_references(
    {
        "an insert that refers": lambda m: insert(m.Order).values(number="x", customer_id=2),
        "an insert of several that refers": lambda m: insert(m.LineItem).values(
            [{"order_id": 1}, {"order_id": 2}]
        ),
        "an insert that refers through a parent": lambda m: insert(m.Remark).values(line_id=2),
        "an update that refers": lambda m: update(m.Order).values(customer_id=2),
        "an update that refers through a parent": lambda m: (
            update(m.LineItem).where(m.LineItem.id == 1).values(order_id=2)
        ),
        "an insert from select that refers": lambda m: insert(m.LineItem).from_select(
            ["order_id"], select(literal(2, Integer))
        ),
        "an insert from a select of an unowned table that refers": lambda m: insert(
            m.LineItem
        ).from_select(
            ["order_id", "quantity"], select(literal(2, Integer), func.count(m.Country.code))
        ),
        "an update of a secondary that refers": lambda m: (
            m.order_tags.update().where(m.order_tags.c.order_id == 1).values(tag_id=2)
        ),
    }
)


@REFERENCES(
    error=CrossTenantReferenceError,
    match="does not belong to the current tenant",
    only="sqlite postgresql",
)
def a_reference_by_an_upsert(session: Any, m: Any) -> None:
    session.execute(
        _upsert(session, m.Order)
        .values(id=1, number="N-0", amount=1)
        .on_conflict_do_update(index_elements=["id"], set_={"customer_id": 2})
    )


@REFERENCES(
    error=CrossTenantReferenceError, match="does not belong to the current tenant", only="mariadb"
)
def a_reference_on_a_duplicate_key(session: Any, m: Any) -> None:
    session.execute(
        mysql_insert(m.Order)
        .values(id=1, number="N-0", amount=1)
        .on_duplicate_key_update(customer_id=2)
    )


@REFERENCES(error=CrossTenantReferenceError, match="cannot be told")
def a_reference_by_an_expression(session: Any, m: Any) -> None:
    session.execute(update(m.Order).values(customer_id=m.Order.id + 1))


def forged(session: Any, cls: Any, **key: Any) -> Any:
    """An object that claims to be stored, and whose row nobody looked at."""
    made = cls(**key)
    make_transient_to_detached(made)
    session.add(made)
    return made


@POWERLESS
def a_forged_object_changed(session: Any, m: Any) -> None:
    order = forged(session, m.Order, id=2)
    order.amount = 1
    session.flush()


@POWERLESS
def a_forged_object_with_my_tenant_changed(session: Any, m: Any) -> None:
    order = forged(session, m.Order, id=2, tenant_id=m.acme)
    order.amount = 1
    session.flush()


@POWERLESS
def a_forged_object_deleted(session: Any, m: Any) -> None:
    session.delete(forged(session, m.Memo, id=2, title="x"))
    session.flush()


@POWERLESS
def a_forged_two_step_object_changed(session: Any, m: Any) -> None:
    remark = forged(session, m.Remark, id=2)
    remark.body = "x"
    session.flush()


@POWERLESS
def a_forged_two_step_object_with_my_parent_changed(session: Any, m: Any) -> None:
    remark = forged(session, m.Remark, id=2, line_id=1)
    remark.body = "x"
    session.flush()


@POWERLESS
def a_forged_sub_class_changed(session: Any, m: Any) -> None:
    manager = forged(session, m.Manager, id=8, type="manager")
    manager.budget = 1
    session.flush()


@POWERLESS
def a_forged_sub_class_deleted(session: Any, m: Any) -> None:
    session.delete(forged(session, m.Manager, id=8, type="manager"))
    session.flush()


@POWERLESS
def a_forged_versioned_object_changed(session: Any, m: Any) -> None:
    document = forged(session, m.Document, id=2, version=1)
    document.title = "x"
    session.flush()


@POWERLESS
def a_forged_object_refreshed(session: Any, m: Any) -> None:
    order = forged(session, m.Order, id=2)
    session.refresh(order)


@POWERLESS
def a_forged_object_read(session: Any, m: Any) -> None:
    order = forged(session, m.Order, id=2)
    raise AssertionError(f"read {order.number}")


@POWERLESS
def a_forged_parent_of_a_new_child(session: Any, m: Any) -> None:
    order = forged(session, m.Order, id=2, tenant_id=m.acme)
    session.add(m.LineItem(order=order))
    session.flush()


@POWERLESS
def a_forged_parent_moved_into_a_collection(session: Any, m: Any) -> None:
    customer = session.get(m.Customer, 1)
    customer.orders.append(forged(session, m.Order, id=2, tenant_id=m.acme))
    session.flush()


@POWERLESS
def a_forged_object_in_a_secondary(session: Any, m: Any) -> None:
    mine = session.get(m.Order, 1)
    mine.tags.append(forged(session, m.Tag, id=2, tenant_id=m.acme))
    session.flush()


@POWERLESS
def a_forged_pair_in_a_secondary_removed(session: Any, m: Any) -> None:
    order = forged(session, m.Order, id=2, tenant_id=m.acme)
    order.tags = []
    session.flush()


@POWERLESS
def a_forged_object_bulk_saved(session: Any, m: Any) -> None:
    order = m.Order(id=2, tenant_id=m.acme)
    make_transient_to_detached(order)
    order.amount = 1
    session.bulk_save_objects([order])


@POWERLESS
def foreign_keys_bulk_updated(session: Any, m: Any) -> None:
    session.bulk_update_mappings(m.Order, [{"id": 2, "amount": 1}, {"id": 4, "amount": 1}])


@POWERLESS
def foreign_two_step_keys_bulk_updated(session: Any, m: Any) -> None:
    session.bulk_update_mappings(m.Remark, [{"id": 2, "body": "x"}])


@POWERLESS
def foreign_sub_class_keys_bulk_updated(session: Any, m: Any) -> None:
    session.bulk_update_mappings(m.Manager, [{"id": 8, "budget": 1}])


@POWERLESS
def foreign_keys_updated_by_primary_key(session: Any, m: Any) -> None:
    session.execute(update(m.Order), [{"id": 2, "amount": 1}])


@POWERLESS
def foreign_keys_updated_with_my_tenant(session: Any, m: Any) -> None:
    session.execute(update(m.Order), [{"id": 2, "amount": 1, "tenant_id": m.acme}])


@POWERLESS
def a_foreign_key_added(session: Any, m: Any) -> None:
    session.add(m.Order(id=2, number="x"))
    session.flush()


@POWERLESS
def a_foreign_key_merged(session: Any, m: Any) -> None:
    session.merge(m.Tag(id=2, name="x"))
    session.flush()


@POWERLESS
def a_foreign_key_merged_into_a_collection(session: Any, m: Any) -> None:
    session.merge(m.Order(id=1, number="N-0", lines=[m.LineItem(id=2, quantity=4)]))
    session.flush()


@POWERLESS
def a_foreign_key_inserted(session: Any, m: Any) -> None:
    session.execute(insert(m.Order).values(id=2, number="x"))


@POWERLESS
def a_primary_key_changed_to_a_foreign_one(session: Any, m: Any) -> None:
    session.get(m.Document, 1).id = 2
    session.flush()


@POWERLESS(only="sqlite postgresql")
def an_upsert_over_a_foreign_key(session: Any, m: Any) -> None:
    statement = _upsert(session, m.Order).values(id=2, number="x", amount=1)
    session.execute(
        statement.on_conflict_do_update(
            index_elements=["id"], set_={"amount": statement.excluded.amount}
        )
    )


@POWERLESS(only="sqlite postgresql")
def an_upsert_over_a_foreign_key_with_an_or(session: Any, m: Any) -> None:
    session.execute(
        _upsert(session, m.Order)
        .values(id=2, number="x", amount=1)
        .on_conflict_do_update(
            index_elements=["id"],
            set_={"amount": 1},
            where=(m.Order.amount > 0) | (m.Order.amount <= 0),
        )
    )


@POWERLESS(only="sqlite postgresql")
def an_upsert_over_a_foreign_key_returning(session: Any, m: Any) -> None:
    found = session.execute(
        _upsert(session, m.Order)
        .values(id=2, number="x", amount=1)
        .on_conflict_do_update(index_elements=["id"], set_={"amount": 1})
        .returning(m.Order.number, m.Order.note)
    )
    assert found.all() == []


@POWERLESS(only="sqlite postgresql")
def an_upsert_over_a_foreign_two_step_key(session: Any, m: Any) -> None:
    session.execute(
        _upsert(session, m.Remark)
        .values(id=2, line_id=1, body="x")
        .on_conflict_do_update(index_elements=["id"], set_={"body": "x"})
    )


@POWERLESS(only="sqlite postgresql")
def an_upsert_over_several_keys(session: Any, m: Any) -> None:
    session.execute(
        _upsert(session, m.Tag)
        .values([{"id": 2, "name": "x"}, {"id": 4, "name": "y"}])
        .on_conflict_do_update(index_elements=["id"], set_={"name": "z"})
    )


@POWERLESS(only="mariadb")
def a_duplicate_foreign_key(session: Any, m: Any) -> None:
    statement = mysql_insert(m.Order).values(id=2, number="x", amount=1)
    session.execute(statement.on_duplicate_key_update(amount=statement.inserted.amount, status="x"))


@POWERLESS(only="mariadb")
def a_duplicate_foreign_two_step_key(session: Any, m: Any) -> None:
    session.execute(
        mysql_insert(m.Remark)
        .values(id=2, line_id=1, body="x")
        .on_duplicate_key_update(body="x", line_id=1)
    )


@POWERLESS(only="mariadb")
def a_duplicate_foreign_key_that_sets_the_tenant(session: Any, m: Any) -> None:
    session.execute(
        mysql_insert(m.Tag)
        .values(id=2, name="x")
        .on_duplicate_key_update([("tenant_id", m.acme), ("name", "x")])
    )


@POWERLESS(only="sqlite")
def insert_or_ignore_of_a_foreign_key(session: Any, m: Any) -> None:
    session.execute(insert(m.Order).prefix_with("OR IGNORE").values(id=2, number="x"))


@POWERLESS(only="mariadb")
def insert_ignore_of_a_foreign_key(session: Any, m: Any) -> None:
    session.execute(insert(m.Order).prefix_with("IGNORE").values(id=2, number="x"))


@POWERLESS(only="mariadb")
def a_replace_spelled_as_a_prefix(session: Any, m: Any) -> None:
    session.execute(insert(m.Order).prefix_with("; REPLACE").values(id=2, number="x"))


@POWERLESS
def a_shared_row_changed(session: Any, m: Any) -> None:
    session.get(m.Setting, 90).value = "x"
    session.flush()


@POWERLESS
def a_shared_row_deleted(session: Any, m: Any) -> None:
    session.delete(session.get(m.Setting, 90))
    session.flush()


@POWERLESS
def a_shared_row_claimed(session: Any, m: Any) -> None:
    session.get(m.Setting, 90).tenant_id = m.acme
    session.flush()


@POWERLESS
def shared_rows_updated(session: Any, m: Any) -> None:
    session.execute(update(m.Setting).where(m.Setting.id.in_([90, 91])).values(value="x"))


@POWERLESS
def shared_rows_deleted(session: Any, m: Any) -> None:
    session.execute(delete(m.Setting).where(m.Setting.tenant_id.is_(None)))


@POWERLESS
def shared_rows_bulk_updated(session: Any, m: Any) -> None:
    session.bulk_update_mappings(m.Setting, [{"id": 90, "value": "x"}])


@POWERLESS
def a_customer_deleted_whom_others_refer_to(session: Any, m: Any) -> None:
    session.delete(session.get(m.Category, 1))
    session.flush()


@POWERLESS
def rows_named_by_tuples(session: Any, m: Any) -> None:
    session.execute(
        delete(m.Account).where(tuple_(m.Account.tenant_id, m.Account.number).in_([(m.globex, 3)]))
    )


@POWERLESS
def a_foreign_object_expired_and_changed(session: Any, m: Any) -> None:
    order = of_globex(session, m, m.Order, 2)
    make_transient(order)
    order.tenant_id = m.acme
    make_transient_to_detached(order)
    session.add(order)
    order.amount = 1
    session.flush()
