"""What applications do around their statements: events, extensions, DDL, settings."""

from __future__ import annotations

from typing import Any

from sqlalchemy import MetaData, column, event, func, inspect, select, table, text, update
from sqlalchemy.ext.automap import automap_base
from sqlalchemy.orm import Session, aliased, selectinload, with_loader_criteria

from oracle import Shapes, bag, plain

HABITS = Shapes()
LEGITIMATE = Shapes()


@HABITS
def a_listener_that_adds_criteria(session: Any, m: Any) -> Any:
    def only_paid(state: Any) -> None:
        if state.is_select:
            state.statement = state.statement.options(
                with_loader_criteria(m.Order, m.Order.status == "paid", include_aliases=True)
            )

    event.listen(session, "do_orm_execute", only_paid)
    other = aliased(m.Order)
    return (
        bag(session.scalars(select(m.Order.id))),
        bag(session.scalars(select(other.id))),
        bag(
            (one.id, [order.id for order in one.orders])
            for one in session.scalars(select(m.Customer).options(selectinload(m.Customer.orders)))
        ),
    )


@HABITS
def a_listener_that_answers_itself(session: Any, m: Any) -> Any:
    def freeze(state: Any) -> Any:
        if state.is_select and not state.is_column_load and not state.is_relationship_load:
            return state.invoke_statement().freeze()()

        return None

    event.listen(session, "do_orm_execute", freeze)
    return bag(session.scalars(select(m.Order)))


@HABITS
def a_listener_that_comments_the_sql(session: Any, m: Any) -> Any:
    def comment(_: Any, __: Any, sql: str, parameters: Any, *___: Any) -> Any:
        return f"{sql} /* route='/orders' */", parameters

    engine = session.get_bind()
    event.listen(engine, "before_cursor_execute", comment, retval=True)
    try:
        return bag(session.scalars(select(m.Order.id)))
    finally:
        event.remove(engine, "before_cursor_execute", comment)


@HABITS
def a_listener_that_rewrites_the_statement(session: Any, m: Any) -> Any:
    def least(_: Any, statement: Any, multiparams: Any, params: Any, *__: Any) -> Any:
        if getattr(statement, "is_select", False):
            statement = statement.where(m.Order.amount > 60)

        return statement, multiparams, params

    engine = session.get_bind()
    event.listen(engine, "before_execute", least, retval=True)
    try:
        return bag(session.connection().execute(select(m.Order.id)).all())
    finally:
        event.remove(engine, "before_execute", least)


@HABITS
def a_listener_on_load(session: Any, m: Any) -> Any:
    loaded = []

    def note(target: Any, _: Any) -> None:
        loaded.append(target.id)

    event.listen(m.Order, "load", note)
    try:
        session.scalars(select(m.Order).order_by(m.Order.id)).all()
        return loaded
    finally:
        event.remove(m.Order, "load", note)


@HABITS(sync_only=True)
def automapped_classes(session: Any, m: Any) -> Any:
    metadata = MetaData()
    metadata.reflect(session.connection(), only=[m.prefix + "tags", m.prefix + "labels"])
    base = automap_base(metadata=metadata)
    base.prepare()
    found = session.scalars(select(base.classes[m.prefix + "tags"]))
    return bag((tag.id, tag.name) for tag in found)


@HABITS
def an_isolation_level(session: Any, m: Any) -> Any:
    connection = session.connection(execution_options={"isolation_level": "SERIALIZABLE"})
    return bag(connection.execute(select(m.Order.id)).all())


@HABITS
def a_logging_token(session: Any, m: Any) -> Any:
    connection = session.connection().execution_options(logging_token="request")
    return bag(connection.execute(select(m.Order.id)).all())


@HABITS
def other_columns_of_a_statement(session: Any, m: Any) -> Any:
    statement = select(m.Order).where(m.Order.amount > 60)
    return (
        session.scalar(statement.with_only_columns(func.count(m.Order.id))),
        session.scalar(select(func.count()).select_from(statement.subquery())),
        session.scalar(
            statement.with_only_columns(func.count(), maintain_column_froms=True).order_by(None)
        ),
    )


