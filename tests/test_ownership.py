"""What marking means, and what it refuses at once."""

from __future__ import annotations

import gc
import pickle
import uuid
from collections.abc import Iterator
from typing import Any
from weakref import ref

import pytest
from sqlalchemy import (
    Column,
    ForeignKey,
    Integer,
    MetaData,
    String,
    Table,
    Uuid,
    column,
    create_engine,
    event,
    select,
    table,
)
from sqlalchemy.engine import Engine
from sqlalchemy.exc import ArgumentError, NoReferencedTableError
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
    CrossTenantAccessError,
    CrossTenantReferenceError,
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


@pytest.mark.parametrize(
    ("said", "match"),
    [
        ({"column": ""}, "column= takes a name, but got ''"),
        ({"column": ["tenant_id"]}, "column= takes a name"),
        ({"through": ""}, "through= takes a name, but got ''"),
        ({"through": column("parent_id")}, "through= takes a name"),
        ({"shared": "yes"}, "shared= takes True or False, but got 'yes'"),
        ({"shared": None}, "shared= takes True or False"),
    ],
)
def test_what_a_mark_says_is_looked_at_at_once(said: dict[str, Any], match: str) -> None:
    with pytest.raises(ConfigurationError, match=match):
        tenant_aware(**said)

    with pytest.raises(ConfigurationError, match=match):
        tenant_table(original("ownership_misspoken", Column("tenant_id", String(20))), **said)


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
    """A1"""

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
    """A1"""

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
    """A1"""

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


@pytest.mark.parametrize(
    ("kind", "tenants"),
    [
        (String(20), ("acme", "globex")),
        (Integer, (1, 2)),
        (Uuid, (uuid.UUID(int=1), uuid.UUID(int=2))),
    ],
)
def test_a_subclass_belongs_to_whom_its_base_belongs_whatever_the_tenants_type(
    engine: Engine, kind: Any, tenants: tuple[Any, Any]
) -> None:
    """A1, A2: single-table and joined, with a column of its own name."""

    class Local(DeclarativeBase):
        pass

    @tenant_aware(column="owner")
    class Animal(Local):
        __tablename__ = "ownership_animals"
        id: Mapped[int] = mapped_column(primary_key=True)
        owner: Mapped[Any] = mapped_column("owned_by", kind)
        name: Mapped[str]
        type: Mapped[str]
        __mapper_args__ = {"polymorphic_on": "type", "polymorphic_identity": "animal"}

    class Cat(Animal):
        __mapper_args__ = {"polymorphic_identity": "cat"}

    class Dog(Animal):
        __tablename__ = "ownership_dogs"
        id: Mapped[int] = mapped_column(ForeignKey("ownership_animals.id"), primary_key=True)
        size: Mapped[int] = mapped_column(default=1)
        __mapper_args__ = {"polymorphic_identity": "dog"}

    Local.metadata.create_all(engine)
    for tenant in tenants:
        with tenant_scope(tenant), Session(engine) as session, session.begin():
            session.add_all(model(name="same") for model in (Animal, Cat, Dog))

    own, other = tenants
    for model, identity in ((Cat, 5), (Dog, 6)):
        with tenant_scope(own), Session(engine) as session:
            assert {one.owner for one in session.scalars(select(model))} == {own}
            assert session.scalars(select(model.name)).all() == ["same"]
            assert session.get(model, identity) is None
            with pytest.raises(CrossTenantAccessError, match="belongs to tenant"):
                session.add(model(name="forged", owner=other))
                session.flush()

            session.rollback()
            mine = session.scalars(select(model)).one()
            mine.owner = other
            with pytest.raises(CrossTenantAccessError, match="belong"):
                session.flush()

        with tenant_scope(other), Session(engine) as session:
            theirs = session.get(model, identity)
            session.expunge(theirs)

        with (
            tenant_scope(own),
            Session(engine) as session,
            pytest.raises(CrossTenantAccessError, match="belongs to tenant"),
        ):
            session.delete(theirs)
            session.flush()

    with unscoped("what the test left"), Session(engine) as session:
        kept = session.execute(select(Animal.owner, Animal.type).order_by(Animal.id)).all()

    assert [tuple(row) for row in kept] == [
        (tenant, kind) for tenant in tenants for kind in ("animal", "cat", "dog")
    ]


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


