"""SELECT statements. Each is run by a session and by a connection."""

from __future__ import annotations

import datetime
from typing import Any

from sqlalchemy import (
    Date,
    Integer,
    String,
    and_,
    bindparam,
    case,
    cast,
    column,
    distinct,
    except_,
    exists,
    extract,
    false,
    func,
    intersect,
    lateral,
    literal,
    literal_column,
    not_,
    null,
    or_,
    select,
    table,
    tablesample,
    text,
    true,
    tuple_,
    type_coerce,
    union,
    union_all,
    values,
    within_group,
)
from sqlalchemy.orm import (
    Bundle,
    aliased,
    contains_eager,
    load_only,
    undefer,
    with_expression,
    with_polymorphic,
)

from oracle import Shapes, let

SELECTS = Shapes()

SELECTS.statements(
    {
        "entities": lambda m: select(m.Order).order_by(m.Order.id),
        "entities in no order": lambda m: select(m.Order),
        "two entities": lambda m: select(m.Order, m.Customer).join(m.Order.customer),
        "columns": lambda m: select(m.Order.id, m.Order.number, m.Order.amount),
        "one column": lambda m: select(m.Order.number),
        "the tenant column": lambda m: select(m.Order.tenant_id),
        "a labelled expression": lambda m: select((m.Order.amount * 2).label("twice")),
        "a bundle": lambda m: select(Bundle("b", m.Order.id, m.Order.number)),
        "a nested bundle": lambda m: select(
            Bundle("outer", m.Order.id, Bundle("inner", m.Order.number, m.Order.status))
        ),
        "entity and column": lambda m: select(m.Order, m.Customer.name).join(m.Customer),
        "a synonym": lambda m: select(m.Order.state).where(m.Order.state == "paid"),
        "a hybrid as criterion": lambda m: select(m.Order.id).where(m.Order.is_large),
        "a hybrid method": lambda m: select(m.Order.id).where(m.Order.above(60)),
        "a hybrid column": lambda m: select(m.Customer.shouted),
        "a hybrid with a subquery": lambda m: select(m.Order.id, m.Order.paid_total).order_by(
            m.Order.id
        ),
        "a column property": lambda m: select(m.Order.id, m.Order.line_count),
        "a column property as criterion": lambda m: select(m.Order.id).where(
            m.Order.line_count > 1
        ),
        "a deferred column property": lambda m: select(m.Customer).options(
            undefer(m.Customer.biggest)
        ),
        "a deferred column by name": lambda m: select(m.Order.id, m.Order.note),
        "a query expression": lambda m: select(m.Order).options(
            with_expression(m.Order.computed, m.Order.amount + 1)
        ),
        "a query expression with a subquery": lambda m: select(m.Order).options(
            with_expression(
                m.Order.computed,
                select(func.max(m.Event.weight))
                .where(m.Event.order_id == m.Order.id)
                .scalar_subquery(),
            )
        ),
        "load_only": lambda m: select(m.Order).options(load_only(m.Order.number)),
        "count": lambda m: select(func.count()).select_from(m.Order),
        "count of a column": lambda m: select(func.count(m.Order.id)),
        "count of distinct": lambda m: select(func.count(distinct(m.Order.status))),
        "several aggregates": lambda m: select(
            func.min(m.Order.amount), func.max(m.Order.amount), func.sum(m.Order.amount)
        ),
        "an aggregate of nothing": lambda m: select(func.max(m.Order.amount)).where(false()),
        "count star as text": lambda m: select(literal_column("count(*)")).select_from(m.Order),
        "count star as a text fragment": lambda m: select(text("count(*)")).select_from(m.Order),
        "a constant per row": lambda m: select(literal(1)).select_from(m.Order),
        "null per row": lambda m: select(null()).select_from(m.Order),
        "extract alone": lambda m: select(extract("day", m.Order.placed_on)),
        "cast alone": lambda m: select(cast(m.Order.amount, String(20))),
        "type_coerce alone": lambda m: select(type_coerce(m.Order.placed_on, Date)),
        "case alone": lambda m: select(case((m.Order.amount > 60, "big"), else_="small")),
        "coalesce over two tables": lambda m: select(
            func.coalesce(m.Customer.email, m.Order.number)
        ).select_from(m.Order.__table__.outerjoin(m.Customer.__table__)),
        "row_number alone": lambda m: select(func.row_number().over(order_by=m.Order.id)),
        "row_number by partition": lambda m: select(
            m.Order.id,
            func.row_number().over(partition_by=m.Order.customer_id, order_by=m.Order.id),
        ),
        "rank, lag and a frame": lambda m: select(
            m.Order.id,
            func.rank().over(order_by=m.Order.amount.desc()),
            func.lag(m.Order.amount).over(order_by=m.Order.id),
            func.sum(m.Order.amount).over(order_by=m.Order.id, rows=(None, 0)),
        ),
        "a total over everything": lambda m: select(m.Order.id, func.sum(m.Order.amount).over()),
        "distinct": lambda m: select(m.Order.status).distinct(),
        "distinct entities": lambda m: select(m.Customer).join(m.Customer.orders).distinct(),
        "group by": lambda m: select(m.Order.status, func.count()).group_by(m.Order.status),
        "group by having": lambda m: (
            select(m.Order.customer_id, func.sum(m.Order.amount))
            .group_by(m.Order.customer_id)
            .having(func.sum(m.Order.amount) > 100)
        ),
        "having a subquery": lambda m: (
            select(m.Order.customer_id)
            .group_by(m.Order.customer_id)
            .having(func.max(m.Order.amount) < select(func.avg(m.Order.amount)).scalar_subquery())
        ),
        "group by a relation": lambda m: (
            select(m.Customer.name, func.count(m.Order.id))
            .outerjoin(m.Customer.orders)
            .group_by(m.Customer.name)
            .order_by(m.Customer.name)
        ),
        "order by another table": lambda m: (
            select(m.Order.id).join(m.Customer).order_by(m.Customer.name.desc(), m.Order.id)
        ),
        "limit": lambda m: select(m.Order.id).order_by(m.Order.amount.desc()).limit(2),
        "limit and offset": lambda m: select(m.Order.id).order_by(m.Order.id).limit(2).offset(1),
        "an entity only in where": lambda m: select(literal(1)).where(m.Order.amount > 60),
        "a base column only in order by": lambda m: select(m.Engineer.language).order_by(
            m.Employee.id
        ),
        "or as criterion": lambda m: select(m.Order.id).where(
            or_(m.Order.amount > 0, m.Order.id > 0)
        ),
        "not as criterion": lambda m: select(m.Order.id).where(not_(m.Order.status == "paid")),
        "the other tenant by name": lambda m: select(m.Order.id).where(
            m.Order.tenant_id == m.globex
        ),
        "any tenant by name": lambda m: select(m.Order.id).where(
            or_(m.Order.tenant_id == m.acme, m.Order.tenant_id == m.globex)
        ),
        "everybody but this tenant": lambda m: select(m.Order.id).where(
            m.Order.tenant_id != m.acme
        ),
        "true as criterion": lambda m: select(m.Order.id).where(true()),
        "in a list": lambda m: select(m.Order.id).where(m.Order.id.in_([1, 2, 3, 4, 60])),
        "in an empty list": lambda m: select(m.Order.id).where(m.Order.id.in_([])),
        "not in a list": lambda m: select(m.Order.id).where(m.Order.id.not_in([1, 2])),
        "tuples in a list": lambda m: select(m.Order.id).where(
            tuple_(m.Order.id, m.Order.number).in_([(1, "N-0"), (2, "N-0")])
        ),
        "in a subquery": lambda m: select(m.Customer.name).where(
            m.Customer.id.in_(select(m.Order.customer_id).where(m.Order.amount > 60))
        ),
        "not in a subquery": lambda m: select(m.Customer.name).where(
            m.Customer.id.not_in(
                select(m.Order.customer_id).where(m.Order.customer_id.is_not(None))
            )
        ),
        "like, between, is null": lambda m: select(m.Order.id).where(
            m.Order.number.like("%-%"),
            m.Order.amount.between(0, 100000),
            m.Order.customer_id.is_(None),
        ),
        "a date comparison": lambda m: select(m.Order.id).where(
            m.Order.placed_on > datetime.date(2026, 1, 2)
        ),
        "filter_by": lambda m: select(m.Order).filter_by(status="new"),
        "filter_by the tenant": lambda m: select(m.Order).filter_by(tenant_id=m.globex),
    }
)

