"""Writes through the unit of work."""

from __future__ import annotations

from typing import Any

from sqlalchemy import event, func, inspect, literal, select, update
from sqlalchemy.exc import IntegrityError, InvalidRequestError, StatementError
from sqlalchemy.orm import joinedload, make_transient, selectinload
from sqlalchemy.orm.exc import StaleDataError

from oracle import Shapes, bag, plain

WRITES = Shapes()


def first(session: Any, cls: Any) -> Any:
    key = inspect(cls).get_property_by_column(inspect(cls).primary_key[0]).key
    return session.scalars(select(cls).order_by(getattr(cls, key)).limit(1)).one()


@WRITES
def add_one(session: Any, m: Any) -> Any:
    order = m.Order(number="N-100", amount=5)
    session.add(order)
    session.flush()
    return plain(order), order.tenant_id == m.acme


@WRITES
def add_one_with_its_tenant(session: Any, m: Any) -> Any:
    session.add(m.Order(number="N-100", tenant_id=m.acme))


@WRITES
def add_the_natural_key_of_another_tenant(session: Any, m: Any) -> Any:
    session.add(m.Order(number="X-60"))
    session.add(m.Customer(name="Spy", email="spy@example.com"))


@WRITES
def add_all(session: Any, m: Any) -> Any:
    session.add_all([m.Order(number=f"M-{n}", amount=n) for n in range(30)])


@WRITES
def add_a_graph(session: Any, m: Any) -> Any:
    customer = m.Customer(name="New", email="new@example.com")
    customer.orders = [
        m.Order(
            number=f"G-{n}",
            lines=[m.LineItem(quantity=n, remarks=[m.Remark(body="r"), m.Remark(body="s")])],
            tags=[m.Tag(name="fresh")],
            labels=[m.Label(name="fresh")],
            invoice=m.Invoice(total=3),
        )
        for n in range(2)
    ]
    session.add(customer)
    session.flush()
    return customer.id, [order.id for order in customer.orders]


@WRITES
def add_through_a_parent(session: Any, m: Any) -> Any:
    session.add(m.LineItem(order_id=1, product_id=3, quantity=9))
    session.add(m.Remark(line_id=1, body="new"))


@WRITES
def add_to_a_collection(session: Any, m: Any) -> Any:
    customer = first(session, m.Customer)
    customer.orders.append(m.Order(number="C-1"))
    session.flush()
    return [plain(order) for order in customer.orders]


@WRITES
def add_by_the_many_to_one(session: Any, m: Any) -> Any:
    session.add(m.Order(number="P-1", customer=first(session, m.Customer)))


@WRITES
def add_by_a_foreign_key(session: Any, m: Any) -> Any:
    session.add(m.Order(number="P-1", customer_id=3))


@WRITES
def add_to_an_unowned_parent(session: Any, m: Any) -> Any:
    country = session.get(m.Country, "NL")
    country.customers.append(m.Customer(name="Dutch"))


@WRITES
def add_an_unowned_row(session: Any, m: Any) -> Any:
    session.add(m.Country(code="FR", name="France"))
    session.add(m.Customer(name="French", country_code="FR"))


@WRITES
def add_with_a_key_of_ones_own(session: Any, m: Any) -> Any:
    session.add(m.Order(id=5000, number="K-1"))
    session.flush()
    return plain(session.get(m.Order, 5000))


@WRITES
def add_with_an_expression(session: Any, m: Any) -> Any:
    order = m.Order(number="E-1", amount=select(func.max(m.Event.weight)).scalar_subquery())
    session.add(order)
    session.flush()
    return order.amount


@WRITES
def add_a_dataclass(session: Any, m: Any) -> Any:
    memo = m.Memo(title="new", stars=3)
    session.add(memo)
    session.flush()
    return plain(memo)


@WRITES
def add_an_imperative_object(session: Any, m: Any) -> Any:
    session.add(m.Ticket(subject="new", order=first(session, m.Order)))


@WRITES
def add_under_another_attribute_name(session: Any, m: Any) -> Any:
    session.add_all([m.Subscription(plan="x"), m.Product(sku="new"), m.Subscription(owner=m.acme)])


@WRITES
def add_of_a_marked_mixin(session: Any, m: Any) -> Any:
    session.add(m.Comment(body="new", replies=[m.Comment(body="reply")]))