def original(name: str, *columns: Column[object]) -> Table:
    return Table(name, MetaData(), Column("id", Integer, primary_key=True), *columns)


def renamed(table: Table) -> Table:
    return table.to_metadata(table.metadata, name=f"{table.name}_old")


def history(table: Table) -> Table:
    """As libraries that keep history build their tables: no foreign keys, another primary key."""
    columns = [column._copy() for column in table.columns]
    version = Column("version", Integer, primary_key=True, default=1)
    return Table(f"{table.name}_history", table.metadata, *columns, version)


@pytest.mark.parametrize("copied", [renamed, history])
def test_a_table_made_from_the_columns_of_an_owned_one_is_owned(engine: Engine, copied) -> None:
    table = original(f"ownership_to_{copied.__name__}", Column("organization", String(20)))
    copy = copied(tenant_table(table, column="organization"))
    copy.create(engine)
    for key, tenant in enumerate(["acme", "globex"], 1):
        with tenant_scope(tenant), engine.begin() as connection:
            connection.execute(copy.insert().values(id=key))

    for key, tenant in enumerate(["acme", "globex"], 1):
        with tenant_scope(tenant), engine.begin() as connection:
            rows = connection.execute(select(copy.c.id, copy.c.organization)).all()
            assert rows == [(key, tenant)]

    with engine.connect() as connection, pytest.raises(MissingTenantContextError, match="current"):
        connection.execute(select(copy.c.id))


def test_a_copy_of_a_copy_is_owned(engine: Engine) -> None:
    table = tenant_table(original("ownership_twice_copied", Column("tenant_id", String(20))))
    copy = history(renamed(table))
    with engine.connect() as connection, pytest.raises(MissingTenantContextError, match="current"):
        connection.execute(select(copy.c.id))


def test_a_copy_stays_owned_when_another_of_its_name_is_gone(engine: Engine) -> None:
    def copy() -> Table:
        return history(tenant_table(original("ownership_reborn", Column("tenant_id", String(20)))))

    first, second = copy(), copy()
    del first
    gc.collect()
    with engine.connect() as connection, pytest.raises(MissingTenantContextError, match="current"):
        connection.execute(select(second.c.id))


def test_shared_rows_stay_shared_in_a_copy(engine: Engine) -> None:
    table = original("ownership_to_share", Column("tenant_id", String(20)))
    copy = history(tenant_table(table, shared=True))
    copy.create(engine)
    with unscoped("rows for all and for one", write=True), engine.begin() as connection:
        rows = [{"id": 1, "tenant_id": None}, {"id": 2, "tenant_id": "globex"}]
        connection.execute(copy.insert(), rows)

    with tenant_scope("acme"), engine.begin() as connection:
        assert connection.execute(select(copy.c.id)).scalars().all() == [1]
        assert connection.execute(copy.delete()).rowcount == 0


@pytest.mark.parametrize("copied", [renamed, history])
def test_a_copy_without_a_tenant_column_is_refused_until_it_is_marked(
    engine: Engine, copied
) -> None:
    parent = original(f"ownership_over_{copied.__name__}", Column("tenant_id", String(20)))
    child = Table(
        f"ownership_below_{copied.__name__}",
        parent.metadata,
        Column("id", Integer, primary_key=True),
        Column("parent_id", ForeignKey(parent.c.id)),
    )
    tenant_table(parent)
    copy = copied(tenant_table(child, through="parent_id"))
    configure_mappers()
    with tenant_scope("acme"), engine.connect() as connection:
        for statement in (select(copy.c.id), copy.insert().values(id=1), copy.delete()):
            with pytest.raises(ConfigurationError, match="has no tenant column of its own"):
                connection.execute(statement)

    copy.append_column(Column("owner", String(20)))
    parent.metadata.create_all(engine)
    tenant_table(copy, column="owner")
    for key, tenant in enumerate(["acme", "globex"], 1):
        with tenant_scope(tenant), engine.begin() as connection:
            connection.execute(copy.insert().values(id=key))
            assert connection.execute(select(copy.c.id)).scalars().all() == [key]