SELECTS.statements(
    {
        "exists": lambda m: select(m.Customer.name).where(
            exists().where(m.Order.customer_id == m.Customer.id, m.Order.amount > 60)
        ),
        "not exists": lambda m: select(m.Customer.name).where(
            ~exists().where(m.Order.customer_id == m.Customer.id)
        ),
        "exists of a column": lambda m: select(m.Customer.name).where(
            exists(m.Order.id).where(m.Order.customer_id == m.Customer.id)
        ),
        "exists of a select": lambda m: select(m.Customer.name).where(
            select(m.Order.id).where(m.Order.customer_id == m.Customer.id).exists()
        ),
        "exists as a column": lambda m: select(exists().where(m.Order.amount > 90000)),
        "exists with select_from": lambda m: select(
            exists(1).select_from(m.Order).where(m.Order.amount > 90000)
        ),
        "exists two levels deep": lambda m: select(m.Customer.name).where(
            exists().where(
                m.Order.customer_id == m.Customer.id,
                exists().where(m.LineItem.order_id == m.Order.id, m.LineItem.quantity > 4),
            )
        ),
        "any": lambda m: select(m.Customer.name).where(m.Customer.orders.any()),
        "any with a criterion": lambda m: select(m.Customer.name).where(
            m.Customer.orders.any(m.Order.amount > 10000)
        ),
        "not any": lambda m: select(m.Customer.name).where(~m.Customer.orders.any()),
        "has": lambda m: select(m.Order.id).where(m.Order.customer.has(name="Ada")),
        "any through a secondary": lambda m: select(m.Order.id).where(
            m.Order.tags.any(m.Tag.name == "tag 0")
        ),
        "any through a secondary with a tenant": lambda m: select(m.Order.id).where(
            m.Order.labels.any()
        ),
        "any of any": lambda m: select(m.Customer.name).where(
            m.Customer.orders.any(m.Order.lines.any(m.LineItem.quantity > 100))
        ),
        "any on a self reference": lambda m: select(m.Category.name).where(
            m.Category.children.any(m.Category.name != "category 1")
        ),
        "has on a self reference": lambda m: select(m.Customer.name).where(
            m.Customer.referrer.has(name="Ada")
        ),
        "any of a subtype": lambda m: select(m.Team.name).where(
            m.Team.members.of_type(m.Manager).any(m.Manager.budget > 0)
        ),
        "contains": lambda m: select(m.Tag.id).where(m.Tag.orders.any(m.Order.id == 1)),
        "an association proxy as criterion": lambda m: select(m.Order.id).where(
            m.Order.tag_names.contains("tag 0")
        ),
        "an association proxy, equal": lambda m: select(m.Order.id).where(
            m.Order.tag_names == "tag 1"
        ),
        "an association proxy to objects": lambda m: select(m.User.id).where(
            m.User.teams.any(m.Team.name == "team 0")
        ),
        "a proxied collection of columns": lambda m: select(m.Customer.id).where(
            m.Customer.order_numbers.contains("N-0")
        ),
        "a scalar subquery": lambda m: select(
            m.Customer.name,
            select(func.count(m.Order.id))
            .where(m.Order.customer_id == m.Customer.id)
            .scalar_subquery(),
        ),
        "only a scalar subquery": lambda m: select(
            select(func.count(m.Order.id)).scalar_subquery()
        ),
        "two scalar subqueries": lambda m: select(
            select(func.max(m.Order.amount)).scalar_subquery(),
            select(func.max(m.Event.weight)).scalar_subquery(),
        ),
        "a scalar subquery as criterion": lambda m: select(m.Order.id).where(
            m.Order.amount == select(func.max(m.Order.amount)).scalar_subquery()
        ),
        "a scalar subquery in order by": lambda m: select(m.Customer.id).order_by(
            select(func.count(m.Order.id))
            .where(m.Order.customer_id == m.Customer.id)
            .scalar_subquery()
            .desc(),
            m.Customer.id,
        ),
        "a scalar subquery in case": lambda m: select(
            case(
                (select(func.count(m.Order.id)).scalar_subquery() > 6, "many"),
                else_="few",
            )
        ),
        "a scalar subquery in a function": lambda m: select(
            func.coalesce(select(func.max(m.Order.amount)).scalar_subquery(), 0)
        ),
        "a scalar subquery over an unowned table": lambda m: select(
            m.Country.name,
            select(func.count(m.Customer.id))
            .where(m.Customer.country_code == m.Country.code)
            .scalar_subquery(),
        ),
        "a derived table": lambda m: select(
            select(m.Order.id, m.Order.amount).where(m.Order.amount > 0).subquery()
        ),
        "an aggregate over a derived table": lambda m: select(func.count()).select_from(
            select(m.Order.id).distinct().subquery()
        ),
        "a derived table, two levels": lambda m: select(
            select(select(m.Order.id).subquery().c.id.label("n")).subquery()
        ),
        "a join with a derived table": lambda m: let(
            lambda s: select(m.Customer.name, s.c.total).join(s, s.c.customer_id == m.Customer.id),
            select(m.Order.customer_id, func.sum(m.Order.amount).label("total"))
            .group_by(m.Order.customer_id)
            .subquery(),
        ),
        "an entity from a derived table": lambda m: select(
            aliased(m.Order, select(m.Order).where(m.Order.amount > 60).subquery())
        ),
        "a limited derived table": lambda m: select(
            select(m.Order.id).order_by(m.Order.amount.desc()).limit(3).subquery()
        ),
        "a row_number in a derived table": lambda m: let(
            lambda s: select(s.c.id).where(s.c.n == 1),
            select(
                m.Order.id,
                func.row_number()
                .over(partition_by=m.Order.status, order_by=m.Order.amount.desc())
                .label("n"),
            ).subquery(),
        ),
        "a common table expression": lambda m: let(
            lambda c: select(c.c.id), select(m.Order.id).where(m.Order.amount > 60).cte("big")
        ),
        "an unfiltered common table expression": lambda m: let(
            lambda c: select(func.count(), func.max(c.c.amount)), select(m.Order).cte()
        ),
        "a common table expression used twice": lambda m: let(
            lambda c, d: select(c.c.id, d.c.id.label("e")).where(c.c.id < d.c.id),
            *let(lambda c: (c, c.alias("d")), select(m.Order.id).cte("both")),
        ),
        "an entity from a common table expression": lambda m: select(
            aliased(m.Order, select(m.Order).cte("o"))
        ),
        "nested common table expressions": lambda m: let(
            lambda outer: select(outer.c.id, outer.c.amount),
            select(select(m.Order.id, m.Order.amount).cte("inner_", nesting=True)).cte("outer_"),
        ),
        "chained common table expressions": lambda m: let(
            lambda first: let(
                lambda second: select(second.c.n),
                select(func.count(first.c.id).label("n")).cte("second"),
            ),
            select(m.Order.id).cte("first"),
        ),
        "a common table expression in exists": lambda m: let(
            lambda c: select(m.Customer.name).where(
                exists().where(c.c.customer_id == m.Customer.id)
            ),
            select(m.Order.customer_id).where(m.Order.amount > 10000).cte("huge"),
        ),
        "a common table expression in a scalar subquery": lambda m: let(
            lambda c: select(select(func.count(c.c.id)).scalar_subquery()),
            select(m.Order.id).cte("c"),
        ),
        "a common table expression of a union": lambda m: let(
            lambda c: select(c.c.name),
            union_all(select(m.Tag.name), select(m.Label.name)).cte("names"),
        ),
        "a recursive tree": lambda m: _tree(m),
        "a recursive tree of entities": lambda m: _tree_of_entities(m),
        "a recursive tree upwards": lambda m: _tree_upwards(m),
    }
)


