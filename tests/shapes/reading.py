"""The ways to ask: get, refresh, merge, Query, streams, lambdas, connections and engines."""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    bindparam,
    case,
    column,
    exists,
    func,
    inspect,
    lambda_stmt,
    literal,
    select,
    table,
    text,
    union_all,
)
from sqlalchemy.exc import InvalidRequestError, MultipleResultsFound, NoResultFound
from sqlalchemy.orm import (
    Bundle,
    Session,
    aliased,
    joinedload,
    load_only,
    make_transient,
    selectinload,
    subqueryload,
)
from sqlalchemy.orm.exc import ObjectDeletedError

from oracle import Shapes, bag, plain, result

READING = Shapes()
KEYS = range(1, 13)


def got(session: Any, cls: Any, **options: Any) -> list[Any]:
    """Keys of both tenants, one of which is current."""
    return [plain(session.get(cls, key, **options)) for key in KEYS]


@READING
def get_cold(session: Any, m: Any) -> Any:
    return got(session, m.Order)


@READING
def get_warm(session: Any, m: Any) -> Any:
    kept = session.scalars(select(m.Order)).all()
    return got(session, m.Order), len(kept)


@READING
def get_expired(session: Any, m: Any) -> Any:
    kept = session.scalars(select(m.Order)).all()
    session.expire_all()
    return got(session, m.Order), len(kept)


@READING
def get_with_populate_existing(session: Any, m: Any) -> Any:
    kept = session.scalars(select(m.Order)).all()
    return got(session, m.Order, populate_existing=True), len(kept)


@READING
def get_with_options(session: Any, m: Any) -> Any:
    found = [session.get(m.Order, key, options=[joinedload(m.Order.lines)]) for key in KEYS]
    return [order and [line.id for line in order.lines] for order in found]


@READING
def get_for_update(session: Any, m: Any) -> Any:
    return got(session, m.Order, with_for_update=True)


@READING
def get_through_a_parent(session: Any, m: Any) -> Any:
    return got(session, m.LineItem), got(session, m.Remark)


@READING
def get_a_joined_sub_class(session: Any, m: Any) -> Any:
    return got(session, m.Employee), got(session, m.Manager), got(session, m.Senior)


@READING
def get_a_single_table_sub_class(session: Any, m: Any) -> Any:
    return got(session, m.Asset), got(session, m.Vehicle)


@READING
def get_a_concrete_class(session: Any, m: Any) -> Any:
    return got(session, m.CardPayment)


@READING
def get_by_a_composite_key(session: Any, m: Any) -> Any:
    return [
        plain(session.get(m.Account, (tenant, number)))
        for tenant in (m.acme, m.globex)
        for number in (0, 1, 99)
    ]


@READING
def get_by_a_mapping(session: Any, m: Any) -> Any:
    return [
        plain(session.get(m.Membership, {"user_id": user, "team_id": team}))
        for user, team in [(1, 1), (2, 2), (2, 1), (3, 3)]
    ]


@READING
def get_another_tenant_attribute(session: Any, m: Any) -> Any:
    return got(session, m.Subscription), got(session, m.Product)


@READING
def get_shared_rows(session: Any, m: Any) -> Any:
    return [plain(session.get(m.Setting, key)) for key in (1, 2, 3, 4, 90, 91)]


@READING
def get_one(session: Any, m: Any) -> Any:
    found = []
    for key in KEYS:
        try:
            found.append(plain(session.get_one(m.Order, key)))
        except NoResultFound as error:
            found.append(type(error).__name__)

    return found


@READING
def get_after_expunge(session: Any, m: Any) -> Any:
    order = session.scalars(select(m.Order).order_by(m.Order.id).limit(1)).one()
    session.expunge(order)
    return plain(session.get(m.Order, order.id)), session.get(m.Order, order.id) is order


@READING
def refresh(session: Any, m: Any) -> Any:
    order = session.scalars(select(m.Order).order_by(m.Order.id).limit(1)).one()
    session.refresh(order)
    return plain(order)