def test_a_copy_for_another_metadata_keeps_the_path_to_its_parent(engine: Engine) -> None:
    parent = tenant_table(original("ownership_parent", Column("tenant_id", String(20))))
    child = Table(
        "ownership_with_parent",
        parent.metadata,
        Column("id", Integer, primary_key=True),
        Column("parent_id", ForeignKey(parent.c.id)),
    )
    parent.metadata.create_all(engine)
    copy = tenant_table(child, through="parent_id").to_metadata(MetaData())
    for key, tenant in enumerate(["acme", "globex"], 1):
        with tenant_scope(tenant), engine.begin() as connection:
            connection.execute(parent.insert().values(id=key))
            connection.execute(child.insert().values(id=key, parent_id=key))
            assert connection.execute(select(copy.c.id)).scalars().all() == [key]


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


def test_half_written_models_do_not_stand_in_the_way_of_the_others(engine: Engine) -> None:
    class Whole(DeclarativeBase):
        pass

    class Half(DeclarativeBase):
        pass

    @tenant_aware
    class Ready(Whole):
        __tablename__ = "ownership_ready"
        id: Mapped[int] = mapped_column(primary_key=True)
        tenant_id: Mapped[str] = mapped_column(String(40))
        name: Mapped[str] = mapped_column(String(40))

    link = Table(
        "ownership_half_link",
        Half.metadata,
        Column("left_id", ForeignKey("ownership_left.id"), primary_key=True),
        Column("right_id", ForeignKey("ownership_right.id"), primary_key=True),
    )

    @tenant_aware
    class Left(Half):
        __tablename__ = "ownership_left"
        id: Mapped[int] = mapped_column(primary_key=True)
        tenant_id: Mapped[str] = mapped_column(String(40))
        rights: Mapped[list[Right]] = relationship("Right", secondary=link)

    @tenant_aware(through="right")
    class Below(Half):
        __tablename__ = "ownership_below"
        id: Mapped[int] = mapped_column(primary_key=True)
        right_id: Mapped[int] = mapped_column(ForeignKey("ownership_right.id"))
        right: Mapped[Right] = relationship("Right")

    add_one_each(engine, Ready)
    assert names_by_tenant(engine, Ready) == EACH_ITS_OWN
    with (
        tenant_scope("acme"),
        engine.connect() as connection,
        pytest.raises(NoReferencedTableError, match="ownership_right"),
    ):
        connection.execute(select(link))

    @tenant_aware
    class Right(Half):
        __tablename__ = "ownership_right"
        id: Mapped[int] = mapped_column(primary_key=True)
        tenant_id: Mapped[str] = mapped_column(String(40))

    Half.metadata.create_all(engine)
    for tenant in ("acme", "globex"):
        with tenant_scope(tenant), Session(engine) as session, session.begin():
            session.add(Left(rights=[Right()]))
            session.flush()
            session.add(Below(right=session.scalars(select(Right)).one()))

    for key, tenant in enumerate(("acme", "globex"), 1):
        with tenant_scope(tenant), engine.connect() as connection:
            assert connection.execute(select(link)).all() == [(key, key)]
            assert connection.execute(select(Below.right_id)).all() == [(key,)]


def test_a_class_that_was_mapped_twice_and_disposed_of_is_not_in_the_way(engine: Engine) -> None:
    class Twice:
        pass

    class OwnBase(DeclarativeBase):
        pass

    first, second = registry(), registry()
    table = Table("twice", MetaData(), Column("id", Integer, primary_key=True))
    first.map_imperatively(Twice, table)
    with pytest.raises(ArgumentError, match="already has a primary mapper"):
        second.map_imperatively(Twice, table)

    # An object keeps what SQLAlchemy knows of its class.
    kept = Twice()
    first.dispose()

    @tenant_aware
    class Note(OwnBase):
        __tablename__ = "notes_beside_a_class_disposed_of"
        id: Mapped[int] = mapped_column(primary_key=True)
        tenant_id: Mapped[str]
        name: Mapped[str]

    add_one_each(engine, Note)
    assert names_by_tenant(engine, Note) == EACH_ITS_OWN
    del kept


