"""INSERT, UPDATE and DELETE statements, by the ORM and by Core, and upserts."""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    Integer,
    bindparam,
    column,
    delete,
    exists,
    func,
    insert,
    literal,
    select,
    table,
    text,
    update,
    values,
)
from sqlalchemy.dialects.mysql import insert as mysql_insert
from sqlalchemy.dialects.postgresql import insert as postgresql_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import aliased

from oracle import Shapes, bag, let, plain

WRITES = Shapes()


def statements(named: dict[str, Any], **options: Any) -> None:
    """Each statement is run by the session and by its connection; the rowcount must agree."""
    for name, build in named.items():
        WRITES(_by_session(build), name=name, **options)
        WRITES(_by_connection(build), name=f"{name}, by the connection", twin=True, **options)


def _by_session(build: Any) -> Any:
    return lambda session, m: _done(session.execute(build(m)))


def _by_connection(build: Any) -> Any:
    return lambda session, m: _done(session.connection().execute(build(m)))


def _done(found: Any) -> Any:
    return bag(found.all()) if getattr(found, "returns_rows", True) else found.rowcount


statements(
    {
        "insert values": lambda m: insert(m.Tag).values(name="i"),
        "insert values with the tenant": lambda m: insert(m.Tag).values(name="i", tenant_id=m.acme),
        "insert values by column": lambda m: insert(m.Tag).values({m.Tag.name: "i"}),
        "insert several values": lambda m: insert(m.Tag).values(
            [{"name": "i1"}, {"name": "i2"}, {"name": "i3"}]
        ),
        "insert several values with the tenant": lambda m: insert(m.Tag).values(
            [{"name": "i1", "tenant_id": m.acme}, {"name": "i2", "tenant_id": m.acme}]
        ),
        "insert through a parent": lambda m: insert(m.LineItem).values(order_id=1, quantity=2),
        "insert several values through a parent": lambda m: insert(m.LineItem).values(
            [{"order_id": 1, "quantity": 2}, {"order_id": 3, "quantity": 4}]
        ),
        "insert several values that refer": lambda m: insert(m.Order).values(
            [
                {"number": "v1", "customer_id": 1},
                {"number": "v2", "customer_id": 3},
                {"number": "v3", "customer_id": None},
            ]
        ),
        "insert through two parents": lambda m: insert(m.Remark).values(line_id=1, body="x"),
        "insert into a table": lambda m: m.Tag.__table__.insert().values(name="i"),
        "insert into a core table": lambda m: m.audit.insert().values(entry="i"),
        "insert into a core table with the tenant": lambda m: m.audit.insert().values(
            entry="i", who=m.acme
        ),
        "insert a row of a secondary": lambda m: m.order_tags.insert().values(order_id=1, tag_id=3),
        "insert a row of a secondary with a tenant": lambda m: m.order_labels.insert().values(
            order_id=1, label_id=5
        ),
        "insert an expression": lambda m: insert(m.Order).values(
            number=func.upper("abc"), amount=literal(3) + 4
        ),
        "insert a scalar subquery": lambda m: insert(m.Order).values(
            number="s", amount=select(func.max(m.Event.weight)).scalar_subquery()
        ),
        "insert from select": lambda m: insert(m.Tag).from_select(["name"], select(m.Label.name)),
        "insert from select of the same table": lambda m: insert(m.Tag).from_select(
            ["name"], select(func.upper(m.Tag.name)).where(m.Tag.id > 1)
        ),
        "insert from select of an unowned table": lambda m: insert(m.Tag).from_select(
            ["name"], select(m.Country.name)
        ),
        "insert from a select of a join": lambda m: insert(m.Tag).from_select(
            ["name"], select(m.Order.number).join(m.Order.customer).order_by(m.Order.id)
        ),
        "insert from select through a parent": lambda m: insert(m.LineItem).from_select(
            ["order_id", "quantity"], select(m.Order.id, m.Order.amount)
        ),
        "insert from a common table expression": lambda m: insert(m.Tag).from_select(
            ["name"], select(select(m.Label.name).cte("names").c.name)
        ),
        "insert under another attribute name": lambda m: insert(m.Subscription).values(plan="i"),
        "insert into a composite key": lambda m: insert(m.Account).values(number=88, balance=1),
        "insert an imperative class": lambda m: insert(m.Ticket).values(subject="i"),
        "insert into an unowned table from an owned one": lambda m: insert(m.Country).from_select(
            ["code", "name"],
            select(func.substr(m.Tag.name, 5, 1), m.Tag.name),
        ),
        "update everything": lambda m: update(m.Order).values(amount=1),
        "update with a criterion": lambda m: (
            update(m.Order).where(m.Order.status == "paid").values(amount=m.Order.amount + 1)
        ),
        "update one's own row": lambda m: update(m.Order).where(m.Order.id == 1).values(amount=1),
        "update by column keys": lambda m: update(m.Order).values({m.Order.amount: 1}),
        "update by string keys": lambda m: update(m.Order).values({"amount": 1, "status": "x"}),
        "update in order": lambda m: update(m.Order).ordered_values(
            (m.Order.amount, 1), (m.Order.status, "x")
        ),
        "update the tenant to what it is": lambda m: update(m.Order).values(
            tenant_id=m.acme, amount=1
        ),
        "update through a parent": lambda m: update(m.LineItem).values(quantity=1),
        "update through two parents": lambda m: update(m.Remark).values(body="x"),
        "update a sub table": lambda m: update(m.Manager.__table__).values(budget=1),
        "update a single-table sub class": lambda m: update(m.Vehicle).values(name="x"),
        "update a concrete class": lambda m: update(m.CardPayment.__table__).values(card="x"),
        "update under another tenant name": lambda m: update(m.Product).values(price=1),
        "update under another attribute name": lambda m: update(m.Subscription).values(plan="x"),
        "update a table": lambda m: m.Order.__table__.update().values(amount=1),
        "update a core table": lambda m: m.audit.update().values(entry="x"),
        "update with exists": lambda m: (
            update(m.Customer)
            .where(exists().where(m.Order.customer_id == m.Customer.id, m.Order.amount > 60))
            .values(name="x")
        ),
        "update with any": lambda m: (
            update(m.Customer).where(m.Customer.orders.any(m.Order.amount > 60)).values(name="x")
        ),
        "update with in": lambda m: (
            update(m.Customer)
            .where(m.Customer.id.in_(select(m.Order.customer_id)))
            .values(name="x")
        ),
        "update to a subquery": lambda m: update(m.Invoice).values(
            total=select(func.count(m.LineItem.id))
            .where(m.LineItem.order_id == m.Invoice.order_id)
            .scalar_subquery()
        ),
        "update to a case": lambda m: update(m.Order).values(
            amount=m.Order.amount * 2, status=func.upper(m.Order.status)
        ),
        "update the foreign key to one's own row": lambda m: (
            update(m.Order).where(m.Order.id == 1).values(customer_id=5)
        ),
        "update a natural key": lambda m: (
            update(m.Order).where(m.Order.number == "N-0").values(number="X-60")
        ),
        "update an unowned table by an owned one": lambda m: (
            update(m.Country)
            .where(m.Country.code.in_(select(m.Customer.country_code)))
            .values(name="x")
        ),
        "delete everything": lambda m: delete(m.Memo),
        "delete with a criterion": lambda m: delete(m.Memo).where(m.Memo.stars > 0),
        "delete through a parent": lambda m: delete(m.Remark),
        "delete through a parent with a criterion": lambda m: delete(m.Shipment).where(
            m.Shipment.id > 3
        ),
        "delete a secondary": lambda m: delete(m.order_tags),
        "delete a secondary with a tenant": lambda m: delete(m.order_labels),
        "delete a row of a secondary": lambda m: delete(m.order_tags).where(
            m.order_tags.c.tag_id == 1
        ),
        "delete an association object": lambda m: delete(m.Membership),
        "delete a core table": lambda m: m.audit.delete(),
        "delete an imperative class": lambda m: delete(m.Ticket),
        "delete with exists": lambda m: delete(m.Ticket).where(
            exists().where(m.Order.id == m.Ticket.order_id, m.Order.amount > 60)
        ),
        "delete with in": lambda m: delete(m.Event).where(
            m.Event.order_id.in_(select(m.Order.id).where(m.Order.status == "paid"))
        ),
        "delete with a composite key": lambda m: delete(m.Transfer).where(
            m.Transfer.account_number == 1
        ),
        "delete a single-table sub class": lambda m: delete(m.Vehicle),
        "delete a concrete class": lambda m: delete(m.CardPayment.__table__),
        "delete own settings": lambda m: delete(m.Setting).where(m.Setting.tenant_id == m.acme),
    }
)