@READING
def refresh_of_attributes(session: Any, m: Any) -> Any:
    order = session.scalars(select(m.Order).order_by(m.Order.id).limit(1)).one()
    session.refresh(order, ["amount", "note", "lines", "customer", "tags"])
    return plain(order), [line.id for line in order.lines], [tag.id for tag in order.tags]


@READING
def refresh_for_update(session: Any, m: Any) -> Any:
    line = session.scalars(select(m.LineItem).order_by(m.LineItem.id).limit(1)).one()
    session.refresh(line, with_for_update=True)
    return plain(line)


@READING
def refresh_of_a_sub_class(session: Any, m: Any) -> Any:
    found = session.scalars(select(m.Employee).order_by(m.Employee.id)).all()
    for employee in found:
        session.refresh(employee)

    return [plain(employee) for employee in found]


@READING
def a_detached_object_attached_again(session: Any, m: Any) -> Any:
    order = session.scalars(select(m.Order).order_by(m.Order.id).limit(1)).one()
    session.expunge(order)
    session.add(order)
    return [line.id for line in order.lines]


@READING
def merge_without_load(session: Any, m: Any) -> Any:
    order = session.scalars(select(m.Order).order_by(m.Order.id).limit(1)).one()
    session.expunge(order)
    return plain(session.merge(order, load=False))


@READING
def merge_of_an_unchanged_object(session: Any, m: Any) -> Any:
    order = session.scalars(
        select(m.Order).options(selectinload(m.Order.lines)).order_by(m.Order.id).limit(1)
    ).one()
    session.expunge_all()
    merged = session.merge(order)
    return plain(merged), [line.id for line in merged.lines], session.dirty == set()


@READING
def scalar(session: Any, m: Any) -> Any:
    return (
        session.scalar(select(func.max(m.Order.amount))),
        session.scalar(select(func.count()).select_from(m.Order)),
        session.scalar(select(m.Order.number).where(m.Order.id == 2)),
        session.scalar(select(m.Order.number).where(m.Order.id == 1)),
    )


@READING
def a_function_alone(session: Any, m: Any) -> Any:
    return session.scalar(func.max(m.Order.amount)), session.execute(func.count(m.Event.id)).all()


@READING
def scalars_and_friends(session: Any, m: Any) -> Any:
    statement = select(m.Order).order_by(m.Order.id)
    return (
        plain(session.scalars(statement).first()),
        plain(session.scalars(statement).fetchmany(2)),
        plain(session.execute(statement).mappings().first()["Order"]),
        plain(session.execute(select(m.Order.id, m.Order.number)).mappings().all()[:0]),
        plain(session.execute(statement.limit(1)).one()),
        plain(session.execute(statement).columns(0).fetchone()),
        len(session.execute(statement).fetchall()),
    )


@READING
def one_and_its_errors(session: Any, m: Any) -> Any:
    seen = []
    for number in ("N-0", "X-60", "nothing"):
        try:
            seen.append(
                plain(session.scalars(select(m.Order).where(m.Order.number == number)).one())
            )
        except NoResultFound as error:
            seen.append(str(error))

    try:
        session.scalars(select(m.Order)).one()
    except MultipleResultsFound as error:
        seen.append(str(error))

    return seen


@READING
def one_or_none_of_a_natural_key(session: Any, m: Any) -> Any:
    return [
        plain(
            session.scalars(
                select(m.Customer).where(m.Customer.email == f"{name}@example.com")
            ).one_or_none()
        )
        for name in ("ada", "bob", "spy")
    ]


@READING
def yield_per(session: Any, m: Any) -> Any:
    statement = select(m.Order).order_by(m.Order.id).execution_options(yield_per=2)
    return [plain(order) for order in session.scalars(statement)]


@READING
def yield_per_and_selectin(session: Any, m: Any) -> Any:
    statement = (
        select(m.Customer)
        .order_by(m.Customer.id)
        .options(selectinload(m.Customer.orders))
        .execution_options(yield_per=2)
    )
    return [(c.id, [order.id for order in c.orders]) for c in session.scalars(statement)]


@READING
def partitions(session: Any, m: Any) -> Any:
    found = session.scalars(select(m.Order).order_by(m.Order.id)).partitions(2)
    return [[order.id for order in part] for part in found]