@WRITES
def add_to_a_joined_hierarchy(session: Any, m: Any) -> Any:
    session.add_all(
        [
            m.Employee(name="e"),
            m.Engineer(name="g", language="c"),
            m.Senior(name="s", level=2, language="d"),
            m.Manager(name="m", budget=1, projects=[m.Project(name="p")]),
        ]
    )


@WRITES
def add_to_a_single_table_hierarchy(session: Any, m: Any) -> Any:
    session.add_all([m.Asset(name="a"), m.Vehicle(plate="v"), m.Building(floors=2)])


@WRITES
def add_to_a_concrete_hierarchy(session: Any, m: Any) -> Any:
    session.add_all([m.Payment(amount=1), m.CardPayment(amount=2, card="4")])


@WRITES
def add_with_a_composite_key(session: Any, m: Any) -> Any:
    session.add(m.Account(number=77, balance=1, transfers=[m.Transfer(amount=2)]))


@WRITES
def add_with_a_composite_key_written_out(session: Any, m: Any) -> Any:
    session.add(m.Account(tenant_id=m.acme, number=77, balance=1))
    session.flush()
    return plain(session.get(m.Account, (m.acme, 77)))


@WRITES
def add_by_a_composite_foreign_key(session: Any, m: Any) -> Any:
    session.add(m.Transfer(account=session.get(m.Account, (m.acme, 1)), amount=9))


@WRITES
def add_an_own_setting(session: Any, m: Any) -> Any:
    session.add(m.Setting(name="size", value="10", tenant_id=m.acme))


@WRITES
def add_to_a_dynamic_relationship(session: Any, m: Any) -> Any:
    order = first(session, m.Order)
    order.events.append(m.Event(kind="late"))
    session.flush()
    order.events.remove(order.events.order_by(m.Event.id).first())
    return order.events.count()


@WRITES
def add_to_a_write_only_relationship(session: Any, m: Any) -> Any:
    order = first(session, m.Order)
    order.shipments.add(m.Shipment(carrier="new"))
    session.flush()
    return bag(session.scalars(order.shipments.select()))


@WRITES
def remove_from_a_write_only_relationship(session: Any, m: Any) -> Any:
    order = first(session, m.Order)
    gone = session.scalars(order.shipments.select().order_by(m.Shipment.id)).first()
    order.shipments.remove(gone)


@WRITES
def insert_into_a_write_only_relationship(session: Any, m: Any) -> Any:
    order = first(session, m.Order)
    session.execute(order.shipments.insert(), [{"carrier": "one"}, {"carrier": "two"}])


@WRITES
def update_a_write_only_relationship(session: Any, m: Any) -> Any:
    order = first(session, m.Order)
    session.execute(order.shipments.update().values(carrier="all"))


@WRITES
def delete_from_a_write_only_relationship(session: Any, m: Any) -> Any:
    order = first(session, m.Order)
    session.execute(order.shipments.delete().where(m.Shipment.id < 7))


@WRITES
def change_an_attribute(session: Any, m: Any) -> Any:
    order = first(session, m.Order)
    order.amount = 1
    session.flush()
    return plain(order)


@WRITES
def change_every_row(session: Any, m: Any) -> Any:
    for order in session.scalars(select(m.Order)):
        order.amount += 1
        order.note = "changed"


@WRITES
def change_by_an_expression(session: Any, m: Any) -> Any:
    order = first(session, m.Order)
    order.amount = m.Order.amount + 1
    session.flush()
    return order.amount


@WRITES
def change_after_a_commit(session: Any, m: Any) -> Any:
    order = first(session, m.Order)
    session.commit()
    order.amount = 1
    session.commit()
    return order.amount


@WRITES
def change_an_expired_object(session: Any, m: Any) -> Any:
    order = first(session, m.Order)
    session.expire(order)
    order.amount = 1


@WRITES(changes=False)
def change_nothing(session: Any, m: Any) -> Any:
    order = first(session, m.Order)
    order.amount = order.amount
    order.tenant_id = m.acme
    return session.is_modified(order)


@WRITES
def change_the_tenant_to_what_it_is(session: Any, m: Any) -> Any:
    order = first(session, m.Order)
    order.tenant_id = m.acme
    order.amount = 1


@WRITES
def change_a_natural_key(session: Any, m: Any) -> Any:
    first(session, m.Order).number = "X-60"


@WRITES
def change_through_a_parent(session: Any, m: Any) -> Any:
    session.get(m.LineItem, 1).quantity = 1000
    session.get(m.Remark, 1).body = "changed"


