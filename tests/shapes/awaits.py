"""The asynchronous forms, awaited and not wrapped in run_sync."""

from __future__ import annotations

from typing import Any

from sqlalchemy import delete, func, insert, select, text, update
from sqlalchemy.exc import IntegrityError, MissingGreenlet, NoResultFound, StatementError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession, async_object_session
from sqlalchemy.orm import joinedload, selectinload, subqueryload
from sqlalchemy.orm.exc import StaleDataError

from oracle import Shapes, bag, plain, result

AREADS = Shapes()
AWRITES = Shapes()

KEYS = range(1, 13)


async def first(session: AsyncSession, cls: Any) -> Any:
    return (await session.scalars(select(cls).order_by(cls.id).limit(1))).one()


@AREADS
async def execute(session: AsyncSession, m: Any) -> Any:
    return (await session.execute(select(m.Order).order_by(m.Order.id))).scalars().all()


@AREADS
async def execute_columns(session: AsyncSession, m: Any) -> Any:
    return result(await session.execute(select(m.Order.id, m.Order.number)))


@AREADS
async def scalars(session: AsyncSession, m: Any) -> Any:
    return bag(await session.scalars(select(m.Order)))


@AREADS
async def scalar(session: AsyncSession, m: Any) -> Any:
    return await session.scalar(select(func.max(m.Order.amount)))


@AREADS
async def get(session: AsyncSession, m: Any) -> Any:
    return [plain(await session.get(m.Order, key)) for key in KEYS]


@AREADS
async def get_with_options(session: AsyncSession, m: Any) -> Any:
    found = [await session.get(m.Order, key, options=[selectinload(m.Order.lines)]) for key in KEYS]
    return [order and [line.id for line in order.lines] for order in found]


@AREADS
async def get_one(session: AsyncSession, m: Any) -> Any:
    found = []
    for key in KEYS:
        try:
            found.append(plain(await session.get_one(m.Order, key)))
        except NoResultFound:
            found.append(None)

    return found


@AREADS
async def get_warm(session: AsyncSession, m: Any) -> Any:
    kept = (await session.scalars(select(m.Order))).all()
    return len(kept), [plain(await session.get(m.Order, key)) for key in KEYS]


@AREADS
async def refresh(session: AsyncSession, m: Any) -> Any:
    order = await first(session, m.Order)
    await session.refresh(order, ["lines", "tags", "customer", "note"])
    return [line.id for line in order.lines], [tag.id for tag in order.tags], plain(order)


@AREADS
async def expired_and_refreshed(session: AsyncSession, m: Any) -> Any:
    order = await first(session, m.Order)
    session.expire(order)
    await session.refresh(order)
    return plain(order)


@AREADS
async def stream(session: AsyncSession, m: Any) -> Any:
    found = await session.stream(select(m.Order).order_by(m.Order.id))
    return [plain(row) async for row in found]


@AREADS
async def stream_scalars(session: AsyncSession, m: Any) -> Any:
    found = await session.stream_scalars(select(m.Order).order_by(m.Order.id))
    return [plain(order) async for order in found]


@AREADS
async def stream_with_yield_per(session: AsyncSession, m: Any) -> Any:
    found = await session.stream_scalars(
        select(m.Customer)
        .order_by(m.Customer.id)
        .options(selectinload(m.Customer.orders))
        .execution_options(yield_per=2)
    )
    return [(one.id, [order.id for order in one.orders]) async for one in found]


@AREADS
async def stream_in_partitions(session: AsyncSession, m: Any) -> Any:
    found = await session.stream_scalars(select(m.Order).order_by(m.Order.id))
    return [[order.id for order in part] async for part in found.partitions(2)]


@AREADS
async def stream_mappings(session: AsyncSession, m: Any) -> Any:
    found = await session.stream(select(m.Order.id, m.Order.number).order_by(m.Order.id))
    return [dict(row) async for row in found.mappings()]


@AREADS
async def stream_and_the_first_rows(session: AsyncSession, m: Any) -> Any:
    found = await session.stream(select(m.Order.id).order_by(m.Order.id))
    rows = [await found.fetchone(), *(await found.fetchmany(2))]
    await found.close()
    return plain(rows)


@AREADS
async def stream_and_all(session: AsyncSession, m: Any) -> Any:
    return bag(await (await session.stream(select(m.Remark.body))).all())