def _tree(m: Any) -> Any:
    top = (
        select(m.Category.id, m.Category.name, literal(0).label("depth"))
        .where(m.Category.parent_id.is_(None))
        .cte("tree", recursive=True)
    )
    below = aliased(m.Category)
    tree = top.union_all(
        select(below.id, below.name, top.c.depth + 1).join(top, below.parent_id == top.c.id)
    )
    return select(tree.c.id, tree.c.name, tree.c.depth).order_by(tree.c.id)


def _tree_of_entities(m: Any) -> Any:
    start = select(m.Category.id).where(m.Category.id == 1).cte("tree", recursive=True)
    tree = start.union(select(m.Category.id).where(m.Category.parent_id == start.c.id))
    return select(m.Category).join(tree, m.Category.id == tree.c.id).order_by(m.Category.id)


def _tree_upwards(m: Any) -> Any:
    start = (
        select(m.Category.id, m.Category.parent_id)
        .where(m.Category.id.in_([9, 10, 60]))
        .cte("up", recursive=True)
    )
    tree = start.union(
        select(m.Category.id, m.Category.parent_id).where(m.Category.id == start.c.parent_id)
    )
    return select(tree.c.id).order_by(tree.c.id)


SELECTS.statements(
    {
        "an implicit join": lambda m: select(m.Customer.name, m.Order.number).where(
            m.Order.customer_id == m.Customer.id
        ),
        "a product of two tables": lambda m: select(m.Tag.name, m.Label.name),
        "a join by relationship": lambda m: select(m.Customer.name, m.Order.number).join(
            m.Customer.orders
        ),
        "a join by foreign key": lambda m: select(m.Customer.name, m.Order.number).join(m.Order),
        "a join with an explicit on": lambda m: select(m.Customer.name, m.Order.number).join(
            m.Order, m.Order.customer_id == m.Customer.id
        ),
        "a join on true": lambda m: select(m.Tag.name, m.Label.name).join(m.Label, true()),
        "a join on a natural key": lambda m: let(
            lambda other: select(m.Order.id, other.id.label("o")).join(
                other, other.number == m.Order.number
            ),
            aliased(m.Order),
        ),
        "a pattern with a backslash as its escape": lambda m: select(m.Tag.id).where(
            m.Tag.name.like("t%", escape="\\")
        ),
        "patterns with a backslash, one or the other": lambda m: select(m.Remark.id).where(
            m.Remark.body.contains("k_1", autoescape=True, escape="\\")
            | m.Remark.body.endswith("2", autoescape=True, escape="\\")
        ),
        "an alias named as SQLAlchemy names those of the parent": lambda m: select(
            aliased(m.LineItem, name=f"{m.prefix}orders_1").id
        ),
        "an alias named as SQLAlchemy names those of the parent's parent": lambda m: select(
            aliased(m.Remark, name=f"{m.prefix}line_items_1").id
        ),
        "a join with a further criterion": lambda m: select(m.Customer.name).join(
            m.Customer.orders.and_(m.Order.amount > 60)
        ),
        "an outer join": lambda m: select(m.Customer.name, m.Order.number).outerjoin(
            m.Customer.orders
        ),
        "an outer join with an explicit on": lambda m: select(
            m.Customer.name, m.Order.id
        ).outerjoin(m.Order, and_(m.Order.customer_id == m.Customer.id, m.Order.amount > 60)),
        "an outer join and the missing side": lambda m: (
            select(m.Customer.name).outerjoin(m.Customer.orders).where(m.Order.id.is_(None))
        ),
        "an outer join with true": lambda m: select(m.Tag.id, m.Label.id.label("l")).outerjoin(
            m.Label, true()
        ),
        "an outer join to a two-step table": lambda m: (
            select(m.Order.id, m.LineItem.id.label("l"), m.Remark.body)
            .outerjoin(m.Order.lines)
            .outerjoin(m.LineItem.remarks)
        ),
        "an outer join from an unowned table": lambda m: select(
            m.Country.code, m.Customer.name
        ).outerjoin(m.Country.customers),
        "an outer join to an unowned table": lambda m: select(
            m.Customer.name, m.Country.name.label("c")
        ).outerjoin(m.Customer.country),
        "a right join spelled backwards": lambda m: select(m.Customer.name, m.Order.id).select_from(
            m.Order.__table__.outerjoin(m.Customer.__table__, m.Order.customer_id == m.Customer.id)
        ),
        "an inner join below an outer join": lambda m: select(
            m.Customer.name, m.Order.id, m.LineItem.id.label("l")
        ).select_from(
            m.Customer.__table__.outerjoin(
                m.Order.__table__.join(m.LineItem.__table__, m.LineItem.order_id == m.Order.id),
                m.Order.customer_id == m.Customer.id,
            )
        ),
        "an outer join below an outer join": lambda m: select(
            m.Customer.name, m.Order.id, m.LineItem.id.label("l")
        ).select_from(
            m.Customer.__table__.outerjoin(
                m.Order.__table__.outerjoin(
                    m.LineItem.__table__, m.LineItem.order_id == m.Order.id
                ),
                m.Order.customer_id == m.Customer.id,
            )
        ),
        "an outer join below an inner join": lambda m: select(
            m.Country.code, m.Customer.name, m.Order.id
        ).select_from(
            m.Country.__table__.join(
                m.Customer.__table__.outerjoin(
                    m.Order.__table__, m.Order.customer_id == m.Customer.id
                ),
                m.Customer.country_code == m.Country.code,
            )
        ),
        "a self join": lambda m: let(
            lambda p: select(m.Category.name, p.name.label("p")).join(
                p, m.Category.parent_id == p.id
            ),
            aliased(m.Category),
        ),
        "a self join by relationship": lambda m: let(
            lambda p: select(m.Category.name, p.name.label("p")).join(m.Category.parent.of_type(p)),
            aliased(m.Category),
        ),
        "an outer self join": lambda m: let(
            lambda c: select(m.Category.name, c.name.label("c")).outerjoin(
                c, c.parent_id == m.Category.id
            ),
            aliased(m.Category),
        ),
        "three aliases of one table": lambda m: let(
            lambda a, b, c: select(a.id, b.id.label("b"), c.id.label("c")).where(
                a.id == b.parent_id, b.id == c.parent_id
            ),
            aliased(m.Category),
            aliased(m.Category),
            aliased(m.Category),
        ),
        "an alias": lambda m: let(lambda o: select(o).where(o.amount > 60), aliased(m.Order)),
        "a named alias": lambda m: let(lambda o: select(o.id), aliased(m.Order, name="x")),
        "a flat alias of a joined hierarchy": lambda m: let(
            lambda e: select(e.name, e.language), aliased(m.Engineer, flat=True)
        ),
        "through a secondary": lambda m: select(m.Order.id, m.Tag.name).join(m.Order.tags),
        "through a secondary, outer": lambda m: select(m.Order.id, m.Tag.name).outerjoin(
            m.Order.tags
        ),
        "through a secondary with a tenant": lambda m: select(m.Order.id, m.Label.name).join(
            m.Order.labels
        ),
        "through a secondary with a tenant, outer": lambda m: select(
            m.Order.id, m.Label.name
        ).outerjoin(m.Order.labels),
        "the secondary table alone": lambda m: select(m.order_tags),
        "the secondary table with a tenant alone": lambda m: select(m.order_labels),
        "count of a secondary table": lambda m: select(func.count()).select_from(m.order_tags),
        "an association object": lambda m: (
            select(m.User.name, m.Membership.role, m.Team.name.label("t"))
            .join(m.User.memberships)
            .join(m.Membership.team)
        ),
        "an association object alone": lambda m: select(m.Membership),
        "one step through a parent": lambda m: select(m.LineItem),
        "two steps through parents": lambda m: select(m.Remark.body),
        "a through table aggregated": lambda m: select(
            m.LineItem.order_id, func.sum(m.LineItem.quantity)
        ).group_by(m.LineItem.order_id),
        "count of a two-step table": lambda m: select(func.count(m.Remark.id)),
        "a child under another tenant's parent": lambda m: select(m.LineItem.quantity).join(
            m.LineItem.product
        ),
        "a four table join": lambda m: (
            select(m.Customer.name, m.Order.number, m.LineItem.quantity, m.Product.sku)
            .join(m.Customer.orders)
            .join(m.Order.lines)
            .join(m.LineItem.product)
        ),
        "a custom primaryjoin": lambda m: let(
            lambda c: select(m.Customer.id, c.id.label("c")).join(m.Customer.namesakes.of_type(c)),
            aliased(m.Customer),
        ),
        "a relationship to an alias": lambda m: select(m.Customer.id).join(m.Customer.best_orders),
        "a one to one": lambda m: select(m.Order.number, m.Invoice.total).join(m.Order.invoice),
        "a composite foreign key": lambda m: select(m.Account.balance, m.Transfer.amount).join(
            m.Account.transfers
        ),
        "a composite primary key": lambda m: select(m.Account),
        "another tenant column name": lambda m: select(m.Product.sku),
        "another tenant attribute name": lambda m: select(m.Subscription),
        "a mapped dataclass": lambda m: select(m.Memo),
        "an imperative class": lambda m: select(m.Ticket),
        "an imperative relationship": lambda m: select(m.Ticket.subject, m.Order.number).join(
            m.Ticket.order
        ),
        "a marked mixin": lambda m: select(m.Comment.body, m.Attachment.name).join(
            m.Attachment.comment
        ),
        "a second mapping of an owned table": lambda m: select(m.OrderSummary),
        "a mapping of a join": lambda m: select(m.CustomerOrder.name, m.CustomerOrder.number),
        "shared rows": lambda m: select(m.Setting.name, m.Setting.value),
        "shared rows counted": lambda m: select(func.count(m.Setting.id)),
        "shared rows, outer joined": lambda m: let(
            lambda s: select(m.Setting.name, s.value).outerjoin(
                s, and_(s.name == m.Setting.name, s.tenant_id.is_not(None))
            ),
            aliased(m.Setting),
        ),
        "shared rows by tenant": lambda m: select(m.Setting.name).where(
            m.Setting.tenant_id.is_(None)
        ),
        "a reserved word as table name": lambda m: select(m.User.name),
        "for update": lambda m: select(m.Order.id).with_for_update(),
        "a bound parameter that looks like ours": lambda m: select(m.Order.id).where(
            m.Order.status == bindparam("tenant", "paid"),
            m.Order.amount > bindparam("tenant_id", 0),
            m.Order.amount > bindparam("partywall_tenant", 0),
        ),
        "with a hint": lambda m: select(m.Order.id).with_statement_hint("", "*"),
        "with prefix and suffix": lambda m: (
            select(m.Order.id).prefix_with("/* why */").suffix_with("/* not */")
        ),
        "options on a joined load": lambda m: (
            select(m.Order).join(m.Order.customer).options(contains_eager(m.Order.customer))
        ),
        "correlated to the outer table": lambda m: select(m.Order.id).where(
            m.Order.amount > select(func.avg(aliased(m.Order, name="o2").amount)).scalar_subquery()
        ),
        "correlated on the same group": lambda m: let(
            lambda o: select(m.Order.id).where(
                m.Order.amount
                == select(func.max(o.amount))
                .where(o.customer_id == m.Order.customer_id)
                .scalar_subquery()
            ),
            aliased(m.Order),
        ),
    }
)