@WRITES
def change_a_joined_sub_class(session: Any, m: Any) -> Any:
    senior = first(session, m.Senior)
    senior.level, senior.language, senior.name = 9, "x", "changed"


@WRITES
def change_only_the_sub_table(session: Any, m: Any) -> Any:
    for manager in session.scalars(select(m.Manager)):
        manager.budget = 1


@WRITES
def change_a_single_table_sub_class(session: Any, m: Any) -> Any:
    first(session, m.Vehicle).plate = "changed"


@WRITES
def change_a_concrete_sub_class(session: Any, m: Any) -> Any:
    first(session, m.CardPayment).card = "changed"


@WRITES
def change_by_a_second_mapping(session: Any, m: Any) -> Any:
    first(session, m.OrderSummary).amount = 12


@WRITES
def change_a_versioned_row(session: Any, m: Any) -> Any:
    document = first(session, m.Document)
    document.title = "second"
    session.flush()
    document.title = "third"
    session.flush()
    return document.version


@WRITES(fails=StaleDataError, changes=False)
def change_a_versioned_row_too_late(session: Any, m: Any) -> Any:
    document = first(session, m.Document)
    session.execute(
        update(m.Document).values(version=9).execution_options(synchronize_session=False)
    )
    document.title = "late"
    session.flush()


@WRITES
def delete_a_versioned_row(session: Any, m: Any) -> Any:
    session.delete(first(session, m.Document))


@WRITES
def change_a_mapped_dataclass(session: Any, m: Any) -> Any:
    memo = first(session, m.Memo)
    memo.title = "changed"


@WRITES
def change_a_composite_key_row(session: Any, m: Any) -> Any:
    session.get(m.Account, (m.acme, 1)).balance = 5


@WRITES
def change_a_primary_key(session: Any, m: Any) -> Any:
    session.get(m.Document, 1).id = 4000


@WRITES
def set_a_many_to_one(session: Any, m: Any) -> Any:
    order = first(session, m.Order)
    order.customer = session.get(m.Customer, 3)
    session.flush()
    return order.customer_id


@WRITES
def set_a_foreign_key(session: Any, m: Any) -> Any:
    first(session, m.Order).customer_id = 3


@WRITES
def set_a_many_to_one_to_none(session: Any, m: Any) -> Any:
    line = session.get(m.LineItem, 1)
    line.product = None
    first(session, m.Ticket).order = None


@WRITES
def set_a_backref(session: Any, m: Any) -> Any:
    product = session.get(m.Product, 3)
    product.lines.append(session.get(m.LineItem, 1))


@WRITES
def move_a_child_to_another_parent(session: Any, m: Any) -> Any:
    order = session.get(m.Order, 3)
    order.lines.append(session.get(m.LineItem, 1))
    session.flush()
    return session.get(m.LineItem, 1).order_id


@WRITES
def replace_a_one_to_one(session: Any, m: Any) -> Any:
    order = first(session, m.Order)
    order.invoice = None
    session.flush()
    order.invoice = m.Invoice(total=8)


@WRITES
def grow_a_tree(session: Any, m: Any) -> Any:
    top = first(session, m.Category)
    top.children.append(m.Category(name="new", children=[m.Category(name="below")]))


@WRITES
def move_a_branch(session: Any, m: Any) -> Any:
    session.get(m.Category, 9).parent = session.get(m.Category, 5)


@WRITES
def secondary_append(session: Any, m: Any) -> Any:
    order = first(session, m.Order)
    order.tags.append(session.get(m.Tag, 3))
    order.tags.append(m.Tag(name="new"))


@WRITES
def secondary_append_from_the_other_side(session: Any, m: Any) -> Any:
    tag = session.get(m.Tag, 5)
    tag.orders.append(first(session, m.Order))


@WRITES
def secondary_remove(session: Any, m: Any) -> Any:
    order = first(session, m.Order)
    order.tags.remove(order.tags[0])


@WRITES
def secondary_replace(session: Any, m: Any) -> Any:
    order = first(session, m.Order)
    order.tags = [session.get(m.Tag, 3), session.get(m.Tag, 5)]


@WRITES
def secondary_clear(session: Any, m: Any) -> Any:
    for order in session.scalars(select(m.Order).options(selectinload(m.Order.tags))):
        order.tags.clear()


@WRITES
def secondary_with_a_tenant_append(session: Any, m: Any) -> Any:
    order = first(session, m.Order)
    order.labels.append(session.get(m.Label, 5))
    order.labels.append(m.Label(name="new"))