statements(
    {
        "insert an unowned row": lambda m: insert(m.Country).values(code="YY", name="y"),
        "update an unowned table": lambda m: update(m.Country).values(name="x"),
    },
    without_tenant="same",
)

statements(
    {
        "update another tenant's row": lambda m: (
            update(m.Order).where(m.Order.id == 2).values(amount=1)
        ),
        "update a row of the other tenant by name": lambda m: (
            update(m.Order).where(m.Order.tenant_id == m.globex).values(amount=1)
        ),
        "update another tenant's two-step row": lambda m: (
            update(m.Remark).where(m.Remark.id == 2).values(body="x")
        ),
        "delete another tenant's row": lambda m: delete(m.Memo).where(m.Memo.id == 2),
        "delete another tenant's rows by name": lambda m: delete(m.Memo).where(
            m.Memo.tenant_id == m.globex
        ),
        "delete another tenant's secondary row": lambda m: delete(m.order_tags).where(
            m.order_tags.c.order_id == 2
        ),
        "delete another tenant's sub row": lambda m: delete(m.Manager.__table__).where(
            m.Manager.__table__.c.id == 60
        ),
    },
    changes=False,
)

statements(
    {
        "insert from a union": lambda m: insert(m.Tag).from_select(
            ["name"],
            select(m.Label.name).union_all(select(m.Team.name)),
            include_defaults=False,
        ),
    },
    families="str int",
)