SELECTS.statements(
    {
        "a full join": lambda m: select(m.Customer.name, m.Order.number).join(
            m.Order, m.Order.customer_id == m.Customer.id, full=True
        ),
        "a full join on a natural key": lambda m: select(m.Tag.id, m.Label.id.label("l")).join(
            m.Label, func.substr(m.Tag.name, 5, 1) == func.substr(m.Label.name, 7, 1), full=True
        ),
        "a full join with an unowned table": lambda m: select(m.Country.code, m.Customer.name).join(
            m.Customer, m.Customer.country_code == m.Country.code, full=True
        ),
        "a full join below a join": lambda m: select(m.Invoice.total, m.Customer.name).select_from(
            m.Customer.__table__.join(
                m.Order.__table__, m.Order.customer_id == m.Customer.id, full=True
            ).join(m.Invoice.__table__, m.Invoice.order_id == m.Order.id)
        ),
    },
    only="sqlite postgresql",
)

SELECTS.statements(
    {
        "a union": lambda m: union(select(m.Tag.name), select(m.Label.name)),
        "a union with an order": lambda m: union_all(
            select(m.Order.id), select(m.Event.id)
        ).order_by("id"),
        "an intersection": lambda m: intersect(select(m.Order.id), select(m.Customer.id)),
        "a difference": lambda m: except_(select(m.Order.id), select(m.Customer.id)),
        "a union by method": lambda m: select(m.Tag.name).union(select(m.Label.name)),
        "a union in a derived table": lambda m: select(
            union_all(select(m.Order.id), select(m.Order.id)).subquery()
        ),
        "an entity from a union": lambda m: select(m.Order).from_statement(
            union(
                select(m.Order).where(m.Order.amount > 60),
                select(m.Order).where(m.Order.status == "new"),
            ).order_by("id")
        ),
        "an alias of a union": lambda m: select(
            aliased(
                m.Order,
                union(
                    select(m.Order).where(m.Order.amount > 60),
                    select(m.Order).where(m.Order.status == "new"),
                ).subquery(),
            )
        ),
        "a union in an in": lambda m: select(m.Customer.id).where(
            m.Customer.id.in_(union_all(select(m.Order.customer_id), select(m.Asset.customer_id)))
        ),
        "a union with an unowned table": lambda m: union_all(
            select(m.Country.name), select(m.Customer.name)
        ),
        "from_statement of a select": lambda m: select(m.Order).from_statement(
            select(m.Order).order_by(m.Order.id)
        ),
        "from_statement of a core select": lambda m: select(m.Order).from_statement(
            select(m.Order.__table__).order_by(m.Order.__table__.c.id)
        ),
        "a set operation of limits": lambda m: union_all(
            select(select(m.Order.id).order_by(m.Order.id).limit(1).subquery()),
            select(select(m.Order.id).order_by(m.Order.id.desc()).limit(1).subquery()),
        ),
        "a difference of nested unions": lambda m: except_(
            select(union(select(m.Order.id), select(m.Event.id)).subquery()),
            select(m.Customer.id),
        ),
    }
)

