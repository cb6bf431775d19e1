"""A compact schema with every form of ownership, and the rows that fill it.

The walled classes are marked; the classes of the other side have other table names and are run
unscoped, so that side is compiled by SQLAlchemy's own compiler and never meets the wall.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from types import SimpleNamespace
from typing import Any

from sqlalchemy import (
    Column,
    ForeignKey,
    ForeignKeyConstraint,
    Integer,
    MetaData,
    String,
    Table,
    UniqueConstraint,
    inspect,
    true,
)
from sqlalchemy.orm import DeclarativeBase, configure_mappers, mapped_column, relationship

FIRST_NEW_ID = 1001
WORDS = ("a", "b", "n1", "n2", "n3")
NUMBERS = (0, 1, 2, 3, 7)


def unmarked(cls: Any = None, /, **_: Any) -> Any:
    """Stands where `tenant_aware` and `tenant_table` stand, and does nothing."""
    return cls if cls is not None else unmarked


def build(
    prefix: str,
    mark: Callable[..., Any] = unmarked,
    mark_table: Callable[..., Any] = unmarked,
    default: Callable[[], str] | None = None,
) -> SimpleNamespace:
    """The schema as a namespace of classes; `default` gives the tenant where nobody stamps it."""

    def tenant(name: str = "tenant_id", **options: Any) -> Column[Any]:
        options.setdefault("nullable", False)
        return Column(name, String(20), default=default, **options)

    def integer(**options: Any) -> Any:
        return mapped_column(Integer, **options)

    def word(**options: Any) -> Any:
        return mapped_column(String(20), **options)

    def to(target: str, **options: Any) -> Any:
        return mapped_column(ForeignKey(f"{prefix}{target}"), **options)

    class Base(DeclarativeBase):
        metadata = MetaData()

    class Country(Base):
        __tablename__ = f"{prefix}countries"
        id = integer(primary_key=True)
        name = word()

    @mark(shared=True)
    class Setting(Base):
        __tablename__ = f"{prefix}settings"
        id = integer(primary_key=True)
        tenant_id = tenant(nullable=True)
        name = word()
        level = integer()

    @mark
    class Employee(Base):
        __tablename__ = f"{prefix}employees"
        id = integer(primary_key=True)
        tenant_id = tenant()
        kind = word(nullable=False)
        name = word()
        salary = integer()
        __mapper_args__ = {"polymorphic_on": kind, "polymorphic_identity": "employee"}

    class Engineer(Employee):
        __tablename__ = f"{prefix}engineers"
        id = to("employees.id", primary_key=True)
        language = word()
        __mapper_args__ = {"polymorphic_identity": "engineer"}

    class Manager(Employee):
        __tablename__ = f"{prefix}managers"
        id = to("employees.id", primary_key=True)
        budget = integer()
        customers = relationship("Customer", back_populates="manager", order_by="Customer.id")
        __mapper_args__ = {"polymorphic_identity": "manager"}

    @mark
    class Customer(Base):
        __tablename__ = f"{prefix}customers"
        __table_args__ = (UniqueConstraint("tenant_id", "email"),)
        id = integer(primary_key=True)
        tenant_id = tenant()
        name = word()
        email = word()
        score = integer()
        country_id = to("countries.id")
        referrer_id = to("customers.id")
        manager_id = to("managers.id")
        country = relationship("Country")
        manager = relationship("Manager", back_populates="customers")
        referrer = relationship("Customer", remote_side=[id], back_populates="referred")
        referred = relationship("Customer", back_populates="referrer", order_by="Customer.id")
        orders = relationship("Order", back_populates="customer", order_by="Order.id")
        assets = relationship("Asset", back_populates="customer", order_by="Asset.id")

    order_tags = Table(
        f"{prefix}order_tags",
        Base.metadata,
        Column("order_id", ForeignKey(f"{prefix}orders.id"), primary_key=True),
        Column("tag_id", ForeignKey(f"{prefix}tags.id"), primary_key=True),
    )
    order_labels = Table(
        f"{prefix}order_labels",
        Base.metadata,
        tenant(),
        Column("order_id", ForeignKey(f"{prefix}orders.id"), primary_key=True),
        Column("label_id", ForeignKey(f"{prefix}labels.id"), primary_key=True),
    )

    @mark
    class Order(Base):
        __tablename__ = f"{prefix}orders"
        __table_args__ = (UniqueConstraint("tenant_id", "number"),)
        id = integer(primary_key=True)
        tenant_id = tenant()
        number = word(nullable=False)
        amount = integer(default=0)
        status = word(default="a")
        customer_id = to("customers.id")
        customer = relationship("Customer", back_populates="orders")
        lines = relationship(
            "Line", back_populates="order", order_by="Line.id", cascade="all, delete-orphan"
        )
        tags = relationship("Tag", secondary=order_tags, back_populates="orders", order_by="Tag.id")
        labels = relationship("Label", secondary=order_labels, order_by="Label.id")

    @mark(through="order")
    class Line(Base):
        __tablename__ = f"{prefix}lines"
        id = integer(primary_key=True)
        order_id = to("orders.id", nullable=False)
        product_id = to("products.id")
        quantity = integer(default=1)
        order = relationship("Order", back_populates="lines")
        product = relationship("Product")
        remarks = relationship(
            "Remark", back_populates="line", order_by="Remark.id", cascade="all, delete-orphan"
        )

    @mark(through="line")
    class Remark(Base):
        __tablename__ = f"{prefix}remarks"
        id = integer(primary_key=True)
        line_id = to("lines.id", nullable=False)
        body = word()
        line = relationship("Line", back_populates="remarks")

    @mark(column="organization")
    class Product(Base):
        __tablename__ = f"{prefix}products"
        id = integer(primary_key=True)
        organization = tenant("organization")
        name = word()
        price = integer()

    @mark
    class Tag(Base):
        __tablename__ = f"{prefix}tags"
        id = integer(primary_key=True)
        tenant_id = tenant()
        name = word()
        orders = relationship(
            "Order", secondary=order_tags, back_populates="tags", order_by="Order.id"
        )

    @mark
    class Label(Base):
        __tablename__ = f"{prefix}labels"
        id = integer(primary_key=True)
        tenant_id = tenant()
        name = word()

    @mark
    class Asset(Base):
        __tablename__ = f"{prefix}assets"
        id = integer(primary_key=True)
        tenant_id = tenant()
        kind = word(nullable=False)
        name = word()
        customer_id = to("customers.id")
        customer = relationship("Customer", back_populates="assets")
        __mapper_args__ = {"polymorphic_on": kind, "polymorphic_identity": "asset"}

    class Vehicle(Asset):
        plate = word()
        __mapper_args__ = {"polymorphic_identity": "vehicle"}

    class Building(Asset):
        floors = integer()
        __mapper_args__ = {"polymorphic_identity": "building"}

    @mark
    class Document(Base):
        __tablename__ = f"{prefix}documents"
        id = integer(primary_key=True)
        tenant_id = tenant()
        title = word()
        version = integer(nullable=False)
        __mapper_args__ = {"version_id_col": version}

    @mark
    class Account(Base):
        __tablename__ = f"{prefix}accounts"
        tenant_id = tenant(primary_key=True)
        number = integer(primary_key=True, autoincrement=False)
        balance = integer()
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
        id = integer(primary_key=True)
        tenant_id = tenant()
        account_number = integer()
        amount = integer()
        account = relationship("Account", back_populates="transfers")

    audit = Table(
        f"{prefix}audit",
        Base.metadata,
        Column("id", Integer, primary_key=True),
        tenant("tenant", key="who"),
        Column("entry", String(20)),
        Column("weight", Integer),
    )
    mark_table(audit, column="tenant")
    configure_mappers()

    for table in Base.metadata.tables.values():
        if table.autoincrement_column is not None:
            table.dialect_options["sqlite"]["autoincrement"] = True

    def mine() -> Any:
        """What the wall adds when a shared table is changed: nobody's rows stay as they are."""
        return true() if default is None else Setting.tenant_id.is_not(None)

    named = {name: value for name, value in locals().items() if isinstance(value, (type, Table))}
    return SimpleNamespace(**named, metadata=Base.metadata, prefix=prefix, mine=mine)