@AREADS
async def awaitable_attributes(session: AsyncSession, m: Any) -> Any:
    customer = await first(session, m.Customer)
    orders = await customer.awaitable_attrs.orders
    lines = [await order.awaitable_attrs.lines for order in orders]
    return [order.id for order in orders], [[line.id for line in some] for some in lines]


@AREADS
async def an_awaitable_deferred_column(session: AsyncSession, m: Any) -> Any:
    return await (await first(session, m.Order)).awaitable_attrs.note


@AREADS
async def an_awaitable_many_to_one(session: AsyncSession, m: Any) -> Any:
    order = await first(session, m.Order)
    return plain(await order.awaitable_attrs.customer)


@AREADS
async def a_lazy_load_is_still_a_missing_greenlet(session: AsyncSession, m: Any) -> Any:
    order = await first(session, m.Order)
    try:
        return order.lines
    except (MissingGreenlet, StatementError) as error:
        return isinstance(getattr(error, "orig", error), MissingGreenlet)


@AREADS
async def run_sync(session: AsyncSession, m: Any) -> Any:
    def load(session: Any) -> Any:
        return [
            (customer.id, [order.id for order in customer.orders])
            for customer in session.scalars(select(m.Customer).order_by(m.Customer.id))
        ]

    return await session.run_sync(load)


def _eager(strategy: Any) -> Any:
    async def shape(session: AsyncSession, m: Any) -> Any:
        found = await session.scalars(
            select(m.Customer)
            .order_by(m.Customer.id)
            .options(strategy(m.Customer.orders).options(strategy(m.Order.lines)))
        )
        return [
            (one.id, [(order.id, [line.id for line in order.lines]) for order in one.orders])
            for one in found.unique()
        ]

    return shape


for _strategy in (selectinload, joinedload, subqueryload):
    AREADS(_eager(_strategy), name=f"two levels by {_strategy.__name__}")


@AREADS
async def a_connection(session: AsyncSession, m: Any) -> Any:
    connection = await session.connection()
    return bag((await connection.execute(select(m.Order.id))).all()), await connection.scalar(
        select(func.count()).select_from(m.Order)
    )


@AREADS
async def a_connection_that_streams(session: AsyncSession, m: Any) -> Any:
    connection = await session.connection()
    async with connection.stream(select(m.Order.id).order_by(m.Order.id)) as found:
        return [row.id async for row in found]


@AREADS
async def a_connection_that_streams_scalars(session: AsyncSession, m: Any) -> Any:
    connection: AsyncConnection = await session.connection()
    found = await connection.stream_scalars(select(m.Order.id).order_by(m.Order.id))
    return await found.all()


@AREADS
async def the_engine(session: AsyncSession, m: Any) -> Any:
    async with session.bind.connect() as connection:
        return bag((await connection.execute(select(m.Order.id))).all())


@AREADS
async def run_sync_on_a_connection(session: AsyncSession, m: Any) -> Any:
    connection = await session.connection()
    return bag(await connection.run_sync(lambda sync: sync.execute(select(m.Order.id)).all()))


@AREADS
async def a_savepoint(session: AsyncSession, m: Any) -> Any:
    async with session.begin_nested():
        return bag(await session.scalars(select(m.Order.id)))


@AREADS
async def after_a_commit(session: AsyncSession, m: Any) -> Any:
    order = await first(session, m.Order)
    await session.commit()
    return await order.awaitable_attrs.number


@AREADS
async def merge_of_a_detached_object(session: AsyncSession, m: Any) -> Any:
    order = await first(session, m.Order)
    session.expunge(order)
    return plain(await session.merge(order))


@AREADS
async def a_write_only_relationship(session: AsyncSession, m: Any) -> Any:
    order = await first(session, m.Order)
    return bag(await session.scalars(order.shipments.select()))


@AREADS
async def the_session_of_an_object(session: AsyncSession, m: Any) -> Any:
    return async_object_session(await first(session, m.Order)) is session


@AREADS(without_tenant="same")
async def unowned_rows(session: AsyncSession, m: Any) -> Any:
    await session.execute(text("SELECT 1"))
    return bag(await session.scalars(select(m.Country.name)))


@AWRITES
async def add_and_flush(session: AsyncSession, m: Any) -> Any:
    tag = m.Tag(name="new")
    session.add(tag)
    await session.flush()
    return tag.id, tag.tenant_id == m.acme


