"""Alembic: the schema is never in the way of the wall, and rows are moved loudly or not at all.

The projects are what `alembic init` makes, with one line of env.py changed: its metadata. Two
tenants with the same invoice numbers; what is stored is read through the plain driver.
"""

from __future__ import annotations

import io
import os
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, nullcontext
from pathlib import Path
from textwrap import dedent, indent
from typing import Any

import pytest
from sqlalchemy import (
    Column,
    ForeignKey,
    String,
    Table,
    UniqueConstraint,
    create_engine,
    func,
    select,
)
from sqlalchemy.engine import Connection
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

import databases
from partywall import (
    MissingTenantContextError,
    UnscopedStatementError,
    tenant_aware,
    tenant_scope,
    unscoped,
)

alembic = pytest.importorskip("alembic", reason="Alembic is missing")

from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.util import CommandError


class Base(DeclarativeBase):
    pass


class Customer(Base):
    """Of no tenant: migrations may copy its rows as they like."""

    __tablename__ = "migrated_customer"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(40))


tagged = Table(
    "migrated_tagged",
    Base.metadata,
    Column("invoice_id", ForeignKey("migrated_invoice.id"), primary_key=True),
    Column("tag_id", ForeignKey("migrated_tag.id"), primary_key=True),
)


@tenant_aware(shared=True)
class Tag(Base):
    __tablename__ = "migrated_tag"
    id: Mapped[int] = mapped_column(primary_key=True)
    tenant_id: Mapped[str | None] = mapped_column(String(40))
    name: Mapped[str] = mapped_column(String(40))


@tenant_aware
class Invoice(Base):
    __tablename__ = "migrated_invoice"
    __table_args__ = (UniqueConstraint("tenant_id", "number", name="one_number"),)
    id: Mapped[int] = mapped_column(primary_key=True)
    tenant_id: Mapped[str] = mapped_column(String(40), index=True)
    number: Mapped[str] = mapped_column(String(40))
    amount: Mapped[int] = mapped_column(server_default="0")
    lines: Mapped[list[Line]] = relationship()
    tags: Mapped[list[Tag]] = relationship(secondary=tagged)


@tenant_aware(through="invoice_id")
class Line(Base):
    __tablename__ = "migrated_line"
    id: Mapped[int] = mapped_column(primary_key=True)
    invoice_id: Mapped[int] = mapped_column(ForeignKey(Invoice.id))
    product: Mapped[str] = mapped_column(String(40))


ROWS = [
    "INSERT INTO migrated_customer VALUES (1, 'one'), (2, 'two')",
    "INSERT INTO migrated_invoice VALUES (1, 'acme', 'A', 10), (2, 'globex', 'A', 20)",
    "INSERT INTO migrated_invoice VALUES (3, 'acme', 'B', 30), (4, 'globex', 'B', 40)",
    "INSERT INTO migrated_line VALUES (1, 1, 'desk'), (2, 2, 'chair')",
]
AS_WRITTEN = {("acme", 10): 1, ("globex", 20): 1, ("acme", 30): 1, ("globex", 40): 1}

MIGRATION = """
import sqlalchemy as sa
from alembic import op
from sqlalchemy.orm import Session

from partywall import tenant_scope, tenant_text, unscoped

import test_alembic as app

revision = {revision!r}
down_revision = {down!r}
branch_labels = None
depends_on = None
invoice = sa.table(
    "migrated_invoice",
    *(sa.column(name, sa.Integer) for name in ("id", "amount")),
    *(sa.column(name, sa.String) for name in ("tenant_id", "number")),
)


def upgrade():
{upgrade}


def downgrade():
    pass
"""