@READING
def stream_results(session: Any, m: Any) -> Any:
    statement = select(m.Order.id).order_by(m.Order.id)
    return session.execute(statement, execution_options={"stream_results": True}).all()


@READING
def parameters_at_execution(session: Any, m: Any) -> Any:
    statement = select(m.Order.id).where(m.Order.status == bindparam("status"))
    return bag(session.scalars(statement, {"status": "paid"})), bag(
        session.scalars(statement.params(status="new"))
    )


@READING
def parameters_that_name_the_tenant(session: Any, m: Any) -> Any:
    statement = select(m.Order.id).where(m.Order.tenant_id == bindparam("tenant_id"))
    return bag(session.scalars(statement, {"tenant_id": m.globex}))


@READING
def an_expanding_parameter(session: Any, m: Any) -> Any:
    statement = select(m.Order.id).where(m.Order.id.in_(bindparam("ids", expanding=True)))
    return bag(session.scalars(statement, {"ids": [1, 2, 3, 60]})), bag(
        session.scalars(statement, {"ids": []})
    )


@READING
def a_lambda_statement(session: Any, m: Any) -> Any:
    least = 60
    order = m.Order
    statement = lambda_stmt(lambda: select(order).where(order.amount > least))
    statement += lambda s: s.order_by(order.id)
    return [plain(found) for found in session.scalars(statement)]


@READING
def a_lambda_inside_a_statement(session: Any, m: Any) -> Any:
    order = m.Order
    least = 60
    return bag(session.scalars(select(order.id).where(lambda: order.amount > least)))


@READING
def a_lambda_on_a_relationship(session: Any, m: Any) -> Any:
    customer = m.Customer
    statement = lambda_stmt(lambda: select(customer).options(selectinload(customer.orders)))
    found = session.scalars(statement).all()
    return bag((one.id, [order.id for order in one.orders]) for one in found)


_statements: dict[Any, Any] = {}


@READING
def one_statement_object_for_all(session: Any, m: Any) -> Any:
    if m.Order not in _statements:
        _statements[m.Order] = (
            select(m.Order).options(joinedload(m.Order.lines)).order_by(m.Order.id)
        )

    found = session.scalars(_statements[m.Order]).unique()
    return [(order.id, [line.id for line in order.lines]) for order in found]


_caches: dict[Any, dict[Any, Any]] = {}


@READING
def one_compiled_cache_for_all(session: Any, m: Any) -> Any:
    cache = _caches.setdefault(m.Order, {})
    statement = select(m.Order.id, m.Order.number).order_by(m.Order.id)
    return session.connection().execution_options(compiled_cache=cache).execute(statement).all()


@READING
def no_compiled_cache(session: Any, m: Any) -> Any:
    options = {"compiled_cache": None}
    return bag(session.execute(select(m.Order.id), execution_options=options))


@READING
def from_the_engine(session: Any, m: Any) -> Any:
    if session.get_bind().dialect.is_async:
        return bag(session.connection().execute(select(m.Order.id)).all())

    with session.get_bind().connect() as connection:
        return bag(connection.execute(select(m.Order.id)).all())


@READING
def from_an_engine_with_options(session: Any, m: Any) -> Any:
    with session.get_bind().execution_options(yield_per=2).connect() as connection:
        return bag(connection.execute(select(m.Order.id)).all())


@READING
def from_a_session_on_the_connection(session: Any, m: Any) -> Any:
    with Session(session.connection()) as inner:
        return bag(inner.scalars(select(m.Order.number)))


@READING
def schema_translate_map(session: Any, m: Any) -> Any:
    name = session.get_bind().dialect.name
    schema = {"sqlite": "main", "postgresql": "public"}.get(name)
    connection = session.connection().execution_options(schema_translate_map={None: schema})
    return bag(connection.execute(select(m.Order.id)).all()), bag(
        connection.execute(
            select(m.LineItem.id).join(m.LineItem.order).where(exists().where(m.Tag.id > 0))
        ).all()
    )


@READING
def schema_translate_map_of_the_session(session: Any, m: Any) -> Any:
    options = {"schema_translate_map": {"nowhere": "elsewhere"}}
    return [plain(o) for o in session.scalars(select(m.Order), execution_options=options)] and bag(
        session.scalars(select(m.Remark.id), execution_options=options)
    )


