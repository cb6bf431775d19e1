"""One schema with every form of ownership, built as often as needed.

`build` makes fresh classes each time, because ownership belongs to the Table. The walled classes
are marked; the plain ones have other table names (a prefix), because the wall also knows owned
tables by name. So the plain side never meets the wall at all: not even its way out.
"""

from __future__ import annotations

import datetime
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from sqlalchemy import (
    Column,
    Date,
    ForeignKey,
    ForeignKeyConstraint,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    Uuid,
    and_,
    func,
    join,
    select,
)
from sqlalchemy.ext.associationproxy import association_proxy
from sqlalchemy.ext.asyncio import AsyncAttrs
from sqlalchemy.ext.declarative import ConcreteBase
from sqlalchemy.ext.hybrid import hybrid_method, hybrid_property
from sqlalchemy.orm import (
    DeclarativeBase,
    Mapped,
    MappedAsDataclass,
    aliased,
    column_property,
    configure_mappers,
    deferred,
    foreign,
    mapped_column,
    query_expression,
    relationship,
    remote,
    synonym,
)


@dataclass(frozen=True)
class Family:
    """The type of the tenant column, and the tenants that fit it."""

    name: str
    column_type: Any
    acme: Any
    globex: Any
    initech: Any

    @property
    def prefix(self) -> str:
        return "" if self.name == "str" else f"{self.name}_"


FAMILIES = {
    "str": Family("str", String(40), "acme", "globex", "initech"),
    "int": Family("int", Integer, 1, 2, 3),
    "uuid": Family("uuid", Uuid, uuid.UUID(int=1), uuid.UUID(int=2), uuid.UUID(int=3)),
}


def unmarked(cls: Any = None, /, **_: Any) -> Any:
    """Stands where `tenant_aware` and `tenant_table` stand, and does nothing."""
    return cls if cls is not None else unmarked