class Project:
    """A folder of migrations and the database that they are run on."""

    def __init__(self, folder: Path, place: Place, template: str) -> None:
        self.folder = folder / "migrations"
        self.place = place
        self.drivers = ASYNC if template == "async" else SYNC
        self.said = io.StringIO()
        ini = Config(str(folder / "alembic.ini"), stdout=self.said)
        command.init(ini, str(self.folder), template=template)
        self.edit_env("target_metadata = None", "target_metadata = config.attributes['metadata']")

    def config(self, **attributes: Any) -> Config:
        self.said = io.StringIO()
        config = Config(stdout=self.said, output_buffer=self.said, attributes=attributes)
        config.set_main_option("script_location", str(self.folder))
        config.set_main_option("path_separator", "os")
        url = self.place.url(self.drivers).render_as_string(hide_password=False)
        config.set_main_option("sqlalchemy.url", url.replace("%", "%%"))
        return config

    def run(self, name: str, *args: Any, attributes: Any = None, **options: Any) -> str:
        """What a command says; with `sql=True`, what it would have run."""
        config = self.config(**{"metadata": Base.metadata, **(attributes or {})})
        getattr(command, name)(config, *args, **options)
        return self.said.getvalue()

    def edit_env(self, old: str, new: str) -> None:
        env = self.folder / "env.py"
        text = env.read_text()
        assert old in text
        env.write_text(text.replace(old, new))

    def generate(self, revision: str) -> str:
        self.run("revision", autogenerate=True, rev_id=revision, message="generated")
        (script,) = (self.folder / "versions").glob(f"{revision}_*.py")
        return script.read_text()

    def write(self, upgrade: str, revision: str = "0002", down: str | None = "0001") -> None:
        body = indent(dedent(upgrade).strip(), "    ")
        text = MIGRATION.format(revision=revision, down=down, upgrade=body)
        (self.folder / "versions" / f"{revision}.py").write_text(text)


SYNC = {"sqlite": "sqlite3", "postgresql": "psycopg"}
ASYNC = {"sqlite": "aiosqlite", "postgresql": "asyncpg"}


class Place:
    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.server = databases.server(kind)
        self.name = f"partywall_{os.getpid()}_alembic"
        self.server.create(self.name)
        databases._created[kind].append(self.name)

    def url(self, drivers: dict[str, str]) -> Any:
        return self.server.url(databases.DRIVERS[drivers[self.kind]][1], self.name)

    def execute(self, *statements: str) -> list[tuple[Any, ...]]:
        with closing(self.server.connect(self.name)) as connection:
            cursor = connection.cursor()
            for statement in statements:
                cursor.execute(statement)

            return [tuple(row) for row in cursor.fetchall()] if cursor.description else []

    def stored(self, columns: str = "tenant_id, amount") -> Counter[Any]:
        return Counter(self.execute(f"SELECT {columns} FROM migrated_invoice"))

    def version(self) -> str | None:
        found = self.execute("SELECT version_num FROM alembic_version")
        return found[0][0] if found else None

    def tables(self) -> set[str]:
        names = {
            "sqlite": "SELECT name FROM sqlite_master WHERE type = 'table'",
            "postgresql": "SELECT tablename FROM pg_tables WHERE schemaname = 'public'",
        }
        return {name for (name,) in self.execute(names[self.kind])} - {"sqlite_sequence"}

    def empty(self) -> None:
        if self.kind == "postgresql":
            self.execute("DROP SCHEMA public CASCADE", "CREATE SCHEMA public")
        else:
            views = self.execute("SELECT name FROM sqlite_master WHERE type = 'view'")
            self.execute(*(f"DROP VIEW {name}" for (name,) in views))
            self.execute("PRAGMA foreign_keys=OFF", *(f"DROP TABLE {t}" for t in self.tables()))


TABLES = {*Base.metadata.tables, "alembic_version"}


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest) -> Place:
    return Place(request.param)


@pytest.fixture
def place(database: Place) -> Iterator[Place]:
    database.empty()
    yield database