statements(
    {
        "insert returning": lambda m: (
            insert(m.Tag).values(name="i").returning(m.Tag.id, m.Tag.name)
        ),
        "insert returning the tenant": lambda m: (
            insert(m.Order).values(number="r").returning(m.Order.number, m.Order.status)
        ),
        "insert several values returning": lambda m: (
            insert(m.Tag).values([{"name": "i1"}, {"name": "i2"}]).returning(m.Tag.name)
        ),
        "insert from select returning": lambda m: (
            insert(m.Tag).from_select(["name"], select(m.Label.name)).returning(m.Tag.name)
        ),
        "insert through a parent returning": lambda m: (
            insert(m.LineItem).values(order_id=1, quantity=2).returning(m.LineItem.quantity)
        ),
        "delete returning": lambda m: delete(m.Memo).returning(m.Memo.id, m.Memo.title),
        "delete through a parent returning": lambda m: delete(m.Remark).returning(m.Remark.body),
    }
)

statements(
    {
        "update returning": lambda m: (
            update(m.Order).values(amount=m.Order.amount + 1).returning(m.Order.id, m.Order.amount)
        ),
        "update through a parent returning": lambda m: (
            update(m.LineItem).values(quantity=1).returning(m.LineItem.id)
        ),
        "update from another table": lambda m: (
            update(m.Order)
            .where(m.Order.customer_id == m.Customer.id, m.Customer.name == "Ada")
            .values(status=m.Customer.name)
        ),
        "update from a self join": lambda m: let(
            lambda p: update(m.Category).where(m.Category.parent_id == p.id).values(name=p.name),
            aliased(m.Category),
        ),
        "update from a derived table": lambda m: let(
            lambda s: (
                update(m.Customer)
                .where(m.Customer.id == s.c.customer_id)
                .values(email=func.coalesce(s.c.most, "none"))
            ),
            select(m.Order.customer_id, func.max(m.Order.number).label("most"))
            .group_by(m.Order.customer_id)
            .subquery(),
        ),
        "update from a two-step table": lambda m: (
            update(m.LineItem)
            .where(m.Remark.line_id == m.LineItem.id, m.Remark.body == "remark 1")
            .values(quantity=m.Remark.id)
        ),
        "update from an unowned table": lambda m: (
            update(m.Customer)
            .where(m.Customer.country_code == m.Country.code)
            .values(name=m.Country.name)
        ),
        "update an unowned table from an owned one": lambda m: (
            update(m.Country)
            .where(m.Customer.country_code == m.Country.code, m.Customer.name == "Ada")
            .values(name=m.Customer.name)
        ),
        "update with a common table expression": lambda m: (
            update(m.Order)
            .where(m.Order.id.in_(select(select(m.Event.order_id).cte("busy").c.order_id)))
            .values(amount=0)
        ),
        "delete with a common table expression": lambda m: delete(m.Memo).where(
            m.Memo.id.in_(select(select(m.Tag.id).cte("ids").c.id))
        ),
        "insert into a union of both": lambda m: insert(m.Country).from_select(
            ["code", "name"],
            select(func.substr(m.User.name, 6, 1), m.User.name),
        ),
    },
    only="sqlite postgresql",
)

statements(
    {
        "update several tables": lambda m: (
            update(m.Order)
            .where(m.Order.customer_id == m.Customer.id)
            .values({m.Order.status: "x"})
        ),
        "update both of two tables": lambda m: (
            update(m.Order)
            .where(m.Order.customer_id == m.Customer.id)
            .values({m.Order.status: "x", m.Customer.email: m.Order.number})
        ),
        "delete low priority": lambda m: delete(m.Memo).prefix_with("LOW_PRIORITY"),
    },
    only="mariadb",
)