SELECTS.statements(
    {
        "a lateral subquery": lambda m: let(
            lambda top: select(m.Customer.name, top.c.amount).join(top, true()),
            select(m.Order.amount)
            .where(m.Order.customer_id == m.Customer.id)
            .order_by(m.Order.amount.desc())
            .limit(1)
            .lateral(),
        ),
        "an outer lateral subquery": lambda m: let(
            lambda top: select(m.Customer.name, top.c.amount).outerjoin(top, true()),
            select(m.Order.amount)
            .where(m.Order.customer_id == m.Customer.id)
            .order_by(m.Order.amount.desc())
            .limit(1)
            .lateral(),
        ),
        "a lateral function": lambda m: select(m.Customer.name, column("n")).select_from(
            m.Customer.__table__.join(
                lateral(
                    select(func.count(m.Order.id).label("n")).where(
                        m.Order.customer_id == m.Customer.id
                    )
                ),
                true(),
            )
        ),
        "distinct on": lambda m: (
            select(m.Order.customer_id, m.Order.amount)
            .distinct(m.Order.customer_id)
            .order_by(m.Order.customer_id, m.Order.amount.desc())
        ),
        "an aggregate with a filter": lambda m: select(
            func.count(m.Order.id).filter(m.Order.status == "paid")
        ),
        "max with a filter alone": lambda m: select(
            func.max(m.Order.amount).filter(m.Order.status == "new")
        ),
        "within group": lambda m: select(within_group(func.percentile_disc(0.5), m.Order.amount)),
        "array_agg": lambda m: select(func.array_agg(m.Order.number)),
        "rollup": lambda m: select(m.Order.status, func.count()).group_by(
            func.rollup(m.Order.status)
        ),
        "a table sample": lambda m: select(
            tablesample(m.Order.__table__, func.bernoulli(100)).c.id
        ),
        "an entity of a table sample": lambda m: select(
            aliased(m.Order, tablesample(m.Order, func.system(100)))
        ),
        "only a table": lambda m: select(m.Order.id).with_hint(m.Order, "ONLY", "postgresql"),
        "rows locked of one table": lambda m: (
            select(m.Order.id).join(m.Customer).with_for_update(of=m.Order, skip_locked=True)
        ),
        "a comparison with any of a subquery": lambda m: select(m.Order.id).where(
            m.Order.amount >= func.any(select(m.Order.amount).scalar_subquery())
        ),
        "an intersection of all": lambda m: select(m.Order.id).intersect_all(select(m.Event.id)),
        "an array of a subquery": lambda m: select(
            func.array(select(m.Order.id).order_by(m.Order.id).scalar_subquery())
        ),
    },
    only="postgresql",
)