@pytest.fixture(params=["generic", "async"])
def template(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def new_project(tmp_path: Path, place: Place, template: str) -> Project:
    return Project(tmp_path, place, template)


@pytest.fixture
def project(tmp_path: Path, place: Place) -> Project:
    """With the tables and the rows of two tenants."""
    project = Project(tmp_path, place, "generic")
    project.write("app.Base.metadata.create_all(op.get_bind())", revision="0001", down=None)
    project.run("upgrade", "head")
    place.execute(*ROWS)
    return project


def scope(tenant: str | None) -> Any:
    return nullcontext() if tenant is None else tenant_scope(tenant)


@pytest.mark.parametrize("tenant", [None, "acme"])
def test_a_schema_is_made_checked_and_taken_away(new_project: Project, tenant: str | None) -> None:
    place = new_project.place
    with scope(tenant):
        script = new_project.generate("0001")
        assert all(f"'{name}'" in script for name in Base.metadata.tables)
        assert "partywall" not in script

        new_project.run("upgrade", "head")
        assert place.tables() == TABLES
        assert "0001 (head)" in new_project.run("current")
        assert "No new upgrade operations" in new_project.run("check")

        empty = new_project.generate("0002")
        assert empty.count("    pass\n") == 2

        new_project.run("stamp", "0002")
        assert place.version() == "0002"
        new_project.run("stamp", "0001")
        new_project.run("downgrade", "base")
        assert place.tables() == {"alembic_version"}
        assert place.version() is None
        with pytest.raises(CommandError, match="not up to date"):
            new_project.run("check")


@pytest.mark.parametrize("tenant", [None, "acme"])
def test_a_change_of_a_model_is_all_that_is_generated(project: Project, tenant: str | None) -> None:
    project.place.execute("ALTER TABLE migrated_line DROP COLUMN product")
    with scope(tenant):
        script = project.generate("0002")

    upgrade = script.partition("def upgrade()")[2].partition("def downgrade()")[0]
    assert upgrade.count("op.") == 1
    assert "op.add_column('migrated_line', sa.Column('product'" in upgrade


def test_metadata_is_compared_under_every_scope(project: Project) -> None:
    engine = create_engine(project.place.url(SYNC))
    for current in (nullcontext(), tenant_scope("globex"), unscoped("a comparison")):
        with current, engine.connect() as connection:
            options = {"compare_type": True, "compare_server_default": True}
            context = MigrationContext.configure(connection, opts=options)
            assert compare_metadata(context, Base.metadata) == []

    engine.dispose()


def test_offline_writes_the_same_sql_for_everyone(new_project: Project) -> None:
    """Nothing is run, so nothing is guarded: what the script does is up to who runs it."""
    new_project.write(
        """
        op.create_table("migrated_invoice", sa.Column("id", sa.Integer), sa.Column("amount", sa.Integer))
        op.execute("UPDATE migrated_invoice SET amount = 0")
        op.execute(invoice.update().values(amount=1))
        op.bulk_insert(invoice, [{"tenant_id": "globex", "number": "A", "amount": 5}])
        """,
        revision="0001",
        down=None,
    )
    written = []
    for current in (nullcontext(), tenant_scope("acme"), unscoped("a script", write=True)):
        with current:
            written.append(new_project.run("upgrade", "head", sql=True))

    assert written[0] == written[1] == written[2]
    assert "CREATE TABLE migrated_invoice" in written[0]
    assert "UPDATE migrated_invoice SET amount = 0;" in written[0]
    assert "UPDATE migrated_invoice SET amount=1;" in written[0]
    assert "VALUES (5, 'globex', 'A')" in written[0]
    assert new_project.place.tables() == set()


DATA = {
    "text": ('op.execute("UPDATE migrated_invoice SET amount = 0")', UnscopedStatementError),
    "driver sql": (
        'op.get_bind().exec_driver_sql("DELETE FROM migrated_line")',
        UnscopedStatementError,
    ),
    "update": ("op.execute(invoice.update().values(amount=0))", MissingTenantContextError),
    "model": (
        "op.execute(sa.update(app.Invoice).values(amount=0))",
        MissingTenantContextError,
    ),
    "delete": ("op.execute(sa.delete(app.Line))", MissingTenantContextError),
    "select": (
        "assert len(op.get_bind().execute(sa.select(invoice.c.amount)).all()) == 4",
        MissingTenantContextError,
    ),
    "session": (
        """with Session(op.get_bind()) as session, session.begin():
    for found in session.scalars(sa.select(app.Invoice)):
        found.amount = 0""",
        MissingTenantContextError,
    ),
    "bulk insert": (
        'op.bulk_insert(invoice, [{"id": 9, "tenant_id": "globex", "number": "C", "amount": 5}])',
        MissingTenantContextError,
    ),
    "insert from select": (
        'op.execute("INSERT INTO migrated_customer SELECT id + 9, number FROM migrated_invoice")',
        UnscopedStatementError,
    ),
}


@pytest.mark.parametrize("shape", DATA)
def test_rows_are_not_moved_without_a_word(project: Project, shape: str) -> None:
    statement, error = DATA[shape]
    project.write(statement)
    with pytest.raises(error, match="unscoped"):
        project.run("upgrade", "head")

    assert project.place.stored() == AS_WRITTEN
    assert project.place.version() == "0001"


@pytest.mark.parametrize("shape", [shape for shape in DATA if shape != "select"])
def test_reading_unscoped_is_not_writing(project: Project, shape: str) -> None:
    project.write('with unscoped("a look"):\n' + indent(DATA[shape][0], "    "))
    with pytest.raises(UnscopedStatementError, match="write=True"):
        project.run("upgrade", "head")

    assert project.place.stored() == AS_WRITTEN
    assert project.place.version() == "0001"


@pytest.mark.parametrize("bound", [None, "acme"])
@pytest.mark.parametrize("shape", DATA)
def test_rows_of_every_tenant_are_moved_unscoped(
    project: Project, shape: str, bound: str | None
) -> None:
    statement = indent(DATA[shape][0], "    ")
    project.write('with unscoped("round the amounts", write=True):\n' + statement)
    with scope(bound):
        project.run("upgrade", "head")

    place = project.place
    assert place.version() == "0002"
    if shape in ("text", "update", "model", "session"):
        assert place.stored() == {("acme", 0): 2, ("globex", 0): 2}
    elif shape in ("driver sql", "delete"):
        assert place.execute("SELECT count(*) FROM migrated_line") == [(0,)]
    elif shape == "bulk insert":
        assert place.stored() == {**AS_WRITTEN, ("globex", 5): 1}
    elif shape == "insert from select":
        assert place.execute("SELECT count(*) FROM migrated_customer") == [(6,)]


@pytest.mark.parametrize("template", ["generic", "async"])
def test_one_line_in_env_opens_every_migration(new_project: Project, template: str) -> None:
    opened = "with __import__('partywall').unscoped('migrations', write=True):"
    run = "context.run_migrations()"
    new_project.edit_env(run, f"{opened} {run}")
    fill = "\n".join(f'op.execute("{row}")' for row in ROWS)
    create = "app.Base.metadata.create_all(op.get_bind())"
    new_project.write(f"{create}\n{fill}", revision="0001", down=None)
    new_project.write(DATA["text"][0])
    new_project.run("upgrade", "head")

    assert new_project.place.stored() == {("acme", 0): 2, ("globex", 0): 2}


def test_rows_are_moved_tenant_by_tenant(project: Project) -> None:
    project.write(
        """
        for tenant, amount in [("acme", 1), ("globex", 2)]:
            with tenant_scope(tenant):
                op.execute(invoice.update().where(invoice.c.number == "A").values(amount=amount))
                op.bulk_insert(invoice, [{"id": 10 + amount, "number": "C", "amount": amount}])
                op.execute(
                    tenant_text(
                        "UPDATE migrated_invoice SET amount = amount + 500 "
                        "WHERE number = 'B' AND tenant_id = :tenant"
                    )
                )
        """
    )
    project.run("upgrade", "head")

    assert project.place.stored("tenant_id, number, amount") == {
        ("acme", "A", 1): 1,
        ("acme", "B", 530): 1,
        ("acme", "C", 1): 1,
        ("globex", "A", 2): 1,
        ("globex", "B", 540): 1,
        ("globex", "C", 2): 1,
    }


def test_a_migration_under_a_tenant_reaches_its_rows_only(project: Project) -> None:
    project.write("op.execute(invoice.update().values(amount=0))")
    with tenant_scope("acme"):
        project.run("upgrade", "head")

    assert project.place.stored() == {("acme", 0): 2, ("globex", 20): 1, ("globex", 40): 1}


DDL = """
op.add_column("migrated_invoice", sa.Column("note", sa.String(40), server_default="none"))
op.create_index("by_note", "migrated_invoice", ["tenant_id", sa.text("lower(note)")])
op.create_table("migrated_extra", sa.Column("id", sa.Integer, primary_key=True),
                sa.Column("invoice_id", sa.Integer, sa.ForeignKey("migrated_invoice.id")))
op.rename_table("migrated_extra", "migrated_more")
op.execute("ALTER TABLE migrated_line ADD COLUMN price INTEGER")
op.execute("CREATE INDEX by_price ON migrated_line (price)")
op.execute("CREATE UNIQUE INDEX one_note ON migrated_invoice (id) WHERE amount > 0")
op.execute("DROP INDEX by_price")
op.execute(sa.DDL("ALTER TABLE migrated_line RENAME COLUMN price TO cost"))
op.drop_table("migrated_more")
"""
POSTGRESQL = """
op.alter_column("migrated_invoice", "note", new_column_name="remark", nullable=True)
op.create_check_constraint("positive", "migrated_invoice", "amount >= 0")
op.create_foreign_key("by_itself", "migrated_line", "migrated_line", ["id"], ["id"])
op.execute("COMMENT ON TABLE migrated_invoice IS 'owned'")
op.execute("ALTER TABLE migrated_invoice ENABLE ROW LEVEL SECURITY")
op.drop_constraint("positive", "migrated_invoice", type_="check")
op.drop_column("migrated_invoice", "remark")
"""


@pytest.mark.parametrize("tenant", [None, "acme"])
def test_definitions_are_never_in_the_way(project: Project, tenant: str | None) -> None:
    place = project.place
    project.write(DDL + (POSTGRESQL if place.kind == "postgresql" else ""))
    with scope(tenant):
        project.run("upgrade", "head")

    assert place.version() == "0002"
    assert place.execute("SELECT cost FROM migrated_line") == [(None,), (None,)]
    assert place.stored() == AS_WRITTEN


# Under another name, or by an expression, rows could leave their tenant.
MORE = {
    "rename": 'op.rename_table("migrated_line", "migrated_item")',
    "view": 'op.execute(sa.DDL("CREATE VIEW migrated_view AS SELECT id FROM migrated_invoice"))',
    "using": """op.alter_column(
    "migrated_invoice", "amount", type_=sa.BigInteger, postgresql_using="amount::bigint"
)""",
}


@pytest.mark.parametrize("shape", MORE)
def test_what_hides_rows_under_a_tenant_is_a_definition_without_one(
    project: Project, shape: str
) -> None:
    if shape == "using" and project.place.kind == "sqlite":
        pytest.skip("SQLite alters no column")

    project.write(MORE[shape])
    with tenant_scope("acme"), pytest.raises(UnscopedStatementError, match="migrated_"):
        project.run("upgrade", "head")

    assert project.place.version() == "0001"
    project.run("upgrade", "head")
    assert project.place.version() == "0002"
    assert project.place.stored() == AS_WRITTEN


def test_an_autocommit_block_is_guarded_alike(project: Project) -> None:
    if project.place.kind != "postgresql":
        pytest.skip("only PostgreSQL has indexes that are built outside of a transaction")

    block = """
    with op.get_context().autocommit_block():
        op.create_index("fast", "migrated_invoice", ["amount"], postgresql_concurrently=True)
        {}
    """
    project.write(block.format(DATA["text"][0]))
    with pytest.raises(UnscopedStatementError, match="migrated_invoice"):
        project.run("upgrade", "head")

    assert project.place.stored() == AS_WRITTEN
    project.place.execute("DROP INDEX fast")
    with unscoped("a migration", write=True):
        project.run("upgrade", "head")

    assert project.place.stored() == {("acme", 0): 2, ("globex", 0): 2}


ALWAYS = ', recreate="always"'
COPIED = f"{ALWAYS}, copy_from=app.Line.__table__"
BATCHES = {
    "altered": ("invoice", "", 'alter_column("amount", type_=sa.BigInteger)'),
    "dropped": ("invoice", "", 'drop_constraint("one_number", type_="unique")'),
    "recreated": ("line", ALWAYS, 'add_column(sa.Column("note", sa.String(40)))'),
    "copied from the model": ("line", COPIED, 'alter_column("product", type_=sa.String(90))'),
}


@pytest.mark.parametrize("tenant", [None, "acme"])
@pytest.mark.parametrize("shape", BATCHES)
def test_a_batch_that_copies_rows_needs_unscoped(
    project: Project, shape: str, tenant: str | None
) -> None:
    place = project.place
    table, options, change = BATCHES[shape]
    project.write(
        f"""
        with op.batch_alter_table("migrated_{table}"{options}) as batch:
            batch.{change}
        """
    )
    copies = place.kind == "sqlite" or bool(options)
    if copies:
        with (
            scope(tenant),
            pytest.raises(UnscopedStatementError, match="copies an owned table .* unscoped"),
        ):
            project.run("upgrade", "head")

        assert place.tables() == TABLES
        assert place.version() == "0001"

    with unscoped("a batch", write=True) if copies else scope(tenant):
        project.run("upgrade", "head")

    assert place.stored() == AS_WRITTEN
    products = place.execute("SELECT id, product FROM migrated_line ORDER BY id")
    assert products == [(1, "desk"), (2, "chair")]
    assert place.tables() == TABLES
    assert place.version() == "0002"


@pytest.mark.parametrize("tenant", [None, "acme"])
def test_a_batch_on_a_table_of_no_tenant_needs_nothing(
    project: Project, tenant: str | None
) -> None:
    project.write(
        """
        with op.batch_alter_table("migrated_customer", recreate="always") as batch:
            batch.alter_column("name", new_column_name="title")

        with op.batch_alter_table("migrated_line") as batch:
            batch.add_column(sa.Column("note", sa.String(40)))
        """
    )
    with scope(tenant):
        project.run("upgrade", "head")

    assert project.place.execute("SELECT count(title) FROM migrated_customer") == [(2,)]


SHARED_CONNECTION = """
    connection = config.attributes["connection"]
    context.configure(connection=connection, target_metadata=target_metadata)
    with context.begin_transaction():
        context.run_migrations()
    return
"""


def test_a_connection_that_is_shared_is_walled_before_and_after(project: Project) -> None:
    head = "def run_migrations_online() -> None:\n"
    project.edit_env(head, head + SHARED_CONNECTION)
    project.write('with unscoped("a migration", write=True):\n    ' + DATA["update"][0])
    engine = create_engine(project.place.url(SYNC))

    def seen(connection: Connection) -> tuple[Any, ...]:
        with tenant_scope("acme"):
            return tuple(connection.execute(select(func.count(), func.sum(Invoice.amount))).one())

    with engine.connect() as connection:
        before = seen(connection)
        project.run("upgrade", "head", attributes={"connection": connection})
        after = seen(connection)
        connection.commit()

    engine.dispose()
    assert (before, after) == ((2, 40), (2, 0))
    assert project.place.stored() == {("acme", 0): 2, ("globex", 0): 2}