statements(
    {
        "delete using another table": lambda m: (
            delete(m.Event)
            .where(m.Event.order_id == m.Order.id, m.Order.status == "paid")
            .execution_options(is_delete_using=True)
        ),
        "delete using two tables": lambda m: (
            delete(m.Remark)
            .where(
                m.Remark.line_id == m.LineItem.id,
                m.LineItem.order_id == m.Order.id,
                m.Order.status == "paid",
            )
            .execution_options(is_delete_using=True)
        ),
        "delete using an unowned table": lambda m: (
            delete(m.Asset)
            .where(m.Asset.customer_id == m.Customer.id, m.Customer.country_code == m.Country.code)
            .execution_options(is_delete_using=True)
        ),
    },
    only="postgresql mariadb",
)


def _archive(m: Any) -> Any:
    gone = delete(m.Memo).returning(m.Memo.title).cte("gone")
    return insert(m.audit).from_select(["entry"], select(gone.c.title), include_defaults=False)


def _inserted(m: Any) -> Any:
    new = insert(m.Tag).values(name="by cte").returning(m.Tag.id, m.Tag.name).cte("new")
    return select(new.c.name)


def _inserted_and_joined(m: Any) -> Any:
    new = (
        insert(m.Order).values(number="by cte", customer_id=1).returning(m.Order.customer_id).cte()
    )
    return select(m.Customer.name).join(new, new.c.customer_id == m.Customer.id)


def _updated(m: Any) -> Any:
    changed = (
        update(m.Order)
        .where(m.Order.status == "paid")
        .values(amount=0)
        .returning(m.Order.id)
        .cte("changed")
    )
    return select(func.count(changed.c.id), func.max(changed.c.id))


def _unused_update(m: Any) -> Any:
    changed = update(m.Order).values(amount=0).cte("changed")
    return select(m.Tag.id).add_cte(changed)


def _unused_delete(m: Any) -> Any:
    return select(m.Tag.id).add_cte(delete(m.Memo).cte("gone"))


statements(
    {
        "delete in a cte that feeds an insert": _archive,
        "insert in a cte": _inserted,
        "insert in a cte, joined": _inserted_and_joined,
        "update in a cte": _updated,
        "update in a cte that nobody reads": _unused_update,
        "delete in a cte that nobody reads": _unused_delete,
        "update only": lambda m: (
            update(m.Order).with_hint("ONLY", m.Order, "postgresql").values(amount=1)
        ),
        "update from a values list": lambda m: let(
            lambda v: update(m.Order).where(m.Order.id == v.c.id).values(amount=v.c.n),
            values(column("id", Integer), column("n", Integer), name="v").data(
                [(1, 11), (2, 22), (3, 33)]
            ),
        ),
        "update to a row of a lateral": lambda m: update(m.Order).values(
            amount=select(func.count(m.LineItem.id))
            .where(m.LineItem.order_id == m.Order.id)
            .scalar_subquery()
        ),
    },
    only="postgresql",
)

statements(
    {
        "insert into an ad-hoc table": lambda m: (
            table(m.prefix + "tags", column("name"), column("tenant_id"))
            .insert()
            .values(name="ad hoc")
        ),
        "insert into an ad-hoc table without the tenant column": lambda m: (
            table(m.prefix + "tags", column("name")).insert().values(name="ad hoc")
        ),
        "update an ad-hoc table": lambda m: (
            table(m.prefix + "orders", column("amount")).update().values(amount=1)
        ),
        "delete from an ad-hoc table": lambda m: table(m.prefix + "memos").delete(),
        "update with a text criterion": lambda m: (
            update(m.Order).where(text("amount > 0 OR 1 = 1")).values(amount=1)
        ),
        "delete with a text criterion": lambda m: delete(m.Memo).where(text("stars > 0 OR 1 = 1")),
        "update with a literal value": lambda m: update(m.Order).values(amount=text("amount + 1")),
    },
    only="sqlite postgresql mariadb",
    families="str",
)


@WRITES
def insert_many_parameter_sets(session: Any, m: Any) -> Any:
    session.execute(insert(m.Tag), [{"name": f"m{n}"} for n in range(50)])


@WRITES
def insert_many_with_the_tenant(session: Any, m: Any) -> Any:
    session.execute(insert(m.Tag), [{"name": f"m{n}", "tenant_id": m.acme} for n in range(3)])


@WRITES
def insert_many_with_different_keys(session: Any, m: Any) -> Any:
    session.execute(
        insert(m.Order),
        [{"number": "m1"}, {"number": "m2", "amount": 3}, {"number": "m3", "status": "x"}],
    )


