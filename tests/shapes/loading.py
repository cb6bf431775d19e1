"""Relationships, deferred columns and polymorphic loads, with every loader strategy."""

from __future__ import annotations

from typing import Any

from sqlalchemy import func, select
from sqlalchemy.exc import ArgumentError, InvalidRequestError
from sqlalchemy.orm import (
    Load,
    aliased,
    contains_eager,
    defaultload,
    defer,
    immediateload,
    joinedload,
    lazyload,
    load_only,
    object_session,
    raiseload,
    selectin_polymorphic,
    selectinload,
    subqueryload,
    undefer,
    undefer_group,
    with_loader_criteria,
    with_parent,
    with_polymorphic,
)

from oracle import Shapes, bag, plain

LOADING = Shapes()
STRATEGIES = {
    "lazy": lazyload,
    "joined": joinedload,
    "selectin": selectinload,
    "subquery": subqueryload,
    "immediate": immediateload,
}


def numbers(owners: Any, name: str) -> list[Any]:
    """Each owner with the primary keys of what its relationship holds."""
    found = []
    for owner in owners:
        held = getattr(owner, name)
        listed = held if isinstance(held, list) else [held] if held is not None else []
        found.append((owner.id, [(type(item).__name__, plain(item)[1]["id"]) for item in listed]))

    return found


RELATIONSHIPS = {
    "one to many": ("Customer", "orders"),
    "many to one": ("Order", "customer"),
    "one to one": ("Order", "invoice"),
    "one to one, from the child": ("Invoice", "order"),
    "many to many": ("Order", "tags"),
    "many to many, reversed": ("Tag", "orders"),
    "many to many with a tenant": ("Order", "labels"),
    "many to many with a tenant, reversed": ("Label", "orders"),
    "children through a parent": ("Order", "lines"),
    "grandchildren through parents": ("LineItem", "remarks"),
    "children of two parents": ("Product", "lines"),
    "a tree downwards": ("Category", "children"),
    "a tree upwards": ("Category", "parent"),
    "a self reference": ("Customer", "referred"),
    "a joined hierarchy": ("Team", "members"),
    "a relationship of a sub class": ("Manager", "projects"),
    "a relationship to a sub class": ("Project", "manager"),
    "a single-table hierarchy": ("Customer", "assets"),
    "a custom primaryjoin": ("Customer", "namesakes"),
    "a relationship to an alias": ("Customer", "best_orders"),
    "an eager inner join": ("Attachment", "comment"),
    "a composite foreign key": ("Transfer", "account_number"),
    "an imperative class": ("Ticket", "order"),
}


def _loads(owner: str, name: str, strategy: Any) -> Any:
    def shape(session: Any, m: Any) -> Any:
        cls = getattr(m, owner)
        statement = select(cls).order_by(cls.id).options(strategy(getattr(cls, name)))
        return numbers(session.scalars(statement).unique().all(), name)

    return shape


for _words, (_owner, _name) in RELATIONSHIPS.items():
    if _name == "account_number":
        continue

    for _how, _strategy in STRATEGIES.items():
        LOADING(_loads(_owner, _name, _strategy), name=f"{_words}, {_how}")


def _loads_from_unowned(strategy: Any) -> Any:
    def shape(session: Any, m: Any) -> Any:
        found = session.scalars(
            select(m.Country).order_by(m.Country.code).options(strategy(m.Country.customers))
        ).unique()
        return [(country.code, [c.id for c in country.customers]) for country in found]

    return shape


for _how, _strategy in STRATEGIES.items():
    LOADING(_loads_from_unowned(_strategy), name=f"owned rows of an unowned parent, {_how}")