alone_tenant = "acme"


@cache
def walled() -> SimpleNamespace:
    from partywall import tenant_aware, tenant_table

    return build("prop_", tenant_aware, tenant_table)


@cache
def alone() -> SimpleNamespace:
    return build("alone_", default=lambda: alone_tenant)


@dataclass(frozen=True)
class Model:
    """What the grammar needs to know of a mapped class."""

    name: str
    table: str
    words: tuple[str, ...]
    numbers: tuple[str, ...]
    key: tuple[str, ...]
    relations: dict[str, str]
    many: frozenset[str]

    def __hash__(self) -> int:
        return hash(self.name)


@cache
def models() -> dict[str, Model]:
    schema = alone()
    return {
        name: _described(name, inspect(cls), schema.prefix)
        for name, cls in vars(schema).items()
        if isinstance(cls, type) and name != "Base"
    }


def _described(name: str, mapper: Any, prefix: str) -> Model:
    columns = mapper.column_attrs
    words = [a.key for a in columns if isinstance(a.columns[0].type, String)]
    return Model(
        name,
        mapper.base_mapper.local_table.name.removeprefix(prefix),
        tuple(words),
        tuple(attribute.key for attribute in columns if attribute.key not in words),
        tuple(mapper.get_property_by_column(column).key for column in mapper.primary_key),
        {relation.key: relation.mapper.class_.__name__ for relation in mapper.relationships},
        frozenset(relation.key for relation in mapper.relationships if relation.uselist),
    )