@WRITES
def insert_many_with_render_nulls(session: Any, m: Any) -> Any:
    session.execute(
        insert(m.Order).execution_options(render_nulls=True),
        [{"number": "m1", "customer_id": None}, {"number": "m2", "customer_id": 1}],
    )


@WRITES
def insert_many_returning(session: Any, m: Any) -> Any:
    found = session.execute(
        insert(m.Tag).returning(m.Tag.name), [{"name": f"m{n}"} for n in range(5)]
    )
    return bag(found.scalars())


@WRITES
def insert_many_returning_in_order(session: Any, m: Any) -> Any:
    found = session.scalars(
        insert(m.Tag).returning(m.Tag, sort_by_parameter_order=True),
        [{"name": f"m{n}"} for n in range(5)],
    )
    return [plain(tag) for tag in found]


@WRITES
def insert_many_of_a_hierarchy(session: Any, m: Any) -> Any:
    session.execute(insert(m.Manager), [{"name": "a", "budget": 1}, {"name": "b", "budget": 2}])


@WRITES
def insert_many_of_a_hierarchy_returning(session: Any, m: Any) -> Any:
    found = session.scalars(
        insert(m.Engineer).returning(m.Engineer), [{"name": "a", "language": "c"}]
    )
    return [plain(engineer) for engineer in found]


@WRITES
def insert_many_through_a_parent(session: Any, m: Any) -> Any:
    session.execute(insert(m.LineItem), [{"order_id": key, "quantity": 1} for key in (1, 3, 5)])


@WRITES
def insert_many_with_an_sql_value(session: Any, m: Any) -> Any:
    session.execute(
        insert(m.Order).values(amount=select(func.max(m.Event.weight)).scalar_subquery()),
        [{"number": "m1"}, {"number": "m2"}],
    )


@WRITES
def insert_many_by_the_connection(session: Any, m: Any) -> Any:
    found = session.connection().execute(insert(m.audit), [{"entry": f"m{n}"} for n in range(50)])
    return found.rowcount


@WRITES
def insert_many_of_a_secondary(session: Any, m: Any) -> Any:
    session.connection().execute(
        m.order_tags.insert(), [{"order_id": 1, "tag_id": 3}, {"order_id": 1, "tag_id": 5}]
    )


@WRITES
def insert_many_of_a_secondary_with_a_tenant(session: Any, m: Any) -> Any:
    session.connection().execute(
        m.order_labels.insert(), [{"order_id": 1, "label_id": 3}, {"order_id": 1, "label_id": 5}]
    )


@WRITES
def insert_with_a_parameter(session: Any, m: Any) -> Any:
    session.connection().execute(
        m.audit.insert().values(entry=bindparam("what")), [{"what": "a"}, {"what": "b"}]
    )


@WRITES
def insert_with_parameters_beside_values(session: Any, m: Any) -> Any:
    session.connection().execute(insert(m.Order.__table__).values(amount=4), {"number": "p"})


@WRITES
def insert_and_the_primary_key(session: Any, m: Any) -> Any:
    found = session.connection().execute(insert(m.Tag.__table__).values(name="k"))
    return tuple(found.inserted_primary_key)


@WRITES
def insert_inline(session: Any, m: Any) -> Any:
    session.connection().execute(insert(m.Tag.__table__).inline().values(name="k"))


@WRITES
def insert_defaults_only(session: Any, m: Any) -> Any:
    session.connection().execute(insert(m.audit))


@WRITES
def insert_by_the_engine(session: Any, m: Any) -> Any:
    session.get_bind()
    connection = session.connection()
    connection.execute(m.audit.insert(), {"entry": "e"})
    return connection.execute(m.audit.insert(), {"entry": "f", "who": m.acme}).rowcount


@WRITES
def update_many_by_primary_key(session: Any, m: Any) -> Any:
    session.execute(update(m.Order), [{"id": 1, "amount": 1}, {"id": 3, "status": "x"}])


@WRITES
def update_many_of_a_hierarchy(session: Any, m: Any) -> Any:
    session.execute(update(m.Senior), [{"id": 5, "name": "x", "language": "y", "level": 8}])


@WRITES
def update_many_through_a_parent(session: Any, m: Any) -> Any:
    session.execute(update(m.LineItem), [{"id": 1, "quantity": 11}, {"id": 3, "quantity": 12}])


@WRITES
def update_many_by_a_parameter(session: Any, m: Any) -> Any:
    found = session.connection().execute(
        update(m.Order.__table__)
        .where(m.Order.__table__.c.id == bindparam("key"))
        .values(amount=bindparam("n")),
        [{"key": 1, "n": 5}, {"key": 2, "n": 6}, {"key": 3, "n": 7}],
    )
    return found.rowcount