def _loads_composite(strategy: Any) -> Any:
    def shape(session: Any, m: Any) -> Any:
        accounts = session.scalars(
            select(m.Account).order_by(m.Account.number).options(strategy(m.Account.transfers))
        ).unique()
        down = [(account.number, [t.id for t in account.transfers]) for account in accounts]
        session.expunge_all()
        transfers = session.scalars(
            select(m.Transfer).order_by(m.Transfer.id).options(strategy(m.Transfer.account))
        )
        return down, [(transfer.id, transfer.account.balance) for transfer in transfers]

    return shape


for _how, _strategy in STRATEGIES.items():
    LOADING(_loads_composite(_strategy), name=f"a composite key that holds the tenant, {_how}")


def _loads_association_objects(strategy: Any) -> Any:
    def shape(session: Any, m: Any) -> Any:
        users = session.scalars(
            select(m.User)
            .order_by(m.User.id)
            .options(strategy(m.User.memberships).options(strategy(m.Membership.team)))
        ).unique()
        return [(user.id, bag(team and team.id for team in user.teams)) for user in users]

    return shape


for _how, _strategy in STRATEGIES.items():
    LOADING(_loads_association_objects(_strategy), name=f"an association proxy, {_how}")


def _loads_concrete(strategy: Any) -> Any:
    def shape(session: Any, m: Any) -> Any:
        orders = session.scalars(
            select(m.Order).order_by(m.Order.id).options(strategy(m.Order.payments))
        ).unique()
        return [
            (order.id, bag((type(p).__name__, p.id, p.amount) for p in order.payments))
            for order in orders
        ]

    return shape


for _how, _strategy in STRATEGIES.items():
    LOADING(_loads_concrete(_strategy), name=f"a concrete hierarchy, {_how}")


def _loads_three_levels(first: Any, second: Any, third: Any) -> Any:
    def shape(session: Any, m: Any) -> Any:
        customers = session.scalars(
            select(m.Customer)
            .order_by(m.Customer.id)
            .options(
                first(m.Customer.orders).options(
                    second(m.Order.lines).options(third(m.LineItem.product))
                )
            )
        ).unique()
        return [
            (c.id, o.id, line.id, line.product and line.product.sku)
            for c in customers
            for o in c.orders
            for line in o.lines
        ]

    return shape


for _first in ("joined", "selectin", "subquery"):
    for _second in ("joined", "selectin", "subquery"):
        LOADING(
            _loads_three_levels(STRATEGIES[_first], STRATEGIES[_second], joinedload),
            name=f"three levels: {_first}, {_second}, joined",
        )


@LOADING
def joinedload_with_a_limit(session: Any, m: Any) -> Any:
    found = session.scalars(
        select(m.Customer)
        .options(joinedload(m.Customer.orders))
        .order_by(m.Customer.id.desc())
        .limit(2)
    )
    return numbers(found.unique().all(), "orders")


@LOADING
def joinedload_with_an_inner_join(session: Any, m: Any) -> Any:
    found = session.scalars(
        select(m.Order).options(joinedload(m.Order.customer, innerjoin=True)).order_by(m.Order.id)
    )
    return numbers(found, "customer")


@LOADING
def joinedload_with_a_nested_inner_join(session: Any, m: Any) -> Any:
    found = session.scalars(
        select(m.Customer)
        .options(joinedload(m.Customer.orders).joinedload(m.Order.lines, innerjoin="unnested"))
        .order_by(m.Customer.id)
    )
    return numbers(found.unique().all(), "orders")


@LOADING
def contains_eager_of_a_join(session: Any, m: Any) -> Any:
    found = session.scalars(
        select(m.Customer)
        .outerjoin(m.Customer.orders)
        .options(contains_eager(m.Customer.orders))
        .order_by(m.Customer.id, m.Order.id)
    )
    return numbers(found.unique().all(), "orders")


@LOADING
def contains_eager_of_an_alias(session: Any, m: Any) -> Any:
    order = aliased(m.Order)
    found = session.scalars(
        select(m.Customer)
        .outerjoin(m.Customer.orders.of_type(order))
        .options(contains_eager(m.Customer.orders.of_type(order)))
        .order_by(m.Customer.id, order.id)
    )
    return numbers(found.unique().all(), "orders")