@HABITS
def paginated(session: Any, m: Any) -> Any:
    statement = select(m.Order).order_by(m.Order.id)
    total = session.scalar(select(func.count()).select_from(statement.order_by(None).subquery()))
    pages = [session.scalars(statement.limit(2).offset(start)).all() for start in range(0, 8, 2)]
    return total, [[plain(order) for order in page] for page in pages]


@HABITS
def keyset_paginated(session: Any, m: Any) -> Any:
    seen: list[int] = []
    while page := session.scalars(
        select(m.Order.id)
        .where(m.Order.id > (seen[-1] if seen else 0))
        .order_by(m.Order.id)
        .limit(2)
    ).all():
        seen += page

    return seen


@HABITS
def a_session_with_binds_by_class(session: Any, m: Any) -> Any:
    with Session(binds={m.Order: session.get_bind(), m.Customer: session.get_bind()}) as other:
        return bag(other.scalars(select(m.Order.id).join(m.Order.customer)))


@HABITS
def load_history(session: Any, m: Any) -> Any:
    order = session.scalars(select(m.Order).order_by(m.Order.id).limit(1)).one()
    history = inspect(order).attrs.lines.load_history()
    return [line.id for line in history.unchanged]


@LEGITIMATE
def create_all(session: Any, m: Any) -> Any:
    m.metadata.create_all(session.connection())
    return inspect(session.connection()).has_table(m.prefix + "orders")


@LEGITIMATE
def reflect(session: Any, m: Any) -> Any:
    metadata = MetaData()
    metadata.reflect(session.connection(), only=[m.prefix + "orders"], resolve_fks=False)
    return next(iter(metadata.tables)).removeprefix(m.prefix)


@LEGITIMATE
def driver_sql(session: Any, m: Any) -> Any:
    connection = session.connection()
    return (
        connection.exec_driver_sql("SELECT 1").scalar(),
        connection.exec_driver_sql(f"SELECT count(*) FROM {m.prefix}countries").scalar(),
    )


@LEGITIMATE
def a_clock(session: Any, m: Any) -> Any:
    return session.scalar(select(func.now())) is not None


@LEGITIMATE
def text_about_unowned_tables(session: Any, m: Any) -> Any:
    return bag(
        session.execute(
            text(f"SELECT code, name AS orders FROM {m.prefix}countries WHERE name <> :no"),
            {"no": "orders"},
        ).all()
    )


@LEGITIMATE
def a_string_that_names_an_owned_table(session: Any, m: Any) -> Any:
    return bag(
        session.scalars(select(m.Country.name).where(m.Country.name.not_in(["orders", "tags"])))
    )


@LEGITIMATE
def a_column_named_like_an_owned_table(session: Any, m: Any) -> Any:
    return bag(session.execute(select(m.Country.name.label("orders"), text("1 AS tags"))).all())


@LEGITIMATE
def a_table_that_is_nobodys(session: Any, m: Any) -> Any:
    countries = table(m.prefix + "countries", column("code"))
    return bag(session.scalars(select(countries.c.code)))


@LEGITIMATE
def a_change_of_unowned_rows(session: Any, m: Any) -> Any:
    found = session.execute(update(m.Country).values(name=m.Country.name))
    session.rollback()
    return found.rowcount


@LEGITIMATE(only="postgresql")
def a_local_setting(session: Any, m: Any) -> Any:
    session.execute(text("SET LOCAL statement_timeout = '5s'"))
    return session.scalar(text("SELECT current_setting('statement_timeout')"))


@LEGITIMATE(only="postgresql")
def an_advisory_lock(session: Any, m: Any) -> Any:
    return session.scalar(select(func.pg_try_advisory_xact_lock(4711)))


@LEGITIMATE(only="sqlite")
def a_pragma(session: Any, m: Any) -> Any:
    return session.scalar(text("PRAGMA foreign_keys"))


@LEGITIMATE(only="mariadb")
def a_session_variable(session: Any, m: Any) -> Any:
    session.execute(text("SET SESSION wait_timeout = 600"))
    return session.scalar(text("SELECT @@wait_timeout"))


@LEGITIMATE
def a_savepoint_by_hand(session: Any, m: Any) -> Any:
    session.execute(text("SAVEPOINT by_hand"))
    session.execute(text("RELEASE SAVEPOINT by_hand"))
    return session.scalar(text("SELECT 2"))