@WRITES
def secondary_with_a_tenant_remove(session: Any, m: Any) -> Any:
    order = first(session, m.Order)
    order.labels.clear()


@WRITES
def secondary_with_a_tenant_from_the_other_side(session: Any, m: Any) -> Any:
    label = session.get(m.Label, 5)
    label.orders = [session.get(m.Order, 1), session.get(m.Order, 3)]


@WRITES
def association_proxy_append(session: Any, m: Any) -> Any:
    order = first(session, m.Order)
    order.tag_names.append("proxied")
    session.flush()
    return list(order.tag_names)


@WRITES
def association_proxy_of_objects(session: Any, m: Any) -> Any:
    user = first(session, m.User)
    user.teams.append(m.Team(name="new"))
    user.teams.append(session.get(m.Team, 5))


@WRITES
def association_object_added(session: Any, m: Any) -> Any:
    session.add(m.Membership(user_id=1, team_id=5, role="lead"))


@WRITES
def association_object_removed(session: Any, m: Any) -> Any:
    user = first(session, m.User)
    user.memberships.remove(user.memberships[0])


@WRITES
def delete_one(session: Any, m: Any) -> Any:
    session.delete(session.get(m.Ticket, 1))


@WRITES
def delete_with_cascade(session: Any, m: Any) -> Any:
    order = session.get(m.Order, 9)
    order.lines.append(m.LineItem(remarks=[m.Remark(body="x")]))
    session.flush()
    session.delete(order)


@WRITES
def delete_with_cascade_over_existing_rows(session: Any, m: Any) -> Any:
    line = session.get(m.LineItem, 1)
    session.delete(line)


@WRITES
def delete_that_sets_children_to_null(session: Any, m: Any) -> Any:
    session.delete(session.get(m.Product, 3))


@WRITES
def delete_that_empties_a_secondary(session: Any, m: Any) -> Any:
    session.delete(session.get(m.Tag, 3))
    session.delete(session.get(m.Label, 3))


@WRITES
def delete_a_joined_sub_class(session: Any, m: Any) -> Any:
    session.delete(first(session, m.Senior))
    session.delete(first(session, m.Engineer))


@WRITES
def delete_a_single_table_sub_class(session: Any, m: Any) -> Any:
    session.delete(first(session, m.Vehicle))


@WRITES
def delete_a_composite_key_row(session: Any, m: Any) -> Any:
    session.delete(session.get(m.Account, (m.acme, 3)))


@WRITES
def delete_a_leaf_of_a_tree(session: Any, m: Any) -> Any:
    session.delete(session.get(m.Category, 9))


@WRITES
def delete_a_branch_by_cascade(session: Any, m: Any) -> Any:
    for attachment in session.scalars(select(m.Attachment)):
        session.delete(attachment)

    session.flush()
    session.delete(session.get(m.Comment, 7))


@WRITES
def delete_an_imperative_object(session: Any, m: Any) -> Any:
    session.delete(first(session, m.Ticket))


@WRITES
def delete_every_row_one_by_one(session: Any, m: Any) -> Any:
    for memo in session.scalars(select(m.Memo)):
        session.delete(memo)


@WRITES
def delete_an_expired_object(session: Any, m: Any) -> Any:
    memo = first(session, m.Memo)
    session.expire(memo)
    session.delete(memo)


@WRITES
def orphan_removed(session: Any, m: Any) -> Any:
    order = first(session, m.Order)
    order.lines.remove(order.lines[1])
    session.flush()
    return [line.id for line in order.lines]


@WRITES
def orphans_replaced(session: Any, m: Any) -> Any:
    line = session.get(m.LineItem, 3)
    line.remarks = [m.Remark(body="only")]


@WRITES
def merge_a_new_object(session: Any, m: Any) -> Any:
    return plain(session.merge(m.Tag(id=6000, name="merged")))


@WRITES
def merge_without_a_key(session: Any, m: Any) -> Any:
    session.merge(m.Tag(name="merged"))


@WRITES
def merge_over_an_existing_row(session: Any, m: Any) -> Any:
    return plain(session.merge(m.Tag(id=1, name="merged")))


@WRITES
def merge_with_the_tenant(session: Any, m: Any) -> Any:
    session.merge(m.Tag(id=1, name="merged", tenant_id=m.acme))