SELECTS.statements(
    {
        "an aggregate with a filter here": lambda m: select(
            func.max(m.Order.amount).filter(m.Order.status == "new")
        ),
        "row values against a subquery": lambda m: select(m.Order.id).where(
            tuple_(m.Order.customer_id, m.Order.amount).in_(
                select(m.Order.customer_id, func.max(m.Order.amount)).group_by(m.Order.customer_id)
            )
        ),
    },
    only="sqlite postgresql",
)

SELECTS.statements(
    {
        "joined with a values list": lambda m: let(
            lambda v: select(m.Order.id, v.c.n).join(v, v.c.n == m.Order.number),
            values(column("n", String), name="v").data([("N-0",), ("N-1",), ("X-60",)]),
        ),
    },
    only="postgresql",
)

SELECTS.statements(
    {
        "a joined base class": lambda m: select(m.Employee).order_by(m.Employee.id),
        "a joined sub class": lambda m: select(m.Engineer).order_by(m.Engineer.id),
        "a joined sub sub class": lambda m: select(m.Senior),
        "a column of a sub table": lambda m: select(m.Engineer.language),
        "a column of a sub table of a sub table": lambda m: select(m.Senior.level),
        "an aggregate of a sub table": lambda m: select(func.max(m.Manager.budget)),
        "the sub table alone": lambda m: select(m.Engineer.__table__),
        "the sub sub table alone": lambda m: select(func.count()).select_from(m.Senior.__table__),
        "the sub table aliased": lambda m: select(m.Manager.__table__.alias("x").c.budget),
        "with_polymorphic star": lambda m: let(
            lambda e: select(e).order_by(e.id), with_polymorphic(m.Employee, "*")
        ),
        "with_polymorphic of one": lambda m: let(
            lambda e: select(e.name, e.Engineer.language).order_by(e.id),
            with_polymorphic(m.Employee, [m.Engineer]),
        ),
        "with_polymorphic aliased": lambda m: let(
            lambda e: select(e).order_by(e.id),
            with_polymorphic(m.Employee, [m.Engineer, m.Manager], aliased=True),
        ),
        "with_polymorphic flat": lambda m: let(
            lambda e: select(e).where(e.Manager.budget > 0),
            with_polymorphic(m.Employee, [m.Manager], flat=True),
        ),
        "with_polymorphic inner": lambda m: let(
            lambda e: select(e.name, e.Manager.budget),
            with_polymorphic(m.Employee, [m.Manager], innerjoin=True),
        ),
        "of_type in a join": lambda m: select(m.Team.name, m.Engineer.language).join(
            m.Team.members.of_type(m.Engineer)
        ),
        "of_type in an outer join": lambda m: select(m.Team.name, m.Manager.budget).outerjoin(
            m.Team.members.of_type(m.Manager)
        ),
        "of_type with_polymorphic": lambda m: let(
            lambda e: select(m.Team.name, e.name.label("e")).join(m.Team.members.of_type(e)),
            with_polymorphic(m.Employee, "*", aliased=True),
        ),
        "a relationship of a sub class": lambda m: select(m.Manager.name, m.Project.name).join(
            m.Manager.projects
        ),
        "a relationship to a sub class": lambda m: select(m.Project.name, m.Manager.budget).join(
            m.Project.manager
        ),
        "an outer relationship to a sub class": lambda m: select(
            m.Project.id, m.Manager.name
        ).outerjoin(m.Project.manager),
        "has on a sub class": lambda m: select(m.Project.id).where(
            m.Project.manager.has(m.Manager.name == "manager 3")
        ),
        "a single-table base": lambda m: select(m.Asset).order_by(m.Asset.id),
        "a single-table sub class": lambda m: select(m.Vehicle),
        "a column of a single-table sub class": lambda m: select(m.Vehicle.plate),
        "a count of a single-table sub class": lambda m: select(func.count(m.Building.id)),
        "a join to a single-table sub class": lambda m: select(
            m.Customer.name, m.Vehicle.plate
        ).join(m.Customer.assets.of_type(m.Vehicle)),
        "an outer join to a single-table sub class": lambda m: select(
            m.Customer.name, m.Vehicle.plate
        ).outerjoin(m.Customer.assets.of_type(m.Vehicle)),
        "an alias of a single-table sub class": lambda m: let(
            lambda v: select(v.plate), aliased(m.Vehicle)
        ),
        "a concrete base": lambda m: select(m.Payment),
        "a concrete sub class": lambda m: select(m.CardPayment),
        "a column of a concrete base": lambda m: select(m.Payment.amount),
        "a concrete table": lambda m: select(m.CardPayment.__table__),
        "an aggregate of a concrete base": lambda m: select(func.sum(m.Payment.amount)),
        "a join to a concrete base": lambda m: select(m.Order.id, m.Payment.amount).join(
            m.Order.payments
        ),
        "any of a concrete base": lambda m: select(m.Order.id).where(
            m.Order.payments.any(m.Payment.amount > 1000)
        ),
    }
)