def test_an_association_belongs_also_to_a_parent_that_is_marked_later(engine: Engine) -> None:
    mapping = registry()
    link = Table(
        "ownership_late_link",
        mapping.metadata,
        Column("left_id", ForeignKey("ownership_late_left.id"), primary_key=True),
        Column("right_id", ForeignKey("ownership_late_right.id"), primary_key=True),
    )

    @mapping.mapped
    class Right:
        __tablename__ = "ownership_late_right"
        id: Mapped[int] = mapped_column(primary_key=True)
        tenant_id: Mapped[str] = mapped_column(String(40))

    @tenant_aware
    @mapping.mapped
    class Left:
        __tablename__ = "ownership_late_left"
        id: Mapped[int] = mapped_column(primary_key=True)
        tenant_id: Mapped[str] = mapped_column(String(40))
        rights: Mapped[list[Right]] = relationship(Right, secondary=link)

    mapping.metadata.create_all(engine)
    with engine.begin() as connection:
        connection.execute(Right.__table__.insert(), [{"id": 1, "tenant_id": "acme"}])
        connection.execute(Right.__table__.insert(), [{"id": 2, "tenant_id": "globex"}])

    with tenant_scope("acme"), engine.begin() as connection:
        connection.execute(Left.__table__.insert(), {"id": 1})
        connection.execute(link.insert(), [{"left_id": 1, "right_id": 1}])
        connection.execute(link.insert(), [{"left_id": 1, "right_id": 2}])
        assert len(connection.execute(select(link)).all()) == 2

    tenant_aware(Right)
    with tenant_scope("acme"), engine.connect() as connection:
        assert connection.execute(select(link)).all() == [(1, 1)]

    with tenant_scope("globex"), engine.connect() as connection:
        assert connection.execute(select(link)).all() == []


def test_a_class_is_forgotten_that_nobody_uses_though_its_table_stays() -> None:
    table = tenant_table(original("ownership_outlived", Column("tenant_id", String(20))))

    class Brief:
        pass

    mapped = registry()
    mapped.map_imperatively(Brief, table)
    gone = ref(Brief)
    del Brief, mapped
    gc.collect()
    assert gone() is None


@pytest.fixture
def floors(engine: Engine) -> tuple[type[Any], type[Any], type[Any]]:
    """A joined hierarchy and what refers to it, each table marked by itself and before its class."""
    metadata = MetaData()

    def table(name: str, *columns: Any) -> Table:
        return tenant_table(Table(name, metadata, *columns, Column("tenant_id", String(20))))

    floor = table(
        "floors", Column("code", String(20), primary_key=True), Column("kind", String(20))
    )
    attic = table("attics", Column("code", ForeignKey("floors.code"), primary_key=True))
    room = table(
        "rooms",
        Column("id", Integer, primary_key=True),
        Column("floor_code", ForeignKey("floors.code")),
        Column("attic_code", ForeignKey("attics.code")),
    )

    class Floor:
        pass

    class Attic(Floor):
        pass

    class Room:
        pass

    mapped, hidden = registry(metadata=metadata), ["tenant_id"]
    mapped.map_imperatively(
        Floor,
        floor,
        polymorphic_on=floor.c.kind,
        polymorphic_identity="floor",
        exclude_properties=hidden,
        properties={
            "rooms": relationship(
                Room, foreign_keys=room.c.floor_code, passive_updates=False, order_by=room.c.id
            )
        },
    )
    mapped.map_imperatively(
        Attic, attic, inherits=Floor, polymorphic_identity="attic", exclude_properties=hidden
    )
    mapped.map_imperatively(
        Room,
        room,
        exclude_properties=hidden,
        properties={"attic": relationship(Attic, foreign_keys=room.c.attic_code)},
    )
    metadata.create_all(engine)
    return Floor, Attic, Room