@READING
def core_results(session: Any, m: Any) -> Any:
    connection = session.connection()
    found = connection.execute(select(m.audit).order_by(m.audit.c.id))
    return [dict(row) for row in found.mappings()]


@READING
def connection_scalar(session: Any, m: Any) -> Any:
    connection = session.connection()
    return (
        connection.scalar(select(func.count()).select_from(m.Order.__table__)),
        bag(connection.scalars(select(m.order_tags.c.order_id))),
    )


@READING
def several_parameter_sets_for_a_union(session: Any, m: Any) -> Any:
    statement = union_all(
        select(m.Order.id).where(m.Order.status == bindparam("a")),
        select(m.Order.id).where(m.Order.status == bindparam("b")),
    )
    return bag(session.execute(statement, {"a": "new", "b": "paid"}).all())


@READING
def literal_binds(session: Any, m: Any) -> Any:
    statement = select(m.Order.id).where(m.Order.amount > 60)
    return bag(session.execute(statement.execution_options(literal_binds=True)).all())


@READING
def a_bundle_of_its_own_class(session: Any, m: Any) -> Any:
    class Pair(Bundle):
        def create_row_processor(self, query: Any, procs: Any, labels: Any) -> Any:
            return lambda row: dict(zip(labels, (proc(row) for proc in procs), strict=True))

    found = session.execute(select(Pair("pair", m.Order.id, m.Order.number)))
    return bag(row.pair for row in found)


@READING
def autoflush_before_a_select(session: Any, m: Any) -> Any:
    with session.no_autoflush:
        return bag(session.scalars(select(m.Order.id)))


@READING
def inside_a_savepoint(session: Any, m: Any) -> Any:
    with session.begin_nested():
        return [plain(order) for order in session.scalars(select(m.Order).order_by(m.Order.id))]


@READING
def after_a_rollback(session: Any, m: Any) -> Any:
    order = session.scalars(select(m.Order).order_by(m.Order.id).limit(1)).one()
    session.rollback()
    return order.number, [line.id for line in order.lines]


@READING
def after_close(session: Any, m: Any) -> Any:
    session.scalars(select(m.Order)).all()
    session.close()
    return bag(session.scalars(select(m.Order.number)))


@READING
def identity_keys(session: Any, m: Any) -> Any:
    kept = session.scalars(select(m.Order)).all()
    return len(kept), bag(key[1] for key in session.identity_map)


@READING
def an_object_in_the_session(session: Any, m: Any) -> Any:
    order = session.scalars(select(m.Order).order_by(m.Order.id).limit(1)).one()
    return order in session, inspect(order).persistent, inspect(order).detached


@READING
def a_transient_copy(session: Any, m: Any) -> Any:
    order = session.scalars(select(m.Order).order_by(m.Order.id).limit(1)).one()
    session.expunge(order)
    make_transient(order)
    return inspect(order).transient, order.number


@READING
def query_all(session: Any, m: Any) -> Any:
    return bag(session.query(m.Order).all())


@READING
def query_columns(session: Any, m: Any) -> Any:
    return bag(session.query(m.Order.id, m.Order.number))


@READING
def query_filters(session: Any, m: Any) -> Any:
    query = session.query(m.Order)
    return (
        bag(query.filter(m.Order.amount > 60)),
        bag(query.filter_by(status="paid")),
        plain(query.order_by(m.Order.id).first()),
        plain(query.filter_by(number="N-0").one()),
        plain(query.filter_by(number="X-60").one_or_none()),
        query.filter_by(number="N-1").count(),
        query.count(),
    )


@READING
def query_get(session: Any, m: Any) -> Any:
    return [plain(session.query(m.Order).get(key)) for key in KEYS]


@READING
def query_get_with_populate_existing(session: Any, m: Any) -> Any:
    kept = session.query(m.Order).all()
    return [plain(session.query(m.Order).populate_existing().get(key)) for key in KEYS], len(kept)


@READING
def query_exists(session: Any, m: Any) -> Any:
    return (
        session.query(session.query(m.Order).filter(m.Order.amount > 90000).exists()).scalar(),
        session.query(literal(True)).filter(session.query(m.Order).exists()).scalar(),
    )