@WRITES
def delete_many_by_a_parameter(session: Any, m: Any) -> Any:
    found = session.connection().execute(
        delete(m.Memo).where(m.Memo.id == bindparam("key")), [{"key": 1}, {"key": 2}, {"key": 3}]
    )
    return found.rowcount


@WRITES
def update_with_the_parameters_apart(session: Any, m: Any) -> Any:
    session.connection().execute(update(m.Order.__table__), {"amount": 3})


def _synchronized(how: Any, change: Any) -> Any:
    def shape(session: Any, m: Any) -> Any:
        kept = session.scalars(select(m.Order).order_by(m.Order.id)).all()
        session.execute(change(m), execution_options={"synchronize_session": how})
        return [(order.id, order.amount, order.status) for order in kept if order in session]

    return shape


for _how in ("auto", "evaluate", "fetch", False):
    WRITES(
        _synchronized(
            _how, lambda m: update(m.Order).where(m.Order.status == "paid").values(amount=1)
        ),
        name=f"update synchronized by {_how}",
    )
    WRITES(
        _synchronized(_how, lambda m: update(m.Order).values(amount=m.Order.amount + 1)),
        name=f"update to an expression synchronized by {_how}",
    )


def _deleted(how: Any) -> Any:
    def shape(session: Any, m: Any) -> Any:
        kept = session.scalars(select(m.Memo).order_by(m.Memo.id)).all()
        found = session.execute(
            delete(m.Memo).where(m.Memo.stars > 0),
            execution_options={"synchronize_session": how},
        )
        return found.rowcount, [memo in session for memo in kept]

    return shape


for _how in ("auto", "evaluate", "fetch", False):
    WRITES(_deleted(_how), name=f"delete synchronized by {_how}")


# SQLAlchemy itself does this only since 2.0.39, when objects of the class are in the session.
@WRITES(only="sqlite postgresql", fails=NotImplementedError)
def update_returning_entities(session: Any, m: Any) -> Any:
    kept = session.scalars(select(m.Order)).all()
    found = session.scalars(
        update(m.Order).where(m.Order.amount > 60).values(status="x").returning(m.Order)
    )
    return bag(found), len(kept)


@WRITES
def delete_returning_entities(session: Any, m: Any) -> Any:
    return bag(session.scalars(delete(m.Memo).returning(m.Memo)))


@WRITES(only="sqlite postgresql")
def update_of_a_hierarchy_by_the_base(session: Any, m: Any) -> Any:
    session.execute(update(m.Employee).where(m.Employee.type == "manager").values(salary=1))


@WRITES
def query_update(session: Any, m: Any) -> Any:
    return session.query(m.Order).filter(m.Order.amount > 60).update({"status": "x"})


@WRITES
def query_update_by_column(session: Any, m: Any) -> Any:
    return session.query(m.Order).update(
        {m.Order.amount: m.Order.amount + 1}, synchronize_session="fetch"
    )


@WRITES
def query_delete(session: Any, m: Any) -> Any:
    return session.query(m.Memo).filter(m.Memo.stars > 0).delete(synchronize_session=False)


@WRITES
def query_delete_everything(session: Any, m: Any) -> Any:
    return session.query(m.Ticket).delete()


@WRITES(changes=False)
def query_update_of_another_tenants_row(session: Any, m: Any) -> Any:
    return session.query(m.Order).filter_by(id=2).update({"amount": 1})


@WRITES(fails=IntegrityError, changes=False)
def insert_of_ones_own_natural_key(session: Any, m: Any) -> Any:
    session.execute(insert(m.Order).values(number="N-0"))


@WRITES
def delete_with_a_returning_that_is_read_later(session: Any, m: Any) -> Any:
    found = session.connection().execute(delete(m.Memo.__table__).returning(m.Memo.id))
    session.add(m.Tag(name="meanwhile"))
    return bag(found.scalars())


@WRITES(only="sqlite postgresql")
def update_of_an_alias(session: Any, m: Any) -> Any:
    order = aliased(m.Order)
    session.execute(
        update(m.Customer)
        .where(m.Customer.id == order.customer_id, order.amount > 60)
        .values(name=order.number)
        .execution_options(synchronize_session=False)
    )


def _upsert(session: Any, target: Any) -> Any:
    return {"sqlite": sqlite_insert, "postgresql": postgresql_insert}[
        session.get_bind().dialect.name
    ](target)


@WRITES(only="sqlite postgresql")
def upsert_that_updates(session: Any, m: Any) -> Any:
    statement = _upsert(session, m.Customer).values(name="up", email="ada@example.com")
    found = session.execute(
        statement.on_conflict_do_update(
            index_elements=["tenant_id", "email"], set_={"name": statement.excluded.name}
        )
    )
    return found.rowcount