def sent_to(engine: Engine) -> list[str]:
    sent: list[str] = []
    event.listen(engine, "before_cursor_execute", lambda *args: sent.append(args[2].split()[0]))
    return sent


def test_no_parent_is_looked_up_that_the_same_flush_adds_or_renames(
    engine: Engine, floors: tuple[Any, Any, Any]
) -> None:
    _, attic_class, room_class = floors
    for tenant in ("globex", "acme"):
        with tenant_scope(tenant), Session(engine) as session:
            attic, room = attic_class(), room_class()
            attic.code, attic.rooms, room.attic = f"of {tenant}", [room], attic
            session.add(attic)
            sent = sent_to(engine)
            session.flush()
            assert sent == ["INSERT", "INSERT", "INSERT"]
            room.attic = None
            session.commit()

    with tenant_scope("acme"), Session(engine) as session:
        (attic,) = session.scalars(select(attic_class)).all()
        assert len(attic.rooms) == 1
        attic.code = "renamed"
        sent = sent_to(engine)
        session.flush()
        assert "SELECT" not in sent
        session.commit()

    with engine.connect() as connection, unscoped("what is stored"):
        stored = connection.exec_driver_sql("SELECT tenant_id, floor_code FROM rooms").all()
        assert sorted(stored) == [("acme", "renamed"), ("globex", "of globex")]


def test_a_floor_of_ones_own_does_not_vouch_for_an_attic(
    engine: Engine, floors: tuple[Any, Any, Any]
) -> None:
    floor_class, _, room_class = floors
    with unscoped("rows that do not fit", write=True), engine.begin() as connection:
        connection.exec_driver_sql("INSERT INTO floors VALUES ('x', 'floor', 'acme')")
        connection.exec_driver_sql("INSERT INTO attics VALUES ('x', 'globex')")

    with tenant_scope("acme"), Session(engine) as session:
        session.scalars(select(floor_class)).one()
        room = room_class()
        room.attic_code = "x"
        session.add(room)
        with pytest.raises(CrossTenantReferenceError, match="does not belong to the current"):
            session.flush()


def test_a_parent_that_is_renamed_and_deleted_does_not_vouch_for_its_new_name(
    engine: Engine, floors: tuple[Any, Any, Any]
) -> None:
    floor_class, _, room_class = floors
    for tenant in ("globex", "acme"):
        with tenant_scope(tenant), Session(engine) as session:
            floor = floor_class()
            floor.code = f"of {tenant}"
            session.add(floor)
            session.commit()

    with tenant_scope("acme"), Session(engine) as session:
        floor = session.scalars(select(floor_class)).one()
        floor.code = "of globex"
        session.delete(floor)
        room = room_class()
        room.floor_code = "of globex"
        session.add(room)
        with pytest.raises(CrossTenantReferenceError, match="does not belong to the current"):
            session.flush()


def test_each_table_of_a_hierarchy_may_be_marked_through_the_one_above(engine: Engine) -> None:
    metadata = MetaData()
    house = Table(
        "houses",
        metadata,
        Column("id", Integer, primary_key=True),
        Column("tenant_id", String(20)),
    )
    shop = Table("shops", metadata, Column("house_id", ForeignKey("houses.id"), primary_key=True))
    bakery = Table(
        "bakeries",
        metadata,
        Column("shop_id", ForeignKey("shops.house_id"), primary_key=True),
        Column("bread", String(20)),
    )
    tenant_table(house)
    tenant_table(shop, through="house_id")
    tenant_table(bakery, through="shop_id")

    class House:
        pass

    class Shop(House):
        pass

    class Bakery(Shop):
        pass

    mapped = registry(metadata=metadata)
    mapped.map_imperatively(House, house)
    mapped.map_imperatively(Shop, shop, inherits=House)
    mapped.map_imperatively(Bakery, bakery, inherits=Shop)
    metadata.create_all(engine)
    for tenant in ("acme", "globex"):
        with tenant_scope(tenant), Session(engine) as session:
            made: Any = Bakery()
            made.bread = f"of {tenant}"
            session.add(made)
            session.commit()

    with tenant_scope("acme"), Session(engine) as session:
        assert [found.bread for found in session.scalars(select(Bakery))] == ["of acme"]
        assert session.execute(select(bakery.c.bread)).all() == [("of acme",)]
        assert len(session.scalars(select(Shop)).all()) == 1