def build(
    mark: Callable[..., Any] = unmarked,
    mark_table: Callable[..., Any] = unmarked,
    *,
    family: Family = FAMILIES["str"],
    prefix: str = "",
    tenant: Any = None,
) -> SimpleNamespace:
    """The schema as a namespace of classes; `tenant` is the column default of the plain side."""
    prefix += family.prefix
    server_default = str(tenant) if tenant is not None and family.name != "uuid" else None

    def tenant_column(**kwargs: Any) -> Any:
        kwargs.setdefault("nullable", False)
        return mapped_column(
            family.column_type, insert_default=tenant, server_default=server_default, **kwargs
        )

    def core_tenant(name: str = "tenant_id", **kwargs: Any) -> Column[Any]:
        return Column(
            name,
            family.column_type,
            default=tenant,
            server_default=server_default,
            nullable=False,
            **kwargs,
        )

    def to(target: str, **kwargs: Any) -> Any:
        return mapped_column(ForeignKey(f"{prefix}{target}"), **kwargs)

    class Base(AsyncAttrs, DeclarativeBase):
        metadata = MetaData()

    class Country(Base):
        __tablename__ = f"{prefix}countries"
        code = mapped_column(String(2), primary_key=True)
        name = mapped_column(String(40))
        customers = relationship("Customer", back_populates="country", order_by="Customer.id")

    @mark(shared=True)
    class Setting(Base):
        __tablename__ = f"{prefix}settings"
        id = mapped_column(Integer, primary_key=True)
        tenant_id = tenant_column(nullable=True)
        name = mapped_column(String(40), nullable=False)
        value = mapped_column(String(40))

    @mark
    class Customer(Base):
        __tablename__ = f"{prefix}customers"
        __table_args__ = (UniqueConstraint("tenant_id", "email"),)
        id = mapped_column(Integer, primary_key=True)
        tenant_id = tenant_column()
        name = mapped_column(String(40), nullable=False)
        email = mapped_column(String(80))
        country_code = to("countries.code")
        referrer_id = to("customers.id")
        country = relationship("Country", back_populates="customers")
        orders = relationship(
            "Order", back_populates="customer", order_by="Order.id", cascade="all, delete-orphan"
        )
        referrer = relationship("Customer", remote_side=[id], back_populates="referred")
        referred = relationship("Customer", back_populates="referrer", order_by="Customer.id")
        assets = relationship("Asset", back_populates="customer", order_by="Asset.id")
        order_numbers = association_proxy("orders", "number")

        @hybrid_property
        def shouted(self) -> Any:
            return self.name.upper()

        @shouted.inplace.expression
        @classmethod
        def _shouted(cls) -> Any:
            return func.upper(cls.name)

    order_tags = Table(
        f"{prefix}order_tags",
        Base.metadata,
        Column("order_id", ForeignKey(f"{prefix}orders.id"), primary_key=True),
        Column("tag_id", ForeignKey(f"{prefix}tags.id"), primary_key=True),
    )
    order_labels = Table(
        f"{prefix}order_labels",
        Base.metadata,
        core_tenant(),
        Column("order_id", ForeignKey(f"{prefix}orders.id"), primary_key=True),
        Column("label_id", ForeignKey(f"{prefix}labels.id"), primary_key=True),
    )

    @mark
    class Order(Base):
        __tablename__ = f"{prefix}orders"
        __table_args__ = (UniqueConstraint("tenant_id", "number"),)
        id = mapped_column(Integer, primary_key=True)
        tenant_id = tenant_column()
        number = mapped_column(String(20), nullable=False)
        customer_id = to("customers.id")
        amount = mapped_column(Integer, nullable=False, default=0)
        status = mapped_column(String(20), nullable=False, default="new")
        placed_on = mapped_column(Date)
        note = deferred(mapped_column(Text), group="long")
        comment = deferred(mapped_column(Text), group="long")
        state = synonym("status")
        computed = query_expression()
        customer = relationship("Customer", back_populates="orders")
        lines = relationship(
            "LineItem", back_populates="order", order_by="LineItem.id", cascade="all, delete-orphan"
        )
        tags = relationship("Tag", secondary=order_tags, back_populates="orders", order_by="Tag.id")
        labels = relationship(
            "Label", secondary=order_labels, back_populates="orders", order_by="Label.id"
        )
        tag_names = association_proxy("tags", "name", creator=lambda name: Tag(name=name))
        events = relationship("Event", lazy="dynamic", back_populates="order")
        shipments = relationship(
            "Shipment",
            lazy="write_only",
            back_populates="order",
            cascade="all, delete-orphan",
            passive_deletes=True,
        )
        invoice = relationship("Invoice", back_populates="order", uselist=False)
        payments = relationship("Payment", back_populates="order")

        @hybrid_property
        def is_large(self) -> Any:
            return self.amount > 100

        @hybrid_method
        def above(self, limit: int) -> Any:
            return self.amount > limit

        @hybrid_property
        def paid_total(self) -> Any:
            return sum(event.weight for event in self.events)

        @paid_total.inplace.expression
        @classmethod
        def _paid_total(cls) -> Any:
            return (
                select(func.coalesce(func.sum(Event.weight), 0))
                .where(Event.order_id == cls.id)
                .correlate(cls)
                .scalar_subquery()
            )

    @mark(through="order")
    class LineItem(Base):
        __tablename__ = f"{prefix}line_items"
        id = mapped_column(Integer, primary_key=True)
        order_id = to("orders.id", nullable=False)
        product_id = to("products.id")
        quantity = mapped_column(Integer, nullable=False, default=1)
        order = relationship("Order", back_populates="lines")
        product = relationship("Product", back_populates="lines")
        remarks = relationship(
            "Remark", back_populates="line", order_by="Remark.id", cascade="all, delete-orphan"
        )

    @mark(through="line")
    class Remark(Base):
        __tablename__ = f"{prefix}remarks"
        id = mapped_column(Integer, primary_key=True)
        line_id = to("line_items.id", nullable=False)
        body = mapped_column(String(80))
        line = relationship("LineItem", back_populates="remarks")

    @mark(column="organization")
    class Product(Base):
        __tablename__ = f"{prefix}products"
        __table_args__ = (UniqueConstraint("organization", "sku"),)
        id = mapped_column(Integer, primary_key=True)
        organization = tenant_column()
        sku = mapped_column(String(20), nullable=False)
        name = mapped_column(String(40))
        price = mapped_column(Integer, default=0)
        lines = relationship("LineItem", back_populates="product", order_by="LineItem.id")

    @mark
    class Tag(Base):
        __tablename__ = f"{prefix}tags"
        id = mapped_column(Integer, primary_key=True)
        tenant_id = tenant_column()
        name = mapped_column(String(40), nullable=False)
        orders = relationship(
            "Order", secondary=order_tags, back_populates="tags", order_by="Order.id"
        )

    @mark
    class Label(Base):
        __tablename__ = f"{prefix}labels"
        id = mapped_column(Integer, primary_key=True)
        tenant_id = tenant_column()
        name = mapped_column(String(40), nullable=False)
        orders = relationship(
            "Order", secondary=order_labels, back_populates="labels", order_by="Order.id"
        )

    @mark
    class Event(Base):
        __tablename__ = f"{prefix}events"
        id = mapped_column(Integer, primary_key=True)
        tenant_id = tenant_column()
        order_id = to("orders.id")
        kind = mapped_column(String(20))
        weight = mapped_column(Integer, default=1)
        order = relationship("Order", back_populates="events")

    @mark(through="order")
    class Shipment(Base):
        __tablename__ = f"{prefix}shipments"
        id = mapped_column(Integer, primary_key=True)
        order_id = to("orders.id", nullable=False)
        carrier = mapped_column(String(20))
        order = relationship("Order", back_populates="shipments")

    @mark
    class Invoice(Base):
        __tablename__ = f"{prefix}invoices"
        id = mapped_column(Integer, primary_key=True)
        tenant_id = tenant_column()
        order_id = to("orders.id", unique=True)
        total = mapped_column(Integer)
        order = relationship("Order", back_populates="invoice")

    @mark
    class Category(Base):
        __tablename__ = f"{prefix}categories"
        id = mapped_column(Integer, primary_key=True)
        tenant_id = tenant_column()
        parent_id = to("categories.id")
        name = mapped_column(String(40), nullable=False)
        children = relationship("Category", back_populates="parent", order_by="Category.id")
        parent = relationship("Category", back_populates="children", remote_side=[id])

    @mark
    class Team(Base):
        __tablename__ = f"{prefix}teams"
        id = mapped_column(Integer, primary_key=True)
        tenant_id = tenant_column()
        name = mapped_column(String(40))
        members = relationship("Employee", back_populates="team", order_by="Employee.id")
        memberships = relationship("Membership", back_populates="team", cascade="all")

    @mark
    class User(Base):
        __tablename__ = f"{prefix}user"
        id = mapped_column(Integer, primary_key=True)
        tenant_id = tenant_column()
        name = mapped_column(String(40))
        memberships = relationship(
            "Membership", back_populates="user", cascade="all, delete-orphan"
        )
        teams = association_proxy("memberships", "team", creator=lambda t: Membership(team=t))

    @mark(through="user")
    class Membership(Base):
        __tablename__ = f"{prefix}memberships"
        user_id = to("user.id", primary_key=True)
        team_id = to("teams.id", primary_key=True)
        role = mapped_column(String(20), default="member")
        user = relationship("User", back_populates="memberships")
        team = relationship("Team", back_populates="memberships")

    @mark
    class Employee(Base):
        __tablename__ = f"{prefix}employees"
        id = mapped_column(Integer, primary_key=True)
        tenant_id = tenant_column()
        type = mapped_column(String(20), nullable=False)
        name = mapped_column(String(40), nullable=False)
        salary = mapped_column(Integer, default=0)
        team_id = to("teams.id")
        team = relationship("Team", back_populates="members")
        __mapper_args__ = {"polymorphic_on": type, "polymorphic_identity": "employee"}

    class Engineer(Employee):
        __tablename__ = f"{prefix}engineers"
        id = to("employees.id", primary_key=True)
        language = mapped_column(String(20))
        __mapper_args__ = {"polymorphic_identity": "engineer"}

    class Senior(Engineer):
        __tablename__ = f"{prefix}seniors"
        id = to("engineers.id", primary_key=True)
        level = mapped_column(Integer)
        __mapper_args__ = {"polymorphic_identity": "senior"}

    class Manager(Employee):
        __tablename__ = f"{prefix}managers"
        id = to("employees.id", primary_key=True)
        budget = mapped_column(Integer)
        projects = relationship("Project", back_populates="manager", order_by="Project.id")
        __mapper_args__ = {"polymorphic_identity": "manager", "polymorphic_load": "selectin"}

    @mark(column="organization")
    class Project(Base):
        __tablename__ = f"{prefix}projects"
        id = mapped_column(Integer, primary_key=True)
        organization = tenant_column()
        name = mapped_column(String(40))
        manager_id = to("managers.id")
        manager = relationship("Manager", back_populates="projects")

    @mark
    class Asset(Base):
        __tablename__ = f"{prefix}assets"
        id = mapped_column(Integer, primary_key=True)
        tenant_id = tenant_column()
        kind = mapped_column(String(20), nullable=False)
        name = mapped_column(String(40))
        customer_id = to("customers.id")
        customer = relationship("Customer", back_populates="assets")
        __mapper_args__ = {"polymorphic_on": kind, "polymorphic_identity": "asset"}

    class Vehicle(Asset):
        plate = mapped_column(String(20))
        __mapper_args__ = {"polymorphic_identity": "vehicle"}

    class Building(Asset):
        floors = mapped_column(Integer)
        __mapper_args__ = {"polymorphic_identity": "building"}

    @mark
    class Payment(ConcreteBase, Base):
        __tablename__ = f"{prefix}payments"
        id = mapped_column(Integer, primary_key=True)
        tenant_id = tenant_column()
        order_id = to("orders.id")
        amount = mapped_column(Integer)
        order = relationship("Order", back_populates="payments")
        __mapper_args__ = {"polymorphic_identity": "payment", "concrete": True}

    @mark
    class CardPayment(Payment):
        __tablename__ = f"{prefix}card_payments"
        id = mapped_column(Integer, primary_key=True)
        tenant_id = tenant_column()
        order_id = to("orders.id")
        amount = mapped_column(Integer)
        card = mapped_column(String(20))
        order = relationship("Order", back_populates="payments")
        __mapper_args__ = {"polymorphic_identity": "card", "concrete": True}

    @mark
    class Document(Base):
        __tablename__ = f"{prefix}documents"
        id = mapped_column(Integer, primary_key=True)
        tenant_id = tenant_column()
        title = mapped_column(String(40))
        version = mapped_column(Integer, nullable=False)
        __mapper_args__ = {"version_id_col": version}

    @mark
    class Account(Base):
        __tablename__ = f"{prefix}accounts"
        tenant_id = tenant_column(primary_key=True)
        number = mapped_column(Integer, primary_key=True, autoincrement=False)
        balance = mapped_column(Integer, default=0)
        transfers = relationship("Transfer", back_populates="account", order_by="Transfer.id")

    @mark
    class Transfer(Base):
        __tablename__ = f"{prefix}transfers"
        __table_args__ = (
            ForeignKeyConstraint(
                ["tenant_id", "account_number"],
                [f"{prefix}accounts.tenant_id", f"{prefix}accounts.number"],
            ),
        )
        id = mapped_column(Integer, primary_key=True)
        tenant_id = tenant_column()
        account_number = mapped_column(Integer)
        amount = mapped_column(Integer)
        account = relationship("Account", back_populates="transfers")

    @mark
    class Owned:
        tenant_id = tenant_column()

    class Comment(Owned, Base):
        __tablename__ = f"{prefix}comments"
        id = mapped_column(Integer, primary_key=True)
        body = mapped_column(String(80))
        parent_id = to("comments.id")
        replies = relationship("Comment", order_by="Comment.id", cascade="all")

    class Attachment(Owned, Base):
        __tablename__ = f"{prefix}attachments"
        id = mapped_column(Integer, primary_key=True)
        comment_id = to("comments.id")
        name = mapped_column(String(40))
        comment = relationship("Comment", lazy="joined", innerjoin=True)

    @mark(column="owner")
    class Subscription(Base):
        __tablename__ = f"{prefix}subscriptions"
        id = mapped_column(Integer, primary_key=True)
        owner = tenant_column(name="tenant_key")
        plan = mapped_column(String(20))

    @mark
    class Memo(MappedAsDataclass, Base, unsafe_hash=False):
        __tablename__ = f"{prefix}memos"
        id: Mapped[int] = mapped_column(primary_key=True, init=False)
        tenant_id: Mapped[Any] = tenant_column(init=False)
        title: Mapped[str] = mapped_column(String(40))
        stars: Mapped[int] = mapped_column(default=0)

    tickets = Table(
        f"{prefix}tickets",
        Base.metadata,
        Column("id", Integer, primary_key=True),
        core_tenant(),
        Column("subject", String(40)),
        Column("order_id", ForeignKey(f"{prefix}orders.id")),
    )

    class Ticket:
        def __init__(self, **values: Any) -> None:
            for name, value in values.items():
                setattr(self, name, value)

    Base.registry.map_imperatively(Ticket, tickets, properties={"order": relationship(Order)})
    mark(Ticket)

    audit = Table(
        f"{prefix}audit",
        Base.metadata,
        Column("id", Integer, primary_key=True),
        core_tenant("tenant", key="who"),
        Column("entry", String(80)),
    )
    mark_table(audit, column="tenant")

    class OrderSummary(Base):
        """A second mapping of the orders table, which nobody marked."""

        __table__ = Order.__table__
        __mapper_args__ = {"include_properties": ["id", "number", "amount", "tenant_id"]}

    class CustomerOrder(Base):
        """A mapping of a join, which nobody marked."""

        __table__ = join(Customer.__table__, Order.__table__)
        __mapper_args__ = {"primary_key": [Order.__table__.c.id]}
        id = column_property(Order.__table__.c.id)
        customer_id = column_property(Customer.__table__.c.id, Order.__table__.c.customer_id)
        tenant_id = column_property(Customer.__table__.c.tenant_id, Order.__table__.c.tenant_id)

    Order.line_count = column_property(
        select(func.count(LineItem.id))
        .where(LineItem.order_id == Order.id)
        .correlate_except(LineItem)
        .scalar_subquery()
    )
    Customer.biggest = column_property(
        select(func.max(Order.amount))
        .where(Order.customer_id == Customer.id)
        .correlate_except(Order)
        .scalar_subquery(),
        deferred=True,
    )
    Customer.namesakes = relationship(
        Customer,
        primaryjoin=remote(foreign(Customer.name)) == Customer.name,
        viewonly=True,
        uselist=True,
        order_by=Customer.id,
    )
    ranked = select(
        Order,
        func.row_number()
        .over(partition_by=Order.customer_id, order_by=Order.amount.desc())
        .label("place"),
    ).subquery()
    Customer.best_orders = relationship(
        latest := aliased(Order, ranked),
        primaryjoin=and_(Customer.id == latest.customer_id, ranked.c.place <= 2),
        viewonly=True,
        order_by=latest.id,
    )
    configure_mappers()

    for table in Base.metadata.tables.values():
        if table.autoincrement_column is not None:
            table.dialect_options["sqlite"]["autoincrement"] = True

    names = {k: v for k, v in locals().items() if isinstance(v, (type, Table))}
    return SimpleNamespace(
        **names,
        family=family,
        acme=family.acme,
        globex=family.globex,
        metadata=Base.metadata,
        prefix=prefix,
    )