@WRITES(only="sqlite postgresql")
def upsert_that_inserts(session: Any, m: Any) -> Any:
    statement = _upsert(session, m.Customer).values(name="up", email="spy@example.com")
    session.execute(
        statement.on_conflict_do_update(
            index_elements=["tenant_id", "email"], set_={"name": statement.excluded.name}
        )
    )


@WRITES(only="sqlite postgresql")
def upsert_of_many(session: Any, m: Any) -> Any:
    statement = _upsert(session, m.Customer).values(
        [{"name": "up", "email": f"{name}@example.com"} for name in ("ada", "new", "spy")]
    )
    session.execute(
        statement.on_conflict_do_update(
            index_elements=["tenant_id", "email"], set_={"name": statement.excluded.name}
        )
    )


@WRITES(only="sqlite postgresql")
def upsert_by_executemany(session: Any, m: Any) -> Any:
    statement = _upsert(session, m.Customer)
    session.execute(
        statement.on_conflict_do_update(
            index_elements=["tenant_id", "email"], set_={"name": statement.excluded.name}
        ),
        [{"name": "up", "email": f"{name}@example.com"} for name in ("ada", "new", "spy")],
    )


@WRITES(only="sqlite postgresql")
def upsert_with_a_criterion(session: Any, m: Any) -> Any:
    statement = _upsert(session, m.Customer).values(
        [{"name": "up", "email": f"{name}@example.com"} for name in ("ada", "bob")]
    )
    session.execute(
        statement.on_conflict_do_update(
            index_elements=["tenant_id", "email"],
            set_={"name": statement.excluded.name},
            where=m.Customer.name == "Ada",
        )
    )


@WRITES(only="sqlite postgresql")
def upsert_with_an_or_as_criterion(session: Any, m: Any) -> Any:
    statement = _upsert(session, m.Order).values(id=1, number="N-0", amount=1)
    session.execute(
        statement.on_conflict_do_update(
            index_elements=["id"],
            set_={"amount": statement.excluded.amount},
            where=(m.Order.amount > 0) | (m.Order.amount < 1),
        )
    )


@WRITES(only="sqlite postgresql")
def upsert_by_primary_key(session: Any, m: Any) -> Any:
    statement = _upsert(session, m.Order).values(id=1, number="N-0", amount=1)
    session.execute(statement.on_conflict_do_update(index_elements=["id"], set_={"amount": 77}))


@WRITES(only="sqlite postgresql")
def upsert_that_sets_a_reference(session: Any, m: Any) -> Any:
    session.execute(
        _upsert(session, m.Order)
        .values(id=1, number="N-0", customer_id=1)
        .on_conflict_do_update(index_elements=["id"], set_={"customer_id": 3})
    )


@WRITES(only="mariadb")
def on_duplicate_key_that_sets_a_reference(session: Any, m: Any) -> Any:
    session.execute(
        mysql_insert(m.Order)
        .values(id=1, number="N-0", customer_id=1)
        .on_duplicate_key_update(customer_id=3)
    )


@WRITES(only="sqlite postgresql")
def upsert_returning(session: Any, m: Any) -> Any:
    statement = _upsert(session, m.Customer).values(name="up", email="ada@example.com")
    found = session.scalars(
        statement.on_conflict_do_update(
            index_elements=["tenant_id", "email"], set_={"name": statement.excluded.name}
        ).returning(m.Customer),
        execution_options={"populate_existing": True},
    )
    return [plain(customer) for customer in found]


@WRITES(only="sqlite postgresql")
def upsert_from_select(session: Any, m: Any) -> Any:
    statement = _upsert(session, m.Customer).from_select(
        ["name", "email"],
        select(m.Order.number, m.Customer.email)
        .join(m.Order.customer)
        .where(m.Order.id.in_([1, 3, 2])),
    )
    session.execute(
        statement.on_conflict_do_update(
            index_elements=["tenant_id", "email"], set_={"name": statement.excluded.name}
        )
    )


@WRITES(only="sqlite postgresql")
def upsert_of_a_composite_key(session: Any, m: Any) -> Any:
    statement = _upsert(session, m.Account).values(number=1, balance=6)
    session.execute(
        statement.on_conflict_do_update(
            index_elements=["tenant_id", "number"], set_={"balance": statement.excluded.balance}
        )
    )


@WRITES(only="sqlite postgresql")
def upsert_through_a_parent(session: Any, m: Any) -> Any:
    statement = _upsert(session, m.LineItem).values(id=1, order_id=1, quantity=6)
    session.execute(
        statement.on_conflict_do_update(
            index_elements=["id"], set_={"quantity": statement.excluded.quantity}
        )
    )