@WRITES
def merge_with_children(session: Any, m: Any) -> Any:
    session.merge(
        m.Order(id=1, number="N-0", lines=[m.LineItem(id=1, quantity=4), m.LineItem(quantity=5)])
    )


@WRITES
def merge_a_changed_detached_object(session: Any, m: Any) -> Any:
    order = first(session, m.Order)
    session.expunge(order)
    order.amount = 3
    return plain(session.merge(order))


@WRITES
def merge_a_composite_key(session: Any, m: Any) -> Any:
    session.merge(m.Account(tenant_id=m.acme, number=1, balance=6))


@WRITES
def a_detached_object_changed_and_added(session: Any, m: Any) -> Any:
    order = first(session, m.Order)
    session.expunge(order)
    order.amount = 4
    session.add(order)


@WRITES
def a_detached_object_deleted(session: Any, m: Any) -> Any:
    memo = first(session, m.Memo)
    session.expunge(memo)
    session.delete(memo)


@WRITES
def a_transient_copy_added(session: Any, m: Any) -> Any:
    memo = first(session, m.Memo)
    session.expunge(memo)
    make_transient(memo)
    del memo.id
    session.add(memo)


@WRITES
def autoflush_before_a_query(session: Any, m: Any) -> Any:
    session.add(m.Tag(name="flushed"))
    return bag(session.scalars(select(m.Tag.name)))


@WRITES
def autoflush_before_a_lazy_load(session: Any, m: Any) -> Any:
    order = first(session, m.Order)
    session.add(m.LineItem(order_id=order.id, quantity=1))
    return len(order.lines)


@WRITES
def a_savepoint_kept(session: Any, m: Any) -> Any:
    with session.begin_nested():
        session.add(m.Tag(name="kept"))


@WRITES
def a_savepoint_rolled_back(session: Any, m: Any) -> Any:
    session.add(m.Tag(name="outer"))
    savepoint = session.begin_nested()
    session.add(m.Tag(name="inner"))
    session.flush()
    savepoint.rollback()
    return bag(session.scalars(select(m.Tag.name)))


@WRITES
def a_savepoint_rolled_back_after_an_error(session: Any, m: Any) -> Any:
    for name in ("ada@example.com", "other@example.com"):
        try:
            with session.begin_nested():
                session.add(m.Customer(name="x", email=name))
        except IntegrityError as error:
            assert "unique" in str(error).lower() or "duplicate" in str(error).lower()


@WRITES(changes=False)
def everything_rolled_back(session: Any, m: Any) -> Any:
    order = first(session, m.Order)
    order.amount = 1
    session.add(m.Tag(name="gone"))
    session.flush()
    session.rollback()
    return order.amount, session.scalar(select(func.count(m.Tag.id)))


@WRITES(fails=IntegrityError, changes=False)
def a_duplicate_natural_key_of_ones_own(session: Any, m: Any) -> Any:
    session.add(m.Order(number="N-0"))
    session.flush()


@WRITES(fails=IntegrityError, changes=False)
def a_missing_value(session: Any, m: Any) -> Any:
    session.add(m.Tag())
    session.flush()


@WRITES(fails=IntegrityError, changes=False)
def a_parent_that_does_not_exist(session: Any, m: Any) -> Any:
    session.add(m.Customer(name="x", country_code="XX"))
    session.flush()


@WRITES(fails=StatementError, changes=False, only="sqlite")
def a_value_of_the_wrong_type(session: Any, m: Any) -> Any:
    session.add(m.Order(number="x", placed_on="yesterday"))
    session.flush()


@WRITES(fails=InvalidRequestError, changes=False, without_tenant="same")
def deleting_what_was_never_stored(session: Any, m: Any) -> Any:
    session.delete(m.Tag(name="x"))


@WRITES
def a_users_before_flush_that_adds_own_objects(session: Any, m: Any) -> Any:
    def note(session: Any, *_: Any) -> None:
        if not any(isinstance(item, m.Comment) for item in session.new):
            session.add(m.Comment(body="noted"))

    event.listen(session, "before_flush", note)
    session.add(m.Tag(name="watched"))


@WRITES
def a_users_before_insert(session: Any, m: Any) -> Any:
    def note(_: Any, connection: Any, target: Any) -> None:
        connection.execute(m.audit.insert(), {"entry": f"adding {target.name}"})

    event.listen(m.Label, "before_insert", note)
    try:
        session.add(m.Label(name="watched"))
        session.flush()
    finally:
        event.remove(m.Label, "before_insert", note)