def mark_classes(order: Any, item: Any, through: str | None) -> None:
    tenant_aware(order)
    tenant_aware(item) if through is None else tenant_aware(through=through)(item)


def mark_tables(order: Any, item: Any, through: str | None) -> None:
    tenant_table(order.__table__, column="whose")
    if through is None:
        tenant_table(item.__table__, column="whose")
    else:
        tenant_table(item.__table__, through=through)


@pytest.mark.parametrize("mark", [mark_classes, mark_tables])
@pytest.mark.parametrize("through", [None, "order", "order_id"])
@pytest.mark.parametrize("early", [True, False])
def test_what_is_below_and_between_marked_tables_is_owned_whenever_they_are_marked(
    engine: Engine, mark: Any, through: str | None, early: bool
) -> None:
    class Base(DeclarativeBase):
        pass

    def owner() -> Any:
        return mapped_column("tenant_id", String(20), key="whose")

    class Order(Base):
        __tablename__ = "orders"
        id = mapped_column(Integer, primary_key=True)
        tenant_id = owner()

    class Item(Base):
        __tablename__ = "items"
        id = mapped_column(Integer, primary_key=True)
        kind = mapped_column(String(20))
        order_id = mapped_column(ForeignKey("orders.id"), nullable=False)
        order = relationship(Order)
        if through is None:
            tenant_id = owner()

        __mapper_args__ = {"polymorphic_on": "kind", "polymorphic_identity": "item"}

    if early:
        mark(Order, Item, through)

    links = Table(
        "item_orders",
        Base.metadata,
        Column("item_id", ForeignKey("items.id"), primary_key=True),
        Column("order_id", ForeignKey("orders.id"), primary_key=True),
    )

    class Gift(Item):
        __tablename__ = "gifts"
        id = mapped_column(ForeignKey("items.id"), primary_key=True)
        paper = mapped_column(String(20))
        orders = relationship(Order, secondary=links)
        __mapper_args__ = {"polymorphic_identity": "gift"}

    if not early:
        mark(Order, Item, through)

    Base.metadata.create_all(engine)
    for tenant in ("acme", "globex"):
        with tenant_scope(tenant), Session(engine) as session:
            order = Order()
            session.add(Gift(order=order, orders=[order], paper="red"))
            session.commit()

    gifts: Any = Gift.__table__
    with tenant_scope("acme"), Session(engine) as session:
        (gift,) = session.scalars(select(Gift)).all()
        assert gift.orders == [gift.order]
        assert session.execute(select(gifts)).all() == [(gift.id, "red")]
        assert session.execute(select(links)).all() == [(gift.id, gift.order_id)]
        assert session.execute(gifts.update().values(paper="blue")).rowcount == 1
        session.commit()

    with tenant_scope("globex"), Session(engine) as session:
        assert session.scalars(select(gifts.c.paper)).all() == ["red"]


def test_a_tenant_column_that_statements_leave_out_is_filled_in(engine: Engine) -> None:
    hidden: Any = Column("tenant_id", String(20), _omit_from_statements=True)
    table = tenant_table(original("ownership_hidden", hidden))
    table.create(engine)
    for key, tenant in enumerate(("acme", "globex")):
        with tenant_scope(tenant), engine.begin() as connection:
            assert "tenant_id" in str(table.insert().compile(connection))
            assert "tenant_id =" in str(table.update().compile(connection))
            connection.execute(table.insert(), {"id": key})

    with unscoped("what is stored"), engine.connect() as connection:
        stored = connection.exec_driver_sql("SELECT id, tenant_id FROM ownership_hidden").all()
        assert stored == [(0, "acme"), (1, "globex")]