@WRITES(only="sqlite postgresql", changes=False)
def upsert_that_does_nothing(session: Any, m: Any) -> Any:
    found = session.execute(
        _upsert(session, m.Customer)
        .values(name="up", email="ada@example.com")
        .on_conflict_do_nothing()
    )
    return found.rowcount


@WRITES(only="sqlite postgresql")
def upsert_that_does_nothing_for_one(session: Any, m: Any) -> Any:
    session.execute(
        _upsert(session, m.Customer)
        .values([{"name": "up", "email": e} for e in ("ada@example.com", "spy@example.com")])
        .on_conflict_do_nothing(index_elements=["tenant_id", "email"])
    )


@WRITES(only="sqlite", series=(2, 1))
def upsert_that_says_what_to_do_about_each_key(session: Any, m: Any) -> Any:
    statement = sqlite_insert(m.Customer).values(
        [
            {"id": 1, "name": "up", "email": "new@example.com"},
            {"id": 77, "name": "up", "email": "ada@example.com"},
            {"id": 78, "name": "up", "email": "spy@example.com"},
        ]
    )
    session.execute(
        statement.on_conflict_do_update(index_elements=["id"], set_={"name": "by id"})
        .on_conflict_do_update(index_elements=["tenant_id", "email"], set_={"name": "by email"})
        .on_conflict_do_nothing()
    )


@WRITES(only="sqlite postgresql", changes=False)
def upsert_of_a_secondary(session: Any, m: Any) -> Any:
    session.execute(
        _upsert(session, m.order_tags).values(order_id=1, tag_id=1).on_conflict_do_nothing()
    )


@WRITES(only="sqlite postgresql", without_tenant="same")
def upsert_of_an_unowned_table(session: Any, m: Any) -> Any:
    session.execute(
        _upsert(session, m.Country)
        .values(code="NL", name="Holland")
        .on_conflict_do_update(index_elements=["code"], set_={"name": "Holland"})
    )


@WRITES(only="mariadb", changes=False)
def insert_ignore_of_ones_own_key(session: Any, m: Any) -> Any:
    return session.execute(insert(m.Order).prefix_with("IGNORE").values(number="N-0")).rowcount


@WRITES(only="sqlite", changes=False)
def insert_or_ignore_of_ones_own_key(session: Any, m: Any) -> Any:
    session.execute(insert(m.Order).prefix_with("OR IGNORE").values(number="N-0"))


@WRITES(only="mariadb")
def on_duplicate_key_that_updates(session: Any, m: Any) -> Any:
    statement = mysql_insert(m.Customer).values(name="up", email="ada@example.com")
    session.execute(statement.on_duplicate_key_update(name=statement.inserted.name))


@WRITES(only="mariadb")
def on_duplicate_key_that_inserts(session: Any, m: Any) -> Any:
    statement = mysql_insert(m.Customer).values(name="up", email="spy@example.com")
    session.execute(statement.on_duplicate_key_update(name=statement.inserted.name))


@WRITES(only="mariadb")
def on_duplicate_key_of_many(session: Any, m: Any) -> Any:
    statement = mysql_insert(m.Customer).values(
        [{"name": "up", "email": f"{name}@example.com"} for name in ("ada", "new", "spy")]
    )
    session.execute(statement.on_duplicate_key_update(name=statement.inserted.name))


@WRITES(only="mariadb")
def on_duplicate_key_by_executemany(session: Any, m: Any) -> Any:
    statement = mysql_insert(m.Customer)
    session.execute(
        statement.on_duplicate_key_update(name=statement.inserted.name),
        [{"name": "up", "email": f"{name}@example.com"} for name in ("ada", "new")],
    )


@WRITES(only="mariadb")
def on_duplicate_key_of_two_columns(session: Any, m: Any) -> Any:
    statement = mysql_insert(m.Order).values(number="N-0", amount=1, status="x")
    session.execute(
        statement.on_duplicate_key_update(
            [("amount", statement.inserted.amount + 1), ("status", func.upper("up"))]
        )
    )


@WRITES(only="mariadb")
def on_duplicate_key_by_primary_key(session: Any, m: Any) -> Any:
    statement = mysql_insert(m.Order).values(id=1, number="N-0", amount=1)
    session.execute(statement.on_duplicate_key_update(amount=88))


@WRITES(only="mariadb")
def on_duplicate_key_through_a_parent(session: Any, m: Any) -> Any:
    statement = mysql_insert(m.LineItem).values(id=1, order_id=1, quantity=6)
    session.execute(statement.on_duplicate_key_update(quantity=statement.inserted.quantity))