@LOADING
def contains_eager_of_a_filtered_join(session: Any, m: Any) -> Any:
    found = session.scalars(
        select(m.Customer)
        .join(m.Customer.orders)
        .where(m.Order.amount > 60)
        .options(contains_eager(m.Customer.orders))
        .order_by(m.Customer.id, m.Order.id)
        .execution_options(populate_existing=True)
    )
    return numbers(found.unique().all(), "orders")


@LOADING
def selectinload_with_a_criterion(session: Any, m: Any) -> Any:
    found = session.scalars(
        select(m.Customer)
        .order_by(m.Customer.id)
        .options(selectinload(m.Customer.orders.and_(m.Order.amount > 60)))
    )
    return numbers(found, "orders")


@LOADING
def joinedload_with_a_criterion(session: Any, m: Any) -> Any:
    found = session.scalars(
        select(m.Customer)
        .order_by(m.Customer.id)
        .options(joinedload(m.Customer.orders.and_(m.Order.amount > 60)))
    )
    return numbers(found.unique().all(), "orders")


@LOADING
def the_users_own_loader_criteria(session: Any, m: Any) -> Any:
    found = session.scalars(
        select(m.Customer)
        .order_by(m.Customer.id)
        .options(
            selectinload(m.Customer.orders),
            with_loader_criteria(m.Order, m.Order.status == "paid"),
        )
    )
    return numbers(found, "orders")


@LOADING
def loader_criteria_given_as_a_lambda(session: Any, m: Any) -> Any:
    least = 60
    found = session.scalars(
        select(m.Customer)
        .order_by(m.Customer.id)
        .options(with_loader_criteria(m.Order, lambda cls: cls.amount > least))
    )
    return numbers(found, "orders")


@LOADING
def raiseload_raises(session: Any, m: Any) -> Any:
    order = session.scalars(
        select(m.Order).options(raiseload("*")).order_by(m.Order.id).limit(1)
    ).first()
    try:
        return order and order.customer
    except InvalidRequestError as error:
        return type(error).__name__


@LOADING
def defaultload_and_defer(session: Any, m: Any) -> Any:
    found = session.scalars(
        select(m.Customer)
        .order_by(m.Customer.id)
        .options(
            selectinload(m.Customer.orders),
            defaultload(m.Customer.orders).load_only(m.Order.number),
        )
    ).all()
    return [[plain(order) for order in customer.orders] for customer in found]


@LOADING
def a_wildcard_option(session: Any, m: Any) -> Any:
    found = session.scalars(
        select(m.Invoice).order_by(m.Invoice.id).options(Load(m.Invoice).joinedload("*"))
    ).all()
    return numbers(found, "order")


@LOADING
def a_deferred_column_loaded_later(session: Any, m: Any) -> Any:
    return [order.note for order in session.scalars(select(m.Order).order_by(m.Order.id))]


@LOADING
def a_deferred_group_loaded_later(session: Any, m: Any) -> Any:
    order = session.scalars(select(m.Order).order_by(m.Order.id).limit(1)).one()
    return order.note, order.comment


@LOADING
def undefer_at_once(session: Any, m: Any) -> Any:
    found = session.scalars(select(m.Order).options(undefer(m.Order.note)).order_by(m.Order.id))
    return [plain(order) for order in found]


@LOADING
def undefer_a_group(session: Any, m: Any) -> Any:
    found = session.scalars(select(m.Order).options(undefer_group("long")).order_by(m.Order.id))
    return [plain(order) for order in found]


@LOADING
def defer_and_load_again(session: Any, m: Any) -> Any:
    found = session.scalars(
        select(m.Order).options(defer(m.Order.amount)).order_by(m.Order.id)
    ).all()
    return [order.amount for order in found]


