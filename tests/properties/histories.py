"""Short histories of writes, as the Python source that makes them.

Rows are named by small numbers: some are the tenant's own, some another tenant's, some nobody's.
New rows get numbers that no row has: a key that is unique across tenants tells of other rows, and
that is outside of what is promised.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st

from .arena import Program
from .grammar import NUMBER, WORD, Author, Source, mapped
from .schema import FIRST_NEW_ID, NUMBERS, WORDS, models

# What a history writes to: the columns it sets, and what the foreign keys among them refer to.
_WRITTEN: dict[str, dict[str, str]] = {
    "Order": {"number": "unique", "amount": NUMBER, "status": WORD, "customer_id": "Customer"},
    "Customer": {
        "name": WORD,
        "email": "unique",
        "score": NUMBER,
        "referrer_id": "Customer",
        "manager_id": "Manager",
        "country_id": "Country",
    },
    "Line": {"order_id": "Order", "quantity": NUMBER, "product_id": "Product"},
    "Remark": {"line_id": "Line", "body": WORD},
    "Product": {"name": WORD, "price": NUMBER},
    "Tag": {"name": WORD},
    "Setting": {"name": WORD, "level": NUMBER},
    "Employee": {"name": WORD, "salary": NUMBER},
    "Engineer": {"name": WORD, "salary": NUMBER, "language": WORD},
    "Manager": {"name": WORD, "salary": NUMBER, "budget": NUMBER},
    "Vehicle": {"name": WORD, "plate": WORD, "customer_id": "Customer"},
    "Asset": {"name": WORD, "customer_id": "Customer"},
    "Document": {"title": WORD},
    "Transfer": {"account_number": "Account", "amount": NUMBER},
    "Country": {"name": WORD},
}
_PARENTS = {"Line": "order_id", "Remark": "line_id"}
_NAMES = tuple(_WRITTEN)
# A country belongs to nobody, and the rows of every tenant may keep it from being deleted.
_DELETED = tuple(name for name in _NAMES if name != "Country")
_SIMPLE = tuple(
    name
    for name in _NAMES
    if not {name} & {"Document", "Engineer", "Manager", "Vehicle", "Employee"}
)


class Historian(Author):
    """Writes the steps of one history."""

    def __init__(self, draw: Callable[[st.SearchStrategy[Any]], Any], on: str) -> None:
        super().__init__(draw, on)
        self._last = FIRST_NEW_ID + 4000
        self.steps: list[Callable[[], str]] = [
            self.add,
            self.change,
            self.delete,
            self.update,
            self.delete_where,
            self.insert,
            self.insert_select,
            self.upsert,
            self.by_key,
            self.core_by_key,
            self.bulk,
            self.relate,
            self.graph,
            self.merge,
            self.savepoint,
            self.turn,
            self.look,
            self.update_from,
            self.associate,
            self.parts,
            self.versions,
            self.accounts,
            self.changed_in_cte,
            self.hierarchy,
            self.derived_rows,
            self.reparent,
        ]

    def step(self) -> str:
        return self.pick(self.steps)()

    def new_id(self) -> int:
        self._last += 1
        return self._last

    def id(self) -> int:
        return 1 + self.upto(6)

    def ident(self, name: str) -> str:
        return f"(tenant, {self.id()})" if name == "Account" else str(self.id())

    def written(self, name: str, *, new: bool, some: bool = True) -> dict[str, str]:
        """Values as source, by attribute."""
        values = {}
        for column, kind in _WRITTEN[name].items():
            needed = new and (kind == "unique" or column == _PARENTS.get(name))
            if not needed and (some and self.chance(2)):
                continue

            values[column] = self.new_value(kind, needed=needed)

        if not values:
            column, kind = list(_WRITTEN[name].items())[-1]
            values[column] = self.new_value(kind, needed=True)

        return values

    def new_value(self, kind: str, *, needed: bool = False) -> str:
        if not needed and self.chance(6):
            return "None"

        if kind in (WORD, NUMBER):
            return repr(self.pick(WORDS if kind == WORD else NUMBERS))

        if kind == "unique":
            return repr(self.pick([f"x{self.new_id()}", *WORDS]))

        return str(self.id())

    def source_of(self, name: str) -> Source:
        model = models()[name]
        return mapped(model, f"m.{name}", f"{{m.prefix}}{model.table}")

    def where(self, name: str) -> str:
        """Nobody's rows are left alone, on both sides."""
        parts = [self.condition([self.source_of(name)], self.upto(1)) for _ in range(self.upto(2))]
        if self.chance(2):
            parts.append(f"m.{name}.id.in_({[self.id() for _ in range(3)]})")

        if name == "Setting":
            parts.append("m.mine()")

        return f".where({', '.join(parts)})" if parts else ""

    def lines_before(self, text: str) -> str:
        """What the condition needs (aliases) stands before the step."""
        found, self.lines = self.lines, []
        return "\n".join([*found, text])

    # Steps of the unit of work.

    def object(self, name: str, **extra: str) -> str:
        values = {"id": str(self.new_id()), **self.written(name, new=True), **extra}
        return f"m.{name}({', '.join(f'{key}={value}' for key, value in values.items())})"

    def add(self) -> str:
        objects = [self.object(self.pick(_NAMES)) for _ in range(1 + self.upto(1))]
        return "\n".join([*(f"session.add({each})" for each in objects), self.end()])

    def end(self) -> str:
        return self.pick(["session.commit()", "session.flush()", ""])

    def fetched(self, name: str, do: str) -> str:
        guard = " and found.tenant_id" if name == "Setting" else ""
        ident = self.ident(name)
        how = self.pick(
            [
                f"session.get(m.{name}, {ident})",
                f"session.scalars(select(m.{name}).filter_by(id={ident})).first()",
            ]
        )
        if name == "Account":
            how = f"session.get(m.Account, {ident})"

        indented = do.replace("\n", "\n    ")
        return f"found = {how}\nnote(found)\nif found is not None{guard}:\n    {indented}"

    def change(self) -> str:
        name = self.pick(_NAMES)
        values = self.written(name, new=False)
        if self.chance(6):
            column = self.pick(list(values))
            if _WRITTEN[name][column] == NUMBER:
                values[column] = f"m.{name}.{column} + 1"

        do = "\n".join(f"found.{column} = {value}" for column, value in values.items())
        return f"{self.fetched(name, do)}\n{self.end()}"

    def delete(self) -> str:
        name = self.pick((*_DELETED, "Account"))
        return f"{self.fetched(name, 'session.delete(found)')}\n{self.end()}"

    def merge(self) -> str:
        name = self.pick(_SIMPLE)
        values = {"id": "found.id", **self.written(name, new=False)}
        written = ", ".join(f"{key}={value}" for key, value in values.items())
        return f"{self.fetched(name, f'session.merge(m.{name}({written}))')}\n{self.end()}"

    def relate(self) -> str:
        name = self.pick(["Order", "Customer", "Line", "Transfer", "Vehicle"])
        model = models()[name]
        relation = self.pick(list(model.relations))
        target = model.relations[relation]
        if relation not in model.many:
            ident = self.ident(target)
            do = f"found.{relation} = {self.pick([f'session.get(m.{target}, {ident})', 'None'])}"
        elif target in _WRITTEN:
            new = self.object(target) if target != "Label" else f"m.Label(id={self.new_id()})"
            do = self.pick(
                [
                    f"found.{relation}.append({new})",
                    f"found.{relation} = [e for e in [session.get(m.{target}, {self.id()})] if e]",
                    f"found.{relation}.clear()",
                    f"if found.{relation}:\n    found.{relation}.pop()",
                ]
            )
        else:
            do = f"found.{relation}.clear()"

        return f"{self.fetched(name, do)}\n{self.end()}"

    def graph(self) -> str:
        line = self.object("Line", order_id="None", product=f"session.get(m.Product, {self.id()})")
        line = line.replace("order_id=None, ", "").replace(", order_id=None", "")
        tags = f"[m.Tag(id={self.new_id()}, name={self.value(WORD)})]"
        order = self.object(
            "Order",
            lines=f"[{line}]",
            tags=tags,
            labels=f"[e for e in [session.get(m.Label, {self.id()})] if e]",
            customer=self.pick(["None", f"session.get(m.Customer, {self.id()})"]),
        )
        order = order.replace("customer_id=", "amount=") if "amount=" not in order else order
        return f"session.add({order})\n{self.end()}"

    def bulk(self) -> str:
        name = self.pick(_SIMPLE)
        form = self.pick(["save", "insert", "update"])
        if form == "save":
            objects = ", ".join(self.object(name) for _ in range(2))
            return f"session.bulk_save_objects([{objects}])\n{self.end()}"

        rows = self.rows(name, new=form == "insert")
        return f"session.bulk_{form}_mappings(m.{name}, {rows})\n{self.end()}"

    # Statements.

    def rows(self, name: str, *, new: bool, alike: bool = False) -> str:
        chosen = self.written(name, new=new)
        listed = []
        for _ in range(1 + self.upto(2)):
            kinds = {column: _WRITTEN[name][column] for column in chosen}
            values = {
                column: self.new_value(
                    kind, needed=kind == "unique" or column == _PARENTS.get(name)
                )
                for column, kind in kinds.items()
            }
            # Sequences do not roll back: after a refusal elsewhere new numbers would differ.
            if not (new and self.on == "sqlite" and self.chance(5)):
                values = {"id": str(self.new_id() if new else self.id()), **values}

            listed.append("{" + ", ".join(f"'{k}': {v}" for k, v in values.items()) + "}")

        if not new and name == "Setting":
            return "[]"

        return f"[{', '.join(listed)}]"

    def executed(self, statement: str, *more: str, returning: bool = False) -> str:
        """In the session, or on its connection."""
        by = self.pick(["session", "session", "session.connection()"])
        arguments = ", ".join((statement, *more))
        if not returning:
            return f"done = {by}.execute({arguments})\nnote(getattr(done, 'rowcount', None))\n{self.end()}"

        found = f"sorted({by}.execute({arguments}).all(), key=lambda row: str(row[:2]))"
        return f"note({found})\n{self.end()}"

    def columns(self, name: str) -> str:
        column = self.pick(list(_WRITTEN[name]))
        return f"m.{name}.id, m.{name}.{column}"

    def set_values(self, name: str) -> str:
        values = self.written(name, new=False)
        for column, value in values.items():
            kind = _WRITTEN[name][column]
            if kind == NUMBER and self.chance(2):
                values[column] = self.pick(
                    [
                        f"func.coalesce(m.{name}.{column}, 0) + 1",
                        f"m.{name}.id",
                        f"case((m.{name}.id > 3, {value}), else_=m.{name}.{column})",
                    ]
                )
            elif kind == WORD and self.chance(4):
                inner = self.entity(self.pick(["Tag", "Order", "Product", "Remark"]), bare=False)
                chosen = self.pick(inner.words)
                match = self.pick(["", f".where({inner.name}.id == m.{name}.id)"])
                values[column] = f"select(func.min({chosen})){match}.scalar_subquery()"
            elif kind == NUMBER and self.chance(4):
                inner = self.entity(self.pick(["Line", "Order", "Asset"]), bare=False)
                match = f"where({self.match(inner, [self.source_of(name)])})"
                values[column] = f"select(func.count()).select_from({inner.name}).{match}"
                values[column] += ".scalar_subquery()"

        form = self.pick(["{1}={2}", "m.{0}.{1}: {2}", "'{1}': {2}"])
        written = ", ".join(form.format(name, column, v) for column, v in values.items())
        return written if "=" in form else "{" + written + "}"

    def update(self) -> str:
        name = self.pick(_SIMPLE)
        target = self.pick([f"m.{name}", f"m.{name}", f"m.{name}.__table__"])
        statement = f"update({target}){self.where(name)}"
        values = self.set_values(name)
        if self.chance(6) and "m." not in values and "{" not in values:
            values = ", ".join(f"(m.{name}.{v.replace('=', ', ', 1)})" for v in values.split(", "))
            statement += f".ordered_values({values})"
        else:
            statement += f".values({values})"

        return self.lines_before(self.finished(statement, name))

    def delete_where(self) -> str:
        name = self.pick(tuple(n for n in (*_SIMPLE, "Account") if n != "Country"))
        target = self.pick([f"m.{name}", f"m.{name}", f"m.{name}.__table__"])
        where = (
            self.where(name) if name != "Account" else f".where(m.Account.number == {self.id()})"
        )
        return self.lines_before(self.finished(f"delete({target}){where}", name))

    def finished(self, statement: str, name: str) -> str:
        if self.on != "mariadb" and name != "Account" and self.chance(3):
            return self.executed(f"{statement}.returning({self.columns(name)})", returning=True)

        if self.chance(2) and "__table__" not in statement:
            how = self.pick(["'fetch'", "'evaluate'", "False", "'auto'"])
            more = f"execution_options={{'synchronize_session': {how}}}"
            return f"note(session.execute({statement}, {more}).rowcount)\n{self.end()}"

        return self.executed(statement)

    def insert(self) -> str:
        name = self.pick(_SIMPLE)
        target = self.pick([f"m.{name}", f"m.{name}.__table__"])
        if name == "Asset":
            target = "m.Asset"

        rows = self.rows(name, new=True)
        form = self.upto(4)
        if form == 0:
            return self.executed(f"insert({target})", rows)

        if form == 1:
            return self.executed(f"insert({target}).values({rows})")

        if form == 2:
            return self.executed(f"insert({target}).values({rows}[0])")

        if form == 3:
            return self.executed(f"insert({target}).values(**{rows}[0])")

        returning = f"{target}.c.id" if "__table__" in target else f"m.{name}.id, m.{name}"
        if (
            "connection"
            in (
                made := self.executed(
                    f"insert({target}).returning({returning})", rows, returning=True
                )
            )
            and self.on == "mariadb"
        ):
            return made.replace("session.connection()", "session")

        return made

    def insert_select(self) -> str:
        """Copies of rows, with numbers that are free."""
        name = self.pick(["Tag", "Product", "Line", "Remark", "Order", "Transfer", "Setting"])
        columns = [c for c, kind in _WRITTEN[name].items() if kind != "unique"]
        start = self.new_id() + 10_000
        self._last += 500
        chosen = [f"m.{name}.id + {start}", *(f"m.{name}.{column}" for column in columns)]
        if name == "Order":
            columns.append("number")
            chosen.append("m.Order.number + 'y'")

        names = ["id", *columns]
        where = f".where({self.condition([self.source_of(name)], 1)})"
        if self.chance(3):
            where += ".distinct()"

        target = self.pick([f"m.{name}", f"m.{name}.__table__"])
        statement = f"insert({target}).from_select({names}, select({', '.join(chosen)}){where})"
        return self.lines_before(self.executed(statement))

    def upsert(self) -> str:
        """The natural keys are the same in every tenant, and unique in each."""
        name = self.pick(["Order", "Customer", "Account"])
        unique = {"Order": "number", "Customer": "email", "Account": "number"}[name]
        column = {"Order": "amount", "Customer": "score", "Account": "balance"}[name]
        target = self.pick([f"m.{name}", f"m.{name}.__table__"])
        rows = []
        for key in {self.upto(3) for _ in range(1 + self.upto(2))}:
            natural = str(key + 1) if name == "Account" else repr(WORDS[key])
            id_ = "" if name == "Account" else f"'id': {self.new_id()}, "
            rows.append(f"{{{id_}'{unique}': {natural}, '{column}': {self.new_value(NUMBER)}}}")

        if name == "Order" and self.chance(3):
            column = "customer_id"
            rows = [row.replace("'amount'", "'customer_id'") for row in rows]

        statement = f"upsert({target}).values([{', '.join(rows)}])"
        many = self.chance(3)
        if many:
            statement = f"upsert({target})"

        if self.on == "mariadb":
            new = self.pick([f"ins.inserted.{column}", "5"][: 1 if column == "customer_id" else 2])
            after = f"ins = {statement}\nins = ins.on_duplicate_key_update({column}={new})"
        else:
            elements = f"index_elements=['tenant_id', '{unique}']"
            new = self.pick(
                [
                    f"{{'{column}': ins.excluded.{column}}}",
                    f"{{'{column}': m.{name}.{column} + 1}}",
                    f"{{m.{name}.{column}: 5}}",
                ][: 1 if column == "customer_id" else 3]
            )
            where = self.pick(["", f", where=m.{name}.{column} > 1"])
            do = self.pick(
                [f"on_conflict_do_update({elements}, set_={new}{where})"] * 2
                + [f"on_conflict_do_nothing({elements})", "on_conflict_do_nothing()"]
            )
            after = f"ins = {statement}\nins = ins.{do}"

        more = [f"[{', '.join(rows)}]"] if many else []
        returning = self.on != "mariadb" and self.chance(3)
        if returning:
            after += f"\nins = ins.returning(m.{name}.{unique}, m.{name}.{column})"

        return f"{after}\n{self.executed('ins', *more, returning=returning)}"

    def by_key(self) -> str:
        """ORM bulk UPDATE by primary key."""
        name = self.pick([n for n in _SIMPLE if n != "Setting"])
        rows = self.rows(name, new=False)
        return f"session.execute(update(m.{name}), {rows})\n{self.end()}"

    def core_by_key(self) -> str:
        name = self.pick([n for n in _SIMPLE if n != "Setting"])
        table = f"m.{name}.__table__"
        column, kind = self.pick(list(_WRITTEN[name].items()))
        needed = kind == "unique" or column == _PARENTS.get(name)
        rows = [
            f"{{'b_id': {self.id()}, 'b_value': {self.new_value(kind, needed=needed)}}}"
            for _ in range(1 + self.upto(2))
        ]
        given = f"[{', '.join(rows)}]" if len(rows) > 1 or self.chance(2) else rows[0]
        where = f"where({table}.c.id == bindparam('b_id'))"
        if self.chance(4) and name != "Country":
            return self.executed(f"delete({table}).{where}", given)

        statement = f"update({table}).{where}.values({column}=bindparam('b_value'))"
        return self.executed(statement, given)

    def update_from(self) -> str:
        """The rows to change are named by another table's."""
        name, other, link = self.pick(
            [
                ("Order", "Customer", "m.Order.customer_id == m.Customer.id"),
                ("Line", "Order", "m.Line.order_id == m.Order.id"),
                ("Line", "Product", "m.Line.product_id == m.Product.id"),
                ("Remark", "Line", "m.Remark.line_id == m.Line.id"),
                ("Customer", "Manager", "m.Customer.manager_id == m.Manager.id"),
                ("Customer", "Asset", "m.Asset.customer_id == m.Customer.id"),
                ("Product", "Setting", "m.Product.price == m.Setting.level"),
            ]
        )
        if other == "Manager":
            link = "m.Customer.manager_id == m.Manager.__table__.c.id"

        where = f".where({link}, {self.condition([self.source_of(name)], 0)})"
        if self.on != "sqlite" and self.chance(2):
            statement = f"delete(m.{name}){where}"
        else:
            column = {"Order": "amount", "Line": "quantity", "Remark": "body", "Customer": "score"}
            number = column.get(name, "price")
            value = "'q'" if number == "body" else self.value(NUMBER)
            statement = f"update(m.{name}){where}.values({number}={value})"

        more = "execution_options={'synchronize_session': False}"
        return self.lines_before(
            f"note(session.execute({statement}, {more}).rowcount)\n{self.end()}"
        )

    def associate(self) -> str:
        """The rows of association tables, without a class."""
        table, other = self.pick([("order_tags", "tag_id"), ("order_labels", "label_id")])
        row = f"{{'order_id': {self.id()}, '{other}': {self.id()}}}"
        rows = f"[{row}, {{'order_id': {self.id()}, '{other}': {self.id()}}}]"
        chosen = f"select(m.Order.id, m.{other[:-3].title()}.id)"
        link = f"m.Order.id == {self.id()}, m.{other[:-3].title()}.id == {self.id()}"
        away = f"values({other}={self.id()})"
        statements = [
            (f"insert(m.{table}).values({row})",),
            (f"insert(m.{table})", rows),
            (f"insert(m.{table}).values({rows})",),
            (f"insert(m.{table}).from_select(['order_id', '{other}'], {chosen}.where({link}))",),
            (f"delete(m.{table}).where(m.{table}.c.{other} == {self.id()})",),
            (f"delete(m.{table})",),
            (f"update(m.{table}).where(m.{table}.c.order_id == {self.id()}).{away}",),
        ]
        return self.executed(*self.pick(statements))

    def parts(self) -> str:
        """The tables of a joined hierarchy, one by one, and the audit, which has no class."""
        name, column, value = self.pick(
            [("Engineer", "language", "'c'"), ("Manager", "budget", "5")]
        )
        table = f"m.{name}.__table__"
        audit = f"{{'id': {self.new_id()}, 'entry': 'e', 'weight': {self.pick(NUMBERS)}}}"
        statements = [
            (f"update({table}).values({column}={value})",),
            (f"update({table}).where({table}.c.id == {self.id()}).values({column}={value})",),
            (f"delete({table}).where({table}.c.id == {self.id()})",),
            (f"delete(m.Employee.__table__).where(m.Employee.id == {self.id()})",),
            ("update(m.Employee.__table__).values(salary=m.Employee.salary + 1)",),
            (f"insert({table}).values(id={self.id()}, {column}={value})",),
            (f"insert(m.audit).values({audit})",),
            ("insert(m.audit)", f"[{audit}]"),
            ("update(m.audit).values(weight=m.audit.c.weight + 1)",),
            ("delete(m.audit).where(m.audit.c.weight > 1)",),
        ]
        if self.chance(2):
            objects = ", ".join(self.object(name) for _ in range(2))
            return f"session.bulk_save_objects([{objects}])\n{self.end()}"

        return self.executed(*self.pick(statements))

    def versions(self) -> str:
        found = self.fetched("Document", f"found.title = {self.value(WORD)}")
        if self.chance(3):
            away = "session.execute(update(m.Document.__table__).values(version=9))"
            found = self.fetched("Document", f"{away}\nfound.title = {self.value(WORD)}")

        return f"{found}\n{self.end()}"

    def accounts(self) -> str:
        """The tenant is in the key, and in the keys that refer to it."""
        forms = [
            f"session.add(m.Account(number={self.id()}, balance=1))",
            f"session.merge(m.Account(tenant_id=tenant, number={self.id()}, balance=2))",
            f"session.add(m.Transfer(id={self.new_id()}, account=m.Account(number={self.id()})))",
            f"session.add(m.Transfer(id={self.new_id()}, account_number={self.id()}))",
            (
                f"session.execute(update(m.Account).where(m.Account.number == {self.id()})"
                ".values(balance=m.Account.balance + 1))"
            ),
            f"session.execute(insert(m.Account), [{{'number': {self.id()}, 'balance': 4}}])",
            f"session.execute(insert(m.Account).values(tenant_id=tenant, number={self.id()}))",
            (
                "session.execute(update(m.Account), "
                f"[{{'tenant_id': tenant, 'number': {self.id()}, 'balance': 6}}])"
            ),
        ]
        return f"{self.pick(forms)}\n{self.end()}"

    def changed_in_cte(self) -> str:
        """PostgreSQL changes rows in a CTE; the others choose in one what to change."""
        name = self.pick(["Order", "Line", "Remark", "Product"])
        where = self.where(name)
        column = {"Order": "amount", "Line": "quantity", "Remark": "body", "Product": "price"}[name]
        value = "'q'" if column == "body" else self.value(NUMBER)
        if self.on != "postgresql":
            chosen = f"held = select(m.{name}.id){where}.cte()"
            within = f"where(m.{name}.id.in_(select(held.c.id)))"
            change = self.pick(
                [
                    f"update(m.{name}).{within}.values({column}={value})",
                    f"delete(m.{name}).{within}",
                ]
            )
            more = "execution_options={'synchronize_session': False}"
            return self.lines_before(
                f"{chosen}\nnote(session.execute({change}, {more}).rowcount)\n{self.end()}"
            )

        back = f"returning(m.{name}.id, m.{name}.{column})"
        number = ", number='cte'" if name == "Order" else ""
        parent = {"Line": ", order_id=%d", "Remark": ", line_id=%d"}.get(name, "")
        parent = parent % self.id() if parent else ""
        new = f"id={self.new_id()}, {column}={value}{number}{parent}"
        change = self.pick(
            [
                f"update(m.{name}){where}.values({column}={value}).{back}.cte()",
                f"delete(m.{name}){where}.{back}.cte()",
                f"insert(m.{name}).values({new}).{back}.cte()",
            ]
        )
        rows = self.pick(["select(held)", "select(held).join(m.Tag, m.Tag.id == held.c.id)"])
        return self.lines_before(
            f"held = {change}\nnote(sorted(session.execute({rows}).all(), key=str))\n{self.end()}"
        )

    def hierarchy(self) -> str:
        """Both tables of a joined hierarchy in one statement or mapping."""
        name = self.pick(["Engineer", "Manager", "Employee"])
        new = self.chance(2)
        rows = self.rows(name, new=True) if new else self.rows(name, new=False)
        if new:
            forms = [
                f"session.execute(insert(m.{name}), {rows})",
                f"session.bulk_insert_mappings(m.{name}, {rows})",
                f"note(session.scalars(insert(m.{name}).returning(m.{name}.id), {rows}).all())",
            ]
            if name == "Employee":
                forms = [form.replace("'id'", "'kind': 'employee', 'id'") for form in forms]
        else:
            forms = [
                f"session.execute(update(m.{name}), {rows})",
                f"session.bulk_update_mappings(m.{name}, {rows})",
            ]

        return f"{self.pick(forms)}\n{self.end()}"

    def derived_rows(self) -> str:
        """Rows made of other rows, with keys that come out of joins, subqueries and CTEs."""
        start = self.new_id() + 20_000
        self._last += 500
        name, columns, joined, key = self.pick(
            [
                ("Order", ["customer_id"], "select(m.Customer.id.label('k'))", "Customer"),
                ("Line", ["order_id"], "select(m.Order.id.label('k'))", "Order"),
                ("Line", ["order_id"], "select(m.Line.order_id.label('k')).distinct()", "Line"),
                ("Remark", ["line_id"], "select(m.Line.id.label('k')).join(m.Line.order)", "Line"),
                (
                    "Asset",
                    ["customer_id"],
                    "select(m.Order.customer_id.label('k')).where(m.Order.customer_id > 0)",
                    "Order",
                ),
            ]
        )
        where = f".where({self.condition([self.source_of(key)], 1)})"
        joined += where
        if self.chance(4):
            joined = f"union({joined}, {joined})"

        held = self.let("q", f"{joined}.{self.pick(['subquery()', 'cte()'])}")
        names = ["id", *columns]
        chosen = [f"{held}.c.k + {start}", f"{held}.c.k"]
        if name == "Order":
            names.append("number")
            chosen.append("literal('d') + cast(" + f"{held}.c.k, String(9))")

        if name == "Asset":
            names.append("kind")
            chosen.append("literal('asset')")

        target = self.pick([f"m.{name}", f"m.{name}.__table__"])
        statement = f"insert({target}).from_select({names}, select({', '.join(chosen)}))"
        return self.lines_before(self.executed(statement))

    def reparent(self) -> str:
        """Children move between parents, in memory."""
        name, relation, target = self.pick(
            [
                ("Order", "lines", "Order"),
                ("Customer", "orders", "Customer"),
                ("Line", "remarks", "Line"),
                ("Manager", "customers", "Manager"),
            ]
        )
        do = (
            f"other = session.get(m.{target}, {self.id()})\n"
            f"if other is not None and other is not found:\n"
            f"    other.{relation}.extend(list(found.{relation}))\n"
            f"    found.{relation} = []"
        )
        if self.chance(3):
            do = f"session.delete(found)\n{do}"

        return f"{self.fetched(name, do)}\n{self.end()}"

    # The session itself.

    def savepoint(self) -> str:
        inner = [self.pick(self.steps[:13])() for _ in range(1 + self.upto(1))]
        kept = "\n".join(inner).replace("session.commit()", "session.flush()")
        if self.chance(2):
            return f"inner = session.begin_nested()\n{kept}\ninner.rollback()\n{self.end()}"

        body = kept.replace("\n", "\n    ")
        return f"with session.begin_nested():\n    {body}\n{self.end()}"

    def turn(self) -> str:
        return self.pick(
            [
                "session.commit()",
                "session.rollback()",
                "session.expire_all()",
                "session.expunge_all()",
                "session.flush()",
                "for each in list(session):\n    session.refresh(each)",
            ]
        )

    def look(self) -> str:
        name = self.pick(_NAMES)
        chosen = f"select(m.{name}){self.where_any(self.source_of(name))}.order_by(m.{name}.id)"
        return self.lines_before(f"note(session.scalars({chosen}).all())")


@st.composite
def histories(draw: Callable[[st.SearchStrategy[Any]], Any], on: str) -> Program:
    historian = Historian(draw, on)
    steps = [historian.step() for _ in range(1 + historian.upto(3))]
    return Program("", (*steps, "session.commit()"))
