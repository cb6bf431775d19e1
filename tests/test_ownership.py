"""What marking means, and what it refuses at once."""

from __future__ import annotations

import pickle
from collections.abc import Iterator

import pytest
from sqlalchemy import Column, ForeignKey, Integer, MetaData, String, Table, create_engine, select
from sqlalchemy.engine import Engine
from sqlalchemy.orm import (
    DeclarativeBase,
    Mapped,
    MappedAsDataclass,
    Session,
    configure_mappers,
    mapped_column,
    registry,
    relationship,
)
from sqlalchemy.pool import StaticPool

from partywall import (
    ConfigurationError,
    MissingTenantContextError,
    tenant_aware,
    tenant_scope,
    tenant_table,
    unscoped,
)


class Base(DeclarativeBase):
    pass


@pytest.fixture
def engine() -> Iterator[Engine]:
    engine = create_engine("sqlite://", poolclass=StaticPool)
    yield engine
    engine.dispose()


def names_by_tenant(engine: Engine, model: type) -> dict[str, set[str]]:
    seen = {}
    for tenant in ("acme", "globex"):
        with tenant_scope(tenant), Session(engine) as session:
            seen[tenant] = set(session.scalars(select(model.name)))

    return seen


def add_one_each(engine: Engine, model: type) -> None:
    model.__table__.create(engine, checkfirst=True)
    for tenant in ("acme", "globex"):
        with tenant_scope(tenant), Session(engine) as session, session.begin():
            session.add(model(name=f"of {tenant}"))


EACH_ITS_OWN = {"acme": {"of acme"}, "globex": {"of globex"}}


def test_a_class_without_the_column_is_refused_at_once() -> None:
    with pytest.raises(ConfigurationError, match="Nameless has no column 'tenant_id'"):

        @tenant_aware
        class Nameless(Base):
            __tablename__ = "ownership_nameless"
            id: Mapped[int] = mapped_column(primary_key=True)


def test_a_table_without_the_column_is_refused_at_once() -> None:
    table = Table("ownership_bare", MetaData(), Column("id", Integer, primary_key=True))
    with pytest.raises(ConfigurationError, match="'ownership_bare' has no column 'tenant_id'"):
        tenant_table(table)


def test_marking_twice_with_different_columns_is_refused() -> None:
    table = Table("ownership_two", MetaData(), Column("a", String(9)), Column("b", String(9)))
    tenant_table(table, column="a")
    tenant_table(table, column="a")
    with pytest.raises(ConfigurationError, match="marked twice and differently"):
        tenant_table(table, column="b")


@pytest.mark.parametrize("thing", [7, "orders", select(1)])
def test_only_classes_and_tables_are_marked(thing: object) -> None:
    with pytest.raises(ConfigurationError, match="marks a class, not"):
        tenant_aware(thing)  # type: ignore[call-overload]

    with pytest.raises(ConfigurationError, match="marks a Table, not"):
        tenant_table(thing)  # type: ignore[arg-type]


def test_through_something_that_is_no_path_is_refused(engine: Engine) -> None:
    stray = Table("ownership_stray", MetaData(), Column("id", Integer, primary_key=True))
    tenant_table(stray, through="elsewhere")
    try:
        with (
            tenant_scope("acme"),
            engine.connect() as connection,
            pytest.raises(ConfigurationError, match="cannot belong through 'elsewhere'"),
        ):
            connection.execute(select(stray))
    finally:
        vars(stray).pop("_partywall")


def test_through_a_parent_that_nobody_owns_is_refused(engine: Engine) -> None:
    metadata = MetaData()
    Table("ownership_free", metadata, Column("id", Integer, primary_key=True))
    child = Table("ownership_child", metadata, Column("free_id", ForeignKey("ownership_free.id")))
    tenant_table(child, through="free_id")
    try:
        with (
            tenant_scope("acme"),
            engine.connect() as connection,
            pytest.raises(ConfigurationError, match="'ownership_free', which is not owned"),
        ):
            connection.execute(select(child))
    finally:
        vars(child).pop("_partywall")