def test_a_copy_that_goes_by_the_name_of_another_owned_table_does_not_stand_for_it(
    engine: Engine,
) -> None:
    metadata = MetaData()
    mine = tenant_table(
        Table(
            "ownership_by_name",
            metadata,
            Column("id", Integer, primary_key=True),
            Column("tenant_id", String(20)),
        )
    )
    under = Table(
        "ownership_by_another",
        metadata,
        Column("id", Integer, primary_key=True),
        Column("parent_id", ForeignKey("ownership_by_name.id")),
    )
    tenant_table(under, through="parent_id")
    copies = [under.to_metadata(MetaData(), name=mine.name) for _ in range(8)]
    metadata.create_all(engine)
    for whose in ("acme", "globex"):
        with tenant_scope(whose), engine.begin() as connection:
            connection.execute(mine.insert())

    with tenant_scope("globex"), engine.connect() as connection:
        found = connection.execute(select(table(mine.name, column("id")))).all()
        assert found == [(2,)] and len(copies) == 8


def test_a_further_mapping_of_a_table_changes_nothing(engine: Engine) -> None:
    class Base(DeclarativeBase):
        pass

    @tenant_aware
    class Ship(Base):
        __tablename__ = "ownership_ships"
        id = mapped_column(Integer, primary_key=True)
        tenant_id = mapped_column(String(20), nullable=False)

    @tenant_aware(through="ship")
    class Load(Base):
        __tablename__ = "ownership_loads"
        id = mapped_column(Integer, primary_key=True)
        carried_by = mapped_column(ForeignKey("ownership_ships.id"), nullable=False)
        ship = relationship(Ship)

    class ShipRow(Base):
        __table__ = Ship.__table__

    class LoadRow(Base):
        __table__ = Load.__table__

    Base.metadata.create_all(engine)
    sent: list[str] = []
    event.listen(engine, "before_cursor_execute", lambda *args: sent.append(args[2].split()[0]))
    for tenant, key in (("acme", 1), ("globex", 2)):
        with tenant_scope(tenant), Session(engine) as session:
            sent.clear()
            session.add(Load(ship=Ship()))
            session.commit()
            assert sent == ["INSERT", "INSERT"]
            assert session.scalars(select(LoadRow.id)).all() == [key]
            assert session.scalars(select(ShipRow.id)).all() == [key]


@pytest.mark.parametrize("mark_first", [True, False])
def test_a_class_that_is_mapped_anew_stands_for_its_table(engine: Engine, mark_first: bool) -> None:
    metadata = MetaData()
    ships = tenant_table(
        Table(
            "ownership_fleet",
            metadata,
            Column("id", Integer, primary_key=True),
            Column("tenant_id", String(20), nullable=False),
        )
    )
    loads = Table(
        "ownership_freight",
        metadata,
        Column("id", Integer, primary_key=True),
        Column("carried_by", ForeignKey("ownership_fleet.id"), nullable=False),
    )
    if mark_first:
        tenant_table(loads, through="ship")

    ship: Any = type("Ship", (), {})
    load: Any = type("Load", (), {})
    row: Any = type("LoadRow", (), {})
    for _ in range(2):
        mappers = registry(metadata=metadata)
        mappers.map_imperatively(ship, ships)
        mappers.map_imperatively(row, loads)
        mappers.map_imperatively(load, loads, properties={"ship": relationship(ship)})
        if not mark_first:
            tenant_aware(through="ship")(load)

        metadata.drop_all(engine)
        metadata.create_all(engine)
        for tenant, key in (("acme", 1), ("globex", 2)):
            with tenant_scope(tenant), Session(engine) as session:
                made = load()
                made.ship = ship()
                session.add(made)
                session.commit()
                assert session.scalars(select(row.id)).all() == [key]

        mappers.dispose()