Row = tuple[str, str | None, dict[str, Any]]


@dataclass(frozen=True)
class Data:
    """The rows of several tenants: the same natural keys in each, primary keys in between.

    `strays` are references to another tenant's rows, as a database has whose past was not guarded.
    """

    seed: int
    tenants: tuple[str, ...]
    size: int
    strays: bool = False

    def rows(self) -> list[Row]:
        return list(_rows(self))


_ORDER = (
    "countries",
    "settings",
    "employees",
    "engineers",
    "managers",
    "customers",
    "orders",
    "products",
    "lines",
    "remarks",
    "tags",
    "labels",
    "order_tags",
    "order_labels",
    "assets",
    "documents",
    "accounts",
    "transfers",
    "audit",
)
_TENANT = {"products": "organization", "audit": "tenant"}


def _rows(data: Data) -> Iterator[Row]:
    """Values by column name, parents first."""
    chance = random.Random(data.seed)
    ids: dict[str, Iterator[int]] = {}
    own: dict[tuple[str, str], list[int]] = {}
    rows: dict[str, list[Row]] = {table: [] for table in _ORDER}

    def maybe(values: Any) -> Any:
        values = list(values)
        return chance.choice(values) if values and chance.random() < 0.8 else None

    def reference(table: str, tenant: str) -> Any:
        owners = data.tenants if data.strays and chance.random() < 0.25 else (tenant,)
        return maybe([id_ for owner in owners for id_ in own.get((table, owner), ())])

    def add(table: str, tenant: str | None, **values: Any) -> int:
        id_ = next(ids.setdefault(table, iter(range(1, 500))))
        if tenant is not None and table not in ("lines", "remarks"):
            values[_TENANT.get(table, "tenant_id")] = tenant

        rows[table].append((table, tenant, {"id": id_, **values}))
        if tenant is not None:
            own.setdefault((table, tenant), []).append(id_)

        return id_

    for name in ("a", "b"):
        add("countries", None, name=name)

    for level in range(chance.randint(0, 2)):
        add("settings", None, name=maybe(WORDS), level=level, tenant_id=None)

    # The tenants take turns, so that no range of keys is one tenant's.
    counts = {tenant: chance.randint(0, data.size) for tenant in data.tenants}
    turns = [
        (table, turn, t) for table in _ORDER for turn in range(data.size) for t in data.tenants
    ]
    for table, turn, tenant in turns:
        if turn >= counts[tenant]:
            continue

        some = {"tenant": tenant, "table": table}
        if table == "settings":
            add(**some, name=maybe(WORDS), level=maybe(NUMBERS))
        elif table == "employees":
            kind = chance.choice(["employee", "engineer", "manager", "manager"])
            id_ = add(**some, kind=kind, name=maybe(WORDS), salary=maybe(NUMBERS))
            if kind == "engineer":
                rows["engineers"].append(
                    ("engineers", tenant, {"id": id_, "language": maybe(WORDS)})
                )
            elif kind == "manager":
                rows["managers"].append(("managers", tenant, {"id": id_, "budget": maybe(NUMBERS)}))
                own.setdefault(("managers", tenant), []).append(id_)
        elif table == "customers":
            add(
                **some,
                name=maybe(WORDS),
                email=WORDS[turn],
                score=maybe(NUMBERS),
                country_id=maybe([1, 2]),
                referrer_id=reference("customers", tenant),
                manager_id=reference("managers", tenant),
            )
        elif table == "orders":
            customer_id = reference("customers", tenant)
            values = {"amount": maybe(NUMBERS), "status": maybe(WORDS), "customer_id": customer_id}
            add(**some, number=WORDS[turn], **values)
        elif table == "products":
            add(**some, name=maybe(WORDS), price=maybe(NUMBERS))
        elif table in ("lines", "remarks"):
            parents = own.get(({"lines": "orders", "remarks": "lines"}[table], tenant), [])
            for _ in range(2 if parents else 0):
                parent = chance.choice(parents)
                if table == "remarks":
                    add(**some, line_id=parent, body=maybe(WORDS))
                else:
                    product_id = reference("products", tenant)
                    add(
                        **some,
                        order_id=parent,
                        product_id=product_id,
                        quantity=maybe(NUMBERS),
                    )
        elif table in ("tags", "labels"):
            add(**some, name=maybe(WORDS))
        elif table == "assets":
            kind = chance.choice(["asset", "vehicle", "building"])
            add(
                **some,
                kind=kind,
                name=maybe(WORDS),
                customer_id=reference("customers", tenant),
                plate=maybe(WORDS) if kind == "vehicle" else None,
                floors=maybe(NUMBERS) if kind == "building" else None,
            )
        elif table == "documents":
            add(**some, title=maybe(WORDS), version=1)
        elif table == "audit":
            add(**some, entry=maybe(WORDS), weight=maybe(NUMBERS))
        elif table == "accounts":
            values = {"tenant_id": tenant, "number": turn + 1, "balance": maybe(NUMBERS)}
            rows[table].append((table, tenant, values))
        elif table == "transfers":
            number = maybe(range(1, counts[tenant] + 1))
            add(**some, account_number=number, amount=maybe(NUMBERS))

    for tenant in data.tenants:
        for table, other in (("order_tags", "tag_id"), ("order_labels", "label_id")):
            orders = own.get(("orders", tenant), [])
            others = own.get((f"{other.removesuffix('_id')}s", tenant), [])
            pairs = [(order, another) for order in orders for another in others]
            for order, another in chance.sample(pairs, min(len(pairs), data.size)):
                link = {"order_id": order, other: another}
                if table == "order_labels":
                    link["tenant_id"] = tenant

                rows[table].append((table, tenant, link))

    for table in _ORDER:
        yield from rows[table]