@AWRITES
async def add_and_commit(session: AsyncSession, m: Any) -> Any:
    session.add_all([m.Order(number=f"A-{n}", customer_id=1) for n in range(20)])
    await session.commit()


@AWRITES
async def add_a_graph(session: AsyncSession, m: Any) -> Any:
    session.add(
        m.Order(
            number="A-1", lines=[m.LineItem(remarks=[m.Remark(body="x")])], tags=[m.Tag(name="t")]
        )
    )


@AWRITES
async def change(session: AsyncSession, m: Any) -> Any:
    order = await first(session, m.Order)
    order.amount = 1
    await session.commit()
    await session.refresh(order)
    return plain(order)


@AWRITES
async def delete_an_object(session: AsyncSession, m: Any) -> Any:
    await session.delete(await first(session, m.Memo))


@AWRITES
async def delete_with_a_cascade(session: AsyncSession, m: Any) -> Any:
    line = await session.get(m.LineItem, 1)
    await session.delete(line)


@AWRITES
async def orphan_removed(session: AsyncSession, m: Any) -> Any:
    order = await session.get(m.Order, 1, options=[selectinload(m.Order.lines)])
    order.lines.pop()


@AWRITES
async def secondary_changed(session: AsyncSession, m: Any) -> Any:
    order = await session.get(m.Order, 1, options=[selectinload(m.Order.tags)])
    order.tags.append(await session.get(m.Tag, 5))


@AWRITES
async def merge(session: AsyncSession, m: Any) -> Any:
    await session.merge(m.Tag(id=1, name="merged"))
    await session.merge(m.Tag(name="fresh"))


@AWRITES
async def bulk_insert(session: AsyncSession, m: Any) -> Any:
    await session.execute(insert(m.Tag), [{"name": f"t{n}"} for n in range(20)])


@AWRITES
async def bulk_insert_returning(session: AsyncSession, m: Any) -> Any:
    found = await session.scalars(
        insert(m.Tag).returning(m.Tag, sort_by_parameter_order=True),
        [{"name": f"t{n}"} for n in range(5)],
    )
    return [plain(tag) for tag in found]


@AWRITES
async def bulk_update(session: AsyncSession, m: Any) -> Any:
    return (await session.execute(update(m.Order).values(amount=m.Order.amount + 1))).rowcount


@AWRITES
async def bulk_update_by_primary_key(session: AsyncSession, m: Any) -> Any:
    await session.execute(update(m.Order), [{"id": 1, "amount": 1}, {"id": 3, "amount": 2}])


@AWRITES
async def bulk_delete(session: AsyncSession, m: Any) -> Any:
    return (await session.execute(delete(m.Memo))).rowcount


@AWRITES
async def bulk_delete_by_a_connection(session: AsyncSession, m: Any) -> Any:
    connection = await session.connection()
    return (await connection.execute(delete(m.Remark))).rowcount


@AWRITES
async def executemany_by_a_connection(session: AsyncSession, m: Any) -> Any:
    connection = await session.connection()
    await connection.execute(m.audit.insert(), [{"entry": f"e{n}"} for n in range(20)])


@AWRITES
async def a_savepoint_rolled_back(session: AsyncSession, m: Any) -> Any:
    session.add(m.Tag(name="outer"))
    try:
        async with session.begin_nested():
            session.add(m.Order(number="N-0"))
    except IntegrityError:
        pass


@AWRITES(changes=False)
async def everything_rolled_back(session: AsyncSession, m: Any) -> Any:
    session.add(m.Tag(name="x"))
    await session.flush()
    await session.rollback()


@AWRITES
async def autoflush(session: AsyncSession, m: Any) -> Any:
    session.add(m.Tag(name="x"))
    return bag(await session.scalars(select(m.Tag.name)))


@AWRITES(fails=StaleDataError, changes=False)
async def a_version_that_has_moved_on(session: AsyncSession, m: Any) -> Any:
    document = await first(session, m.Document)
    await session.execute(
        update(m.Document).values(version=9).execution_options(synchronize_session=False)
    )
    document.title = "late"
    await session.flush()


@AWRITES
async def begin_once_more(session: AsyncSession, m: Any) -> Any:
    await session.rollback()
    async with session.begin():
        session.add(m.Tag(name="x"))


@AWRITES
async def the_sync_session(session: AsyncSession, m: Any) -> Any:
    def change(session: Any) -> None:
        for order in session.scalars(select(m.Order)):
            order.amount += 1
            order.customer = None

    await session.run_sync(change)