@READING
def query_joins(session: Any, m: Any) -> Any:
    return (
        bag(session.query(m.Customer.name, m.Order.id).join(m.Customer.orders)),
        bag(session.query(m.Customer.name, m.Order.id).outerjoin(m.Order)),
        bag(session.query(m.Customer).join(m.Order).distinct()),
        bag(session.query(m.Order).select_from(m.Customer).join(m.Customer.orders)),
    )


@READING
def query_aggregates(session: Any, m: Any) -> Any:
    return (
        session.query(func.max(m.Order.amount)).scalar(),
        bag(session.query(m.Order.status, func.count()).group_by(m.Order.status)),
        session.query(func.count(m.Order.id)).filter(m.Order.amount > 0).scalar(),
    )


@READING
def query_union(session: Any, m: Any) -> Any:
    paid = session.query(m.Order).filter_by(status="paid")
    new = session.query(m.Order).filter_by(status="new")
    return bag(paid.union(new)), bag(paid.union_all(new)), paid.union(new).count()


@READING
def query_from_statement(session: Any, m: Any) -> Any:
    statement = select(m.Order.__table__)
    return bag(session.query(m.Order).from_statement(statement))


@READING
def query_subquery(session: Any, m: Any) -> Any:
    sub = (
        session.query(m.Order.customer_id, func.count().label("n"))
        .group_by(m.Order.customer_id)
        .subquery()
    )
    return bag(
        session.query(m.Customer.name, sub.c.n).outerjoin(sub, sub.c.customer_id == m.Customer.id)
    )


@READING
def query_loading(session: Any, m: Any) -> Any:
    found = (
        session.query(m.Customer)
        .options(subqueryload(m.Customer.orders).joinedload(m.Order.lines))
        .order_by(m.Customer.id)
        .limit(3)
        .all()
    )
    return [(c.id, [(o.id, [li.id for li in o.lines]) for o in c.orders]) for c in found]


@READING
def query_yield_per(session: Any, m: Any) -> Any:
    return [order.id for order in session.query(m.Order).order_by(m.Order.id).yield_per(2)]


@READING
def query_slices(session: Any, m: Any) -> Any:
    query = session.query(m.Order).order_by(m.Order.id)
    return query[0].id, [order.id for order in query[1:4]], query.offset(2).limit(1).one().id


@READING
def query_with_parent(session: Any, m: Any) -> Any:
    customer = session.query(m.Customer).order_by(m.Customer.id).first()
    return bag(session.query(m.Order).filter(m.Order.customer == customer))


@READING
def query_values_of_an_alias(session: Any, m: Any) -> Any:
    order = aliased(m.Order)
    return bag(session.query(order.id).filter(order.amount > 60))


@READING
def query_only_return_tuples(session: Any, m: Any) -> Any:
    return bag(session.query(m.Order).only_return_tuples(True))


@READING
def query_of_two_entities(session: Any, m: Any) -> Any:
    return bag(session.query(m.Order, m.Customer).filter(m.Order.customer_id == m.Customer.id))


@READING
def query_with_entities(session: Any, m: Any) -> Any:
    return bag(session.query(m.Order).filter(m.Order.amount > 60).with_entities(m.Order.number))


@READING
def query_with_for_update(session: Any, m: Any) -> Any:
    return bag(session.query(m.Order).with_for_update().all())


@READING
def query_cte(session: Any, m: Any) -> Any:
    common = session.query(m.Order.id).filter(m.Order.amount > 60).cte()
    return bag(session.query(m.LineItem).filter(m.LineItem.order_id.in_(select(common.c.id))))


@READING
def query_scalar_subquery(session: Any, m: Any) -> Any:
    most = session.query(func.max(m.Order.amount)).scalar_subquery()
    return bag(session.query(m.Order.id).filter(m.Order.amount == most))


@READING
def query_executed_by_the_session(session: Any, m: Any) -> Any:
    return bag(session.execute(session.query(m.Order).statement).scalars())