@LOADING
def load_only_and_the_rest_later(session: Any, m: Any) -> Any:
    found = session.scalars(
        select(m.Customer).options(load_only(m.Customer.name)).order_by(m.Customer.id)
    ).all()
    return [(customer.email, customer.tenant_id == m.acme) for customer in found]


@LOADING
def a_deferred_column_property(session: Any, m: Any) -> Any:
    found = session.scalars(select(m.Customer).order_by(m.Customer.id)).all()
    return [customer.biggest for customer in found]


@LOADING
def a_column_property_refreshed(session: Any, m: Any) -> Any:
    order = session.scalars(select(m.Order).order_by(m.Order.id).limit(1)).one()
    session.expire(order, ["line_count"])
    return order.line_count


@LOADING
def a_dynamic_relationship(session: Any, m: Any) -> Any:
    orders = session.scalars(select(m.Order).order_by(m.Order.id)).all()
    return [
        (
            order.id,
            [event.id for event in order.events.order_by(m.Event.id)],
            order.events.count(),
            order.events.filter_by(kind="opened").count(),
        )
        for order in orders
    ]


@LOADING
def a_dynamic_relationship_indexed(session: Any, m: Any) -> Any:
    order = session.scalars(select(m.Order).order_by(m.Order.id).limit(1)).one()
    events = order.events.order_by(m.Event.id)
    return events[0].id, [event.id for event in events[0:5]], events.first().id


@LOADING
def a_dynamic_relationship_aggregated(session: Any, m: Any) -> Any:
    order = session.scalars(select(m.Order).order_by(m.Order.id).limit(1)).one()
    return order.events.with_entities(func.sum(m.Event.weight)).scalar()


@LOADING
def a_write_only_relationship(session: Any, m: Any) -> Any:
    orders = session.scalars(select(m.Order).order_by(m.Order.id)).all()
    return [
        (
            order.id,
            session.scalars(order.shipments.select().order_by(m.Shipment.id)).all(),
        )
        for order in orders
    ]


@LOADING
def a_hybrid_over_a_dynamic_relationship(session: Any, m: Any) -> Any:
    return [order.paid_total for order in session.scalars(select(m.Order).order_by(m.Order.id))]


@LOADING
def an_association_proxy_of_values(session: Any, m: Any) -> Any:
    orders = session.scalars(select(m.Order).order_by(m.Order.id))
    return [(order.id, list(order.tag_names)) for order in orders]


@LOADING
def a_proxied_collection(session: Any, m: Any) -> Any:
    customers = session.scalars(select(m.Customer).order_by(m.Customer.id))
    return [list(customer.order_numbers) for customer in customers]


@LOADING
def with_parent_as_criterion(session: Any, m: Any) -> Any:
    customer = session.scalars(select(m.Customer).order_by(m.Customer.id).limit(1)).one()
    statement = select(m.Order.id).where(with_parent(customer, m.Customer.orders))
    return bag(session.scalars(statement))


@LOADING
def with_parent_through_a_secondary(session: Any, m: Any) -> Any:
    order = session.scalars(select(m.Order).order_by(m.Order.id).limit(1)).one()
    return bag(session.scalars(select(m.Tag.id).where(with_parent(order, m.Order.tags))))


@LOADING
def compared_with_an_object(session: Any, m: Any) -> Any:
    customer = session.scalars(select(m.Customer).order_by(m.Customer.id).limit(1)).one()
    tag = session.scalars(select(m.Tag).order_by(m.Tag.id).limit(1)).one()
    return (
        bag(session.scalars(select(m.Order.id).where(m.Order.customer == customer))),
        bag(session.scalars(select(m.Order.id).where(m.Order.customer != customer))),
        bag(session.scalars(select(m.Order.id).where(m.Order.tags.contains(tag)))),
    )


@LOADING
def a_whole_tree(session: Any, m: Any) -> Any:
    def below(category: Any) -> Any:
        return category.name, [below(child) for child in category.children]

    tops = select(m.Category).where(m.Category.parent_id.is_(None)).order_by(m.Category.id)
    return [below(category) for category in session.scalars(tops)]