SELECTS.statements(
    {
        "a core select": lambda m: select(m.Order.__table__),
        "a core count": lambda m: select(func.count()).select_from(m.Order.__table__),
        "a core alias": lambda m: select(m.Order.__table__.alias("x")),
        "a core alias of an alias": lambda m: select(m.Order.__table__.alias("x").alias("y").c.id),
        "a core join": lambda m: select(m.Customer.__table__.c.name).select_from(
            m.Customer.__table__.join(m.Order.__table__)
        ),
        "a core outer join": lambda m: select(
            m.Customer.__table__.c.name, m.Order.__table__.c.number
        ).select_from(m.Customer.__table__.outerjoin(m.Order.__table__)),
        "a core table": lambda m: select(m.audit),
        "a core table by key": lambda m: select(m.audit.c.who, m.audit.c.entry),
        "a core subquery": lambda m: select(m.audit.select().subquery().c.entry),
        "table.select": lambda m: m.tickets.select(),
        "an ad-hoc table": lambda m: select(column("id")).select_from(table(m.prefix + "orders")),
        "an ad-hoc table with columns": lambda m: let(
            lambda t: select(t.c.id, t.c.amount),
            table(m.prefix + "orders", column("id"), column("amount")),
        ),
        "an ad-hoc table joined": lambda m: let(
            lambda t: select(m.Customer.name, t.c.number).join(t, t.c.customer_id == m.Customer.id),
            table(m.prefix + "orders", column("customer_id"), column("number")),
        ),
        "an ad-hoc table aliased": lambda m: let(
            lambda t: select(t.c.id), table(m.prefix + "orders", column("id")).alias("z")
        ),
        "an ad-hoc table in a subquery": lambda m: select(literal(1)).where(
            exists()
            .select_from(table(m.prefix + "orders", column("amount")))
            .where(column("amount") > 90000)
        ),
        "an ad-hoc table in an outer join": lambda m: let(
            lambda t: select(m.Customer.id, t.c.number).outerjoin(
                t, t.c.customer_id == m.Customer.id
            ),
            table(m.prefix + "orders", column("customer_id"), column("number")),
        ),
        "an ad-hoc two-step table": lambda m: let(
            lambda t: select(t.c.body),
            table(m.prefix + "remarks", column("id"), column("line_id"), column("body")),
        ),
        "a text criterion": lambda m: select(m.Order.id).where(text("amount > 60")),
        "a text criterion with or": lambda m: select(m.Order.id).where(
            text("amount > 60 OR 1 = 1")
        ),
        "a text criterion with a parameter": lambda m: select(m.Order.id).where(
            text("amount > :least OR status = 'new'").bindparams(least=60)
        ),
        "a text criterion with the table name": lambda m: select(m.Order.id).where(
            text(f"{m.prefix}orders.amount > 60")
        ),
        "a literal criterion with or": lambda m: select(m.Order.id).where(
            literal_column("1 = 1 OR 1", Integer) == literal_column("1")
        ),
        "a text order": lambda m: select(m.Order.id).order_by(text("amount DESC")),
        "a text group": lambda m: select(m.Order.status, func.count()).group_by(text("status")),
        "a text having": lambda m: (
            select(m.Order.status).group_by(m.Order.status).having(text("count(*) > 3 OR 1 = 1"))
        ),
        "a text column": lambda m: select(text("amount"), text("number")).select_from(m.Order),
        "a literal column": lambda m: select(literal_column("amount")).select_from(m.Order),
        "a text on clause with or": lambda m: select(m.Tag.id, m.Label.id.label("l")).join(
            m.Label, text("1 = 1 OR 1 = 1")
        ),
        "a text on clause with or, outer": lambda m: select(
            m.Tag.id, m.Label.id.label("l")
        ).outerjoin(m.Label, text("1 = 1 OR 1 = 1")),
        "op with or inside": lambda m: select(m.Order.id).where(m.Order.amount.op("> 0 OR 0 <")(1)),
        "op that ends in or": lambda m: select(m.Order.id).where(m.Order.amount.bool_op("OR")(1)),
        "a custom operator on strings": lambda m: select(m.Order.number.op("||")("x")),
    },
    only="sqlite",
)

SELECTS.statements(
    {
        "text criteria everywhere": lambda m: (
            select(m.Order.id).where(text("amount > 60 OR 1 = 1")).order_by(text("amount DESC"))
        ),
        "an ad-hoc table here": lambda m: let(
            lambda t: select(t.c.id, t.c.amount),
            table(m.prefix + "orders", column("id"), column("amount")),
        ),
        "a core table here": lambda m: select(m.audit.c.entry),
    },
    only="postgresql mariadb",
)

SELECTS.statements(
    {
        "unowned rows": lambda m: select(m.Country),
        "no table at all": lambda m: select(literal(1), func.coalesce(None, 2)),
        "unowned rows by text": lambda m: text(f"SELECT name FROM {m.prefix}countries"),
        "text without a table": lambda m: text("SELECT 1 AS one"),
    },
    without_tenant="same",
)