@READING(only="sqlite")
def a_table_valued_function_beside_an_owned_table(session: Any, m: Any) -> Any:
    values = func.json_each("[1, 2, 3]").table_valued("value")
    return result(
        session.execute(
            select(m.Order.id, values.c.value).join(values, values.c.value == m.Order.id)
        )
    )


@READING(only="postgresql")
def a_series_beside_an_owned_table(session: Any, m: Any) -> Any:
    series = func.generate_series(1, 4).table_valued("n").render_derived()
    return result(
        session.execute(
            select(series.c.n, m.Order.number).outerjoin(m.Order, m.Order.id == series.c.n)
        )
    )


@READING(only="postgresql")
def a_server_side_cursor(session: Any, m: Any) -> Any:
    connection = session.connection()
    found = connection.execution_options(stream_results=True, max_row_buffer=1).execute(
        select(m.Order.id).order_by(m.Order.id)
    )
    return found.all()


@READING
def an_ad_hoc_table_by_the_session(session: Any, m: Any) -> Any:
    orders = table(m.prefix + "orders", column("id"), column("number"))
    return result(session.execute(select(orders.c.number).where(orders.c.id < 5)))


@READING
def a_case_over_two_tenants(session: Any, m: Any) -> Any:
    mine = case((m.Order.tenant_id == m.acme, "acme"), else_="other")
    return bag(session.execute(select(mine, func.count()).group_by(mine)).all())


@READING
def load_only_from_a_join(session: Any, m: Any) -> Any:
    found = session.execute(
        select(m.Order, m.Customer)
        .join(m.Order.customer)
        .options(load_only(m.Order.number), load_only(m.Customer.name))
    )
    return bag(found.all())


@READING(fails=ObjectDeletedError)
def an_object_whose_row_never_was(session: Any, m: Any) -> Any:
    from sqlalchemy.orm import make_transient_to_detached

    order = m.Order(id=999)
    make_transient_to_detached(order)
    session.add(order)
    return order.number


@READING(fails=InvalidRequestError)
def a_users_own_mistake_stays_what_it_is(session: Any, m: Any) -> Any:
    return session.scalars(select(m.Order)).one_or_none() or session.execute(
        select(m.Order).filter_by(nonsense=1)
    )


@READING(without_tenant="same")
def unowned_tables_only(session: Any, m: Any) -> Any:
    return (
        [plain(country) for country in session.query(m.Country).order_by(m.Country.code)],
        plain(session.get(m.Country, "NL")),
        session.execute(text(f"SELECT count(*) FROM {m.prefix}countries")).scalar(),
    )


@READING(without_tenant="same", sync_only=True)
def reflection(session: Any, m: Any) -> Any:
    from sqlalchemy import MetaData, Table

    inspector = inspect(session.connection())
    reflected = Table(m.prefix + "orders", MetaData(), autoload_with=session.connection())
    return (
        bag(column["name"] for column in inspector.get_columns(m.prefix + "orders")),
        bag(reflected.c.keys()),
        inspector.has_table(m.prefix + "orders"),
    )


@READING
def a_reflected_table(session: Any, m: Any) -> Any:
    from sqlalchemy import MetaData, Table

    reflected = Table(
        m.prefix + "orders", MetaData(), autoload_with=session.connection(), resolve_fks=False
    )
    return bag(session.execute(select(reflected.c.id, reflected.c.number)).all())


@READING
def a_reflected_two_step_table(session: Any, m: Any) -> Any:
    from sqlalchemy import MetaData, Table

    reflected = Table(m.prefix + "remarks", MetaData(), autoload_with=session.connection())
    return bag(session.execute(select(reflected.c.body)).all())


@READING
def a_copy_of_a_table(session: Any, m: Any) -> Any:
    from sqlalchemy import MetaData

    copied = m.Order.__table__.to_metadata(MetaData())
    return bag(session.execute(select(copied.c.id)).all())


@READING(below=(2, 1))
def a_statement_compiled_beforehand(session: Any, m: Any) -> Any:
    compiled = select(m.Order.id).compile(session.connection())
    return bag(session.connection().execute(compiled).all())


@READING
def printing_a_statement(session: Any, m: Any) -> Any:
    str(select(m.Order).where(m.Order.id == 1))
    return bag(session.scalars(select(m.Order.id)))