@LOADING
def a_tree_by_recursive_selectin(session: Any, m: Any) -> Any:
    found = session.scalars(
        select(m.Category)
        .order_by(m.Category.id)
        .options(selectinload(m.Category.children, recursion_depth=-1))
    )
    return numbers(found, "children")


@LOADING
def a_tree_by_nested_joins(session: Any, m: Any) -> Any:
    found = session.scalars(
        select(m.Category)
        .order_by(m.Category.id)
        .options(joinedload(m.Category.children).joinedload(m.Category.children))
    )
    return numbers(found.unique().all(), "children")


@LOADING
def selectin_polymorphic_of_all(session: Any, m: Any) -> Any:
    found = session.scalars(
        select(m.Employee)
        .order_by(m.Employee.id)
        .options(selectin_polymorphic(m.Employee, [m.Engineer, m.Manager, m.Senior]))
    )
    return [plain(employee) for employee in found]


@LOADING
def polymorphic_attributes_loaded_later(session: Any, m: Any) -> Any:
    found = session.scalars(select(m.Employee).order_by(m.Employee.id)).all()
    return [getattr(employee, "language", None) for employee in found]


# SQLAlchemy itself has this option only since 2.0.58.
@LOADING(fails=ArgumentError)
def with_polymorphic_and_eager(session: Any, m: Any) -> Any:
    employees = with_polymorphic(m.Employee, "*")
    found = session.scalars(
        select(employees)
        .order_by(employees.id)
        .options(
            joinedload(employees.team),
            selectinload(employees.Manager.projects),
        )
    ).unique()
    return [
        (e.id, e.team and e.team.name, [p.id for p in getattr(e, "projects", [])]) for e in found
    ]


@LOADING
def an_eager_sub_class(session: Any, m: Any) -> Any:
    found = session.scalars(
        select(m.Team)
        .order_by(m.Team.id)
        .options(selectinload(m.Team.members.of_type(m.Manager)).selectinload(m.Manager.projects))
    )
    return numbers(found, "members")


@LOADING
def an_eager_polymorphic_alias(session: Any, m: Any) -> Any:
    everyone = with_polymorphic(m.Employee, "*", flat=True)
    found = session.scalars(
        select(m.Team).order_by(m.Team.id).options(joinedload(m.Team.members.of_type(everyone)))
    )
    return numbers(found.unique().all(), "members")


@LOADING
def a_lazy_load_after_expire(session: Any, m: Any) -> Any:
    customer = session.scalars(select(m.Customer).order_by(m.Customer.id).limit(1)).one()
    first = [order.id for order in customer.orders]
    session.expire(customer)
    return first, [order.id for order in customer.orders], customer.name


@LOADING
def a_lazy_load_after_commit(session: Any, m: Any) -> Any:
    customer = session.scalars(select(m.Customer).order_by(m.Customer.id).limit(1)).one()
    session.commit()
    return customer.name, [order.id for order in customer.orders]


@LOADING
def a_many_to_one_from_the_identity_map(session: Any, m: Any) -> Any:
    session.scalars(select(m.Customer)).all()
    return numbers(session.scalars(select(m.Order).order_by(m.Order.id)), "customer")


@LOADING
def relationships_of_a_second_mapping(session: Any, m: Any) -> Any:
    session.scalars(select(m.Order)).all()
    found = session.scalars(select(m.OrderSummary).order_by(m.OrderSummary.id))
    return [plain(summary) for summary in found]


@LOADING
def a_mapping_of_a_join_by_key(session: Any, m: Any) -> Any:
    return plain(session.get(m.CustomerOrder, 1)), plain(session.get(m.CustomerOrder, 2))


@LOADING
def the_session_of_an_object(session: Any, m: Any) -> Any:
    order = session.scalars(select(m.Order).order_by(m.Order.id).limit(1)).one()
    return object_session(order) is session