def rows(family: Family) -> Iterator[tuple[str, str | None, dict[str, Any]]]:
    """The seed: table, owner and values of each row, parents first.

    Both tenants use the same names and numbers, their primary keys alternate, and some rows of
    globex refer to rows of acme, as a database does whose past was not guarded. Without these a
    child that is loaded unfiltered under a filtered parent would go unnoticed.
    """
    yield "countries", None, {"code": "NL", "name": "Netherlands"}
    yield "countries", None, {"code": "ZA", "name": "South Africa"}
    yield "settings", None, {"id": 90, "tenant_id": None, "name": "theme", "value": "grey"}
    yield "settings", None, {"id": 91, "tenant_id": None, "name": "locale", "value": "en"}
    yield from _of(family.acme, "acme", 1)
    yield from _of(family.globex, "globex", 2)
    yield from _pointing_at_acme(family.globex)


def _of(tenant: Any, owner: str, first: int) -> Iterator[tuple[str, str | None, dict[str, Any]]]:
    big = 1 if owner == "acme" else 7

    def key(place: int) -> int:
        return first + 2 * place

    def row(table: str, **values: Any) -> tuple[str, str | None, dict[str, Any]]:
        return table, owner, values

    own = {"tenant_id": tenant}
    for place, name in enumerate(["Ada", "Bob", "Cy", "Dee"]):
        yield row(
            "customers",
            id=key(place),
            **own,
            name=name,
            email=f"{name.lower()}@example.com",
            country_code=None if name == "Dee" else ("NL", "ZA")[place % 2],
            referrer_id=key(place - 1) if place else None,
        )

    for place in range(3):
        yield row(
            "products",
            id=key(place),
            organization=tenant,
            sku=f"SKU-{place}",
            name=f"Product {place}",
            price=10 * (place + 1) * big,
        )
        yield row("tags", id=key(place), **own, name=f"tag {place}")
        yield row("labels", id=key(place), **own, name=f"label {place}")
        yield row("teams", id=key(place), **own, name=f"team {place}")
        yield row("user", id=key(place), **own, name=f"user {place}")

    for place in range(6):
        yield row(
            "orders",
            id=key(place),
            **own,
            number=f"N-{place}",
            customer_id=key(place % 3) if place < 5 else None,
            amount=30 * (place + 1) * big,
            status=("new", "paid")[place % 2],
            placed_on=datetime.date(2026, 1, 1 + place),
            note=f"note {place} of {owner}",
            comment=f"comment {place} of {owner}",
        )
        yield row("documents", id=key(place), **own, title=f"doc {place}", version=1)

    for place in range(8):
        yield row(
            "line_items",
            id=key(place),
            order_id=key(place % 4),
            product_id=key(place % 3) if place < 7 else None,
            quantity=(place + 1) * big,
        )
        yield row("remarks", id=key(place), line_id=key(place % 5), body=f"remark {place}")
        yield row(
            "events",
            id=key(place),
            **own,
            order_id=key(place % 3),
            kind=("opened", "closed")[place % 2],
            weight=place + big,
        )
        yield row("shipments", id=key(place), order_id=key(place % 3), carrier=f"carrier {place}")

    for place in range(4):
        yield row("order_tags", order_id=key(place), tag_id=key(place % 3))
        yield row("order_labels", **own, order_id=key(place), label_id=key(place % 2))
        yield row("invoices", id=key(place), **own, order_id=key(place), total=100 * big + place)
        yield row(
            "payments", id=key(place), **own, order_id=key(place % 2), amount=(place + 1) * big
        )
        yield row(
            "card_payments",
            id=key(place),
            **own,
            order_id=key(place % 2),
            amount=(place + 10) * big,
            card=f"{place}{place}{place}",
        )
        yield row(
            "memberships",
            user_id=key(place % 3),
            team_id=key((place + place // 3) % 3),
            role=("member", "lead")[place % 2],
        )
        yield row("accounts", **own, number=place, balance=100 * place * big)
        yield row("memos", id=key(place), **own, title=f"memo {place}", stars=place * big)
        yield row("tickets", id=key(place), **own, subject=f"ticket {place}", order_id=key(place))
        yield row("audit", id=key(place), tenant=tenant, entry=f"entry {place}")
        yield row("subscriptions", id=key(place), tenant_key=tenant, plan=("s", "l")[place % 2])

    for place in range(6):
        yield row("transfers", id=key(place), **own, account_number=place % 3, amount=place * big)

    for place, parent in enumerate([None, 0, 0, 1, 3, None]):
        parent_id = None if parent is None else key(parent)
        name = f"category {place}"
        yield row("categories", id=key(place), **own, parent_id=parent_id, name=name)
        yield row("comments", id=key(place), **own, parent_id=parent_id, body=f"body {place}")
        yield row("attachments", id=key(place), **own, comment_id=key(place), name=f"file {place}")

    kinds = ["employee", "engineer", "senior", "manager", "engineer", "manager"]
    for place, kind in enumerate(kinds):
        yield row(
            "employees",
            id=key(place),
            **own,
            type=kind,
            name=f"{kind} {place}",
            salary=1000 * (place + 1) * big,
            team_id=key(place % 2),
        )
        if kind in ("engineer", "senior"):
            yield row("engineers", id=key(place), language=("c", "python")[place % 2])

        if kind == "senior":
            yield row("seniors", id=key(place), level=3 * big)

        if kind == "manager":
            yield row("managers", id=key(place), budget=500 * big)
            yield row(
                "projects", id=key(place), organization=tenant, name="moon", manager_id=key(place)
            )

    for place, kind in enumerate(["vehicle", "building", "asset", "vehicle"]):
        yield row(
            "assets",
            id=key(place),
            **own,
            kind=kind,
            name=f"{kind} {place}",
            customer_id=key(place % 2),
            plate=f"P-{place}" if kind == "vehicle" else None,
            floors=3 * big if kind == "building" else None,
        )

    yield row("settings", id=key(0), **own, name="theme", value=f"{owner} blue")
    yield row("settings", id=key(1), **own, name="logo", value=f"{owner}.png")


def _pointing_at_acme(tenant: Any) -> Iterator[tuple[str, str | None, dict[str, Any]]]:
    def row(table: str, **values: Any) -> tuple[str, str | None, dict[str, Any]]:
        return table, "globex", values

    own = {"tenant_id": tenant}
    yield row(
        "customers",
        id=60,
        **own,
        name="Ada",
        email="spy@example.com",
        country_code="NL",
        referrer_id=1,
    )
    yield row(
        "orders",
        id=60,
        **own,
        number="X-60",
        customer_id=1,
        amount=99999,
        status="new",
        placed_on=datetime.date(2026, 1, 1),
        note="spy",
        comment="spy",
    )
    yield row("line_items", id=60, order_id=60, product_id=1, quantity=777)
    yield row("remarks", id=60, line_id=60, body="spy")
    yield row("events", id=60, **own, order_id=1, kind="opened", weight=5555)
    yield row("shipments", id=60, order_id=60, carrier="spy")
    # An association row belongs to a tenant when both its ends do: these belong to nobody.
    yield "order_tags", "nobody", {"order_id": 60, "tag_id": 1}
    yield "order_tags", "nobody", {"order_id": 1, "tag_id": 2}
    yield row("order_labels", **own, order_id=1, label_id=2)
    yield row("order_labels", **own, order_id=6, label_id=1)
    yield row("invoices", id=60, **own, order_id=11, total=123456)
    yield row("payments", id=60, **own, order_id=1, amount=4444)
    yield row("card_payments", id=60, **own, order_id=1, amount=4444, card="spy")
    yield row("memberships", user_id=2, team_id=1, role="spy")
    yield row("tickets", id=60, **own, subject="spy", order_id=1)
    yield row("categories", id=60, **own, parent_id=1, name="spy")
    yield row("comments", id=60, **own, parent_id=1, body="spy")
    yield row("attachments", id=60, **own, comment_id=1, name="spy")
    yield row("employees", id=60, **own, type="manager", name="spy", salary=1, team_id=1)
    yield row("managers", id=60, budget=1)
    yield row("projects", id=60, organization=tenant, name="spy", manager_id=7)
    yield row("assets", id=60, **own, kind="vehicle", name="spy", customer_id=1, plate="SPY")