def test_marking_does_not_configure_mappers(engine: Engine) -> None:
    mapped = registry()

    @tenant_aware
    @mapped.mapped
    class Early:
        __tablename__ = "ownership_early"
        id = Column(Integer, primary_key=True)
        tenant_id = Column(String(20))
        name = Column(String(20))
        late = relationship("Late", back_populates="early")

    mapped.metadata.create_all(engine)
    with engine.connect() as connection:
        assert connection.execute(select(1)).scalar() == 1

    @mapped.mapped
    class Late:
        __tablename__ = "ownership_late"
        id = Column(Integer, primary_key=True)
        early_id = Column(ForeignKey("ownership_early.id"))
        early = relationship("Early", back_populates="late")

    configure_mappers()
    add_one_each(engine, Early)
    assert names_by_tenant(engine, Early) == EACH_ITS_OWN


def test_a_mixin_marks_every_model_below_it(engine: Engine) -> None:
    @tenant_aware
    class Owned:
        tenant_id: Mapped[str] = mapped_column(String(20))

    class Note(Owned, Base):
        __tablename__ = "ownership_notes"
        id: Mapped[int] = mapped_column(primary_key=True)
        name: Mapped[str]

    add_one_each(engine, Note)
    assert names_by_tenant(engine, Note) == EACH_ITS_OWN


def test_a_dataclass_is_stamped_although_it_has_no_tenant_argument(engine: Engine) -> None:
    class Data(MappedAsDataclass, DeclarativeBase):
        pass

    @tenant_aware(column="organization")
    class Card(Data):
        __tablename__ = "ownership_cards"
        id: Mapped[int] = mapped_column(primary_key=True, init=False)
        organization: Mapped[str] = mapped_column("org", String(20), init=False)
        name: Mapped[str]

    add_one_each(engine, Card)
    assert names_by_tenant(engine, Card) == EACH_ITS_OWN


def test_an_imperative_mapping_may_come_after_the_mark(engine: Engine) -> None:
    @tenant_aware
    class Plain:
        def __init__(self, name: str) -> None:
            self.name = name

    mapped = registry()
    table = Table(
        "ownership_plain",
        mapped.metadata,
        Column("id", Integer, primary_key=True),
        Column("tenant_id", String(20)),
        Column("name", String(20)),
    )
    mapped.map_imperatively(Plain, table)
    Plain.__table__ = table  # type: ignore[attr-defined]
    add_one_each(engine, Plain)
    assert names_by_tenant(engine, Plain) == EACH_ITS_OWN


def test_a_table_marked_after_its_first_use_is_guarded_from_then_on(engine: Engine) -> None:
    table = Table(
        "ownership_later", MetaData(), Column("id", Integer), Column("tenant_id", String(20))
    )
    table.create(engine)
    with engine.begin() as connection:
        rows = [{"id": 1, "tenant_id": "acme"}, {"id": 2, "tenant_id": "globex"}]
        connection.execute(table.insert(), rows)
        assert connection.execute(select(table.c.id)).scalars().all() == [1, 2]

    tenant_table(table)
    with tenant_scope("acme"), engine.connect() as connection:
        assert connection.execute(select(table.c.id)).scalars().all() == [1]

    with engine.connect() as connection, pytest.raises(MissingTenantContextError, match="current"):
        connection.execute(select(table.c.id))


def test_a_pickled_table_is_still_known_by_its_name(engine: Engine) -> None:
    table = tenant_table(
        Table(
            "ownership_sent",
            MetaData(),
            Column("id", Integer, primary_key=True),
            Column("tenant_id", String(20)),
        )
    )
    table.create(engine)
    for key, tenant in enumerate(["acme", "globex"], 1):
        with tenant_scope(tenant), engine.begin() as connection:
            connection.execute(table.insert().values(id=key))

    again = pickle.loads(pickle.dumps(table.metadata)).tables["ownership_sent"]
    with tenant_scope("globex"), engine.connect() as connection:
        assert connection.execute(select(again.c.id)).scalars().all() == [2]


def test_unscoped_sees_every_tenant(engine: Engine) -> None:
    @tenant_aware
    class Memo(Base):
        __tablename__ = "ownership_memos"
        id: Mapped[int] = mapped_column(primary_key=True)
        tenant_id: Mapped[str] = mapped_column(String(20))
        name: Mapped[str]

    add_one_each(engine, Memo)
    with unscoped("a count of everything"), Session(engine) as session:
        assert set(session.scalars(select(Memo.name))) == {"of acme", "of globex"}