@WRITES
def a_users_after_flush_statement(session: Any, m: Any) -> Any:
    def note(session: Any, *_: Any) -> None:
        session.execute(m.audit.insert().values(entry="flushed"))

    event.listen(session, "after_flush", note)
    session.add(m.Tag(name="watched"))
    session.flush()


@WRITES
def expire_on_commit_and_read_again(session: Any, m: Any) -> Any:
    tag = m.Tag(name="committed")
    session.add(tag)
    session.commit()
    return plain(tag), tag.name


@WRITES
def bulk_save_new_objects(session: Any, m: Any) -> Any:
    session.bulk_save_objects([m.Tag(name="b1"), m.Tag(name="b2")])


@WRITES
def bulk_save_with_defaults_returned(session: Any, m: Any) -> Any:
    tags = [m.Tag(name="b1"), m.Tag(name="b2")]
    session.bulk_save_objects(tags, return_defaults=True)
    return [tag.id for tag in tags]


@WRITES
def bulk_save_changed_objects(session: Any, m: Any) -> Any:
    orders = session.scalars(select(m.Order)).all()
    for order in orders:
        session.expunge(order)
        order.amount = 2

    session.bulk_save_objects(orders)


@WRITES
def bulk_insert_mappings(session: Any, m: Any) -> Any:
    session.bulk_insert_mappings(m.Tag, [{"name": "b1"}, {"name": "b2"}])


@WRITES
def bulk_insert_mappings_with_the_tenant(session: Any, m: Any) -> Any:
    session.bulk_insert_mappings(m.Tag, [{"name": "b1", "tenant_id": m.acme}])


@WRITES
def bulk_insert_mappings_of_a_hierarchy(session: Any, m: Any) -> Any:
    session.bulk_insert_mappings(m.Engineer, [{"name": "b1", "language": "c"}] * 2)


@WRITES
def bulk_insert_mappings_through_a_parent(session: Any, m: Any) -> Any:
    session.bulk_insert_mappings(m.LineItem, [{"order_id": 1}, {"order_id": 3, "quantity": 2}])


@WRITES
def bulk_update_mappings(session: Any, m: Any) -> Any:
    session.bulk_update_mappings(m.Order, [{"id": 1, "amount": 1}, {"id": 3, "amount": 2}])


@WRITES
def bulk_update_mappings_of_a_hierarchy(session: Any, m: Any) -> Any:
    session.bulk_update_mappings(m.Engineer, [{"id": 3, "name": "x", "language": "y"}])


@WRITES
def bulk_update_mappings_with_the_tenant(session: Any, m: Any) -> Any:
    session.bulk_update_mappings(m.Order, [{"id": 1, "amount": 1, "tenant_id": m.acme}])


@WRITES
def refresh_after_a_flush(session: Any, m: Any) -> Any:
    tag = m.Tag(name="new")
    session.add(tag)
    session.flush()
    session.refresh(tag)
    return plain(tag)


@WRITES
def an_object_used_after_a_rollback(session: Any, m: Any) -> Any:
    tag = m.Tag(name="twice")
    session.add(tag)
    session.flush()
    session.rollback()
    session.add(m.Tag(name=tag.name))


@WRITES
def eager_load_then_change(session: Any, m: Any) -> Any:
    orders = session.scalars(select(m.Order).options(joinedload(m.Order.lines))).unique().all()
    for order in orders:
        for line in order.lines:
            line.quantity += 1


@WRITES
def get_or_create(session: Any, m: Any) -> Any:
    found = []
    for email in ("ada@example.com", "spy@example.com"):
        customer = session.scalars(
            select(m.Customer).where(m.Customer.email == email)
        ).one_or_none()
        if customer is None:
            customer = m.Customer(name="created", email=email)
            session.add(customer)
            session.flush()

        found.append(customer.id)

    return found


@WRITES
def a_large_flush(session: Any, m: Any) -> Any:
    session.add_all([m.Order(number=f"L-{n}", customer_id=(1, 3, 5)[n % 3]) for n in range(400)])
    session.flush()
    return session.scalar(select(func.count(m.Order.id)))


@WRITES(without_tenant="same")
def unowned_rows_only(session: Any, m: Any) -> Any:
    session.add(m.Country(code="XX", name="new"))
    session.get(m.Country, "NL").name = "Holland"


@WRITES
def writes_beside_a_literal(session: Any, m: Any) -> Any:
    session.add(m.Tag(name=literal("literal")))
