"""Histories that also try what nobody should: to touch, take or give away another tenant's rows.

No database alone can say what these should do. What is compared is the others: they see after it
what they saw before.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from hypothesis import strategies as st

from .arena import Program, Stored
from .histories import Historian

_OWNED = (
    "Order",
    "Customer",
    "Product",
    "Tag",
    "Setting",
    "Employee",
    "Asset",
    "Document",
    "Transfer",
)
_NUMBER = {
    "Order": "amount",
    "Customer": "score",
    "Product": "price",
    "Setting": "level",
    "Employee": "salary",
    "Asset": "customer_id",
    "Document": "title",
    "Transfer": "amount",
    "Tag": "name",
}


class Forger(Historian):
    def __init__(self, draw: Callable[[st.SearchStrategy[Any]], Any], on: str) -> None:
        super().__init__(draw, on)
        self.honest = self.steps
        self.steps = [
            self.forge_object,
            self.forge_update,
            self.forge_insert,
            self.take_key,
            self.take_object,
            self.point_away,
            self.undo_condition,
            self.raw,
            self.honest_step,
        ]

    def honest_step(self) -> str:
        return self.pick(self.honest)()

    def other(self) -> str:
        """Another tenant, spelled in some way."""
        forms = ["'globex'", "literal('globex')", "func.lower('GLOBEX')", "None", "null()"]
        forms += ["select(func.max(m.Tag.tenant_id)).scalar_subquery()", "'glo' + literal('bex')"]
        return self.pick(forms)

    def table(self, name: str) -> tuple[str, str]:
        column = "organization" if name == "Product" else "tenant_id"
        return self.pick([f"m.{name}", f"m.{name}.__table__"]), column

    def forge_object(self) -> str:
        name = self.pick(_OWNED)
        _, column = self.table(name)
        number = "number='z', " if name == "Order" else ""
        form = self.upto(2)
        if form == 0:
            new = f"m.{name}(id={self.new_id()}, {number}{column}={self.other()})"
            return f"session.add({new})\n{self.end()}"

        if form == 1:
            return f"{self.fetched(name, f'found.{column} = {self.other()}')}\n{self.end()}"

        rows = f"[{{'id': {self.id()}, '{column}': 'globex'}}]"
        how = self.pick(["bulk_update_mappings(m.{0}, {1})", "execute(update(m.{0}), {1})"])
        return f"session.{how.format(name, rows)}\n{self.end()}"

    def forge_update(self) -> str:
        name = self.pick(_OWNED)
        target, column = self.table(name)
        forms = [
            ".values({column}={value})",
            ".values({{'{column}': {value}}})",
            ".values({{m.{name}.{column}: {value}}})",
            ".ordered_values((m.{name}.{column}, {value}))",
            ".values({column}=bindparam('given'))",
            "",
        ]
        form = self.pick(forms)
        statement = f"update({target})" + form.format(column=column, name=name, value=self.other())
        more = [] if form != forms[4] else ["{'given': 'globex'}"]
        if not form:
            more = [f"{{'{column}': 'globex'}}"]
            statement += ".where(true())"

        return self.lines_before(self.executed(statement, *more))

    def forge_insert(self) -> str:
        name = self.pick(["Order", "Product", "Tag", "Setting", "Transfer"])
        target, column = self.table(name)
        number = "'number': 'z', " if name == "Order" else ""
        row = f"{{'id': {self.new_id()}, {number}'{column}': {self.other()}}}"
        plain = f"{{'id': {self.new_id()}, {number.replace('z', 'y')}'{column}': tenant}}"
        form = self.upto(3)
        if form == 0:
            return self.executed(f"insert({target}).values({row})")

        if form == 1:
            return self.executed(f"insert({target}).values([{plain}, {row}])")

        if form == 2:
            return self.executed(f"insert({target})", f"[{plain}, {row}]")

        names = ["id", column, *(["number"] if name == "Order" else [])]
        other = self.other()
        chosen = [
            f"m.{name}.id + {self.new_id()}",
            f"literal({other})" if other[0] == "'" else other,
        ]
        chosen += ["m.Order.number + 'w'"] if name == "Order" else []
        inner = f"select({', '.join(chosen)})"
        return self.executed(f"insert({target}).from_select({names}, {inner})")

    def take_key(self) -> str:
        """A number that may be another tenant's row."""
        name = self.pick(_OWNED)
        target, column = self.table(name)
        number = _NUMBER[name]
        value = "'t'" if number in ("name", "title") else "7"
        needed = "'number': 'z', " if name == "Order" else ""
        needed = "'kind': 'asset', " if name == "Asset" else needed
        row = f"{{'id': {self.id()}, {needed}'{number}': {value}}}"
        forms = [f"upsert({target}).values({row}).prefix_with('OR REPLACE')"]
        if self.on == "mariadb":
            forms = [f"upsert({target}).values({row}).on_duplicate_key_update({number}={value})"]
            forms.append(f"upsert({target}).values({row}).on_duplicate_key_update({column}='acme')")
        else:
            start = f"upsert({target}).values({row}).on_conflict_do_update"
            forms += [
                f"{start}(index_elements=['id'], set_={{'{number}': {value}}})",
                f"{start}(index_elements=['id'], set_={{'{column}': 'acme'}})",
                f"{start}(index_elements=['id'], set_={{'{number}': {value}}}, where=or_(true()))",
            ]

        if self.on == "sqlite":
            forms.append(f"update({target}).prefix_with('OR REPLACE').values(id={self.id()})")

        forms.append(f"update({target}).where(m.{name}.id == {self.id()}).values({number}={value})")
        return self.executed(self.pick(forms))

    def take_object(self) -> str:
        """An object that was never loaded here."""
        name = self.pick(_OWNED)
        _, column = self.table(name)
        number = _NUMBER[name]
        value = "'t'" if number in ("name", "title") else "7"
        forged = f"found = m.{name}(id={self.id()}, {number}={value}, {column}={{0}})"
        forged = forged.format(self.pick(["tenant", "'globex'", "None"]))
        # One connection serves SQLite in memory: it has to be free.
        theirs = (
            "session.commit()\n"
            "with unscoped('what is there'), Session(engine) as other:\n"
            f"    found = other.get(m.{name}, {self.id()})\n"
            "if found is None:\n"
            f"    found = m.{name}()"
        )
        held = self.pick([f"{forged}\nmake_transient_to_detached(found)", forged, theirs])
        forms = [
            f"session.add(found)\nfound.{number} = {value}",
            "session.add(found)\nsession.delete(found)",
            "session.merge(found)",
            f"session.merge(found, load=False).{number} = {value}",
            "session.bulk_save_objects([found])",
            f"session.bulk_update_mappings(m.{name}, [{{'id': found.id, '{number}': {value}}}])",
            "session.delete(found)",
        ]
        return f"{held}\n{self.pick(forms)}\n{self.end()}"

    def point_away(self) -> str:
        name, column, target = self.pick(
            [
                ("Order", "customer_id", "Customer"),
                ("Line", "order_id", "Order"),
                ("Remark", "line_id", "Line"),
                ("Customer", "referrer_id", "Customer"),
                ("Customer", "manager_id", "Manager"),
                ("Line", "product_id", "Product"),
            ]
        )
        away = [
            str(self.id()),
            f"m.{name}.{column} + 1",
            f"literal({self.id()})",
            f"func.abs({self.id()})",
            f"case((true(), {self.id()}), else_=m.{name}.{column})",
            f"func.coalesce(null(), {self.id()})",
            f"select(func.max(m.{target}.id) + 1).scalar_subquery()",
            f"select(func.max(m.{target}.id)).scalar_subquery()",
            f"m.{name}.id",
            f"cast({self.id()}, Integer)",
            f"bindparam('way', {self.id()})",
        ]
        value = self.pick(away)
        form = self.upto(3)
        if form == 0:
            return self.executed(f"update(m.{name}).values({column}={value})")

        if form == 1:
            return f"{self.fetched(name, f'found.{column} = {value}')}\n{self.end()}"

        if form == 2:
            names = ["id", column, *(["number"] if name == "Order" else [])]
            chosen = [f"m.{name}.id + {self.new_id()}", value]
            chosen += ["m.Order.number + 'w'"] if name == "Order" else []
            inner = f"select({', '.join(chosen)})"
            return self.executed(f"insert(m.{name}).from_select({names}, {inner})")

        table = self.pick(["order_tags", "order_labels"])
        other = {"order_tags": "tag_id", "order_labels": "label_id"}[table]
        row = f"{{'order_id': {self.id()}, '{other}': {self.id()}}}"
        forms = [
            f"insert(m.{table}).values({row})",
            f"update(m.{table}).values({other}={self.id()})",
            f"delete(m.{table}).where(m.{table}.c.order_id == {self.id()})",
            f"delete(m.{table})",
        ]
        return self.executed(self.pick(forms))

    def undo_condition(self) -> str:
        name = self.pick(_OWNED)
        table = self.source_of(name).text
        number = _NUMBER[name]
        value = "'t'" if number in ("name", "title") else "7"
        criteria = [
            "text('1 = 1 OR 1 = 1')",
            "text('1 = 1) OR (1 = 1')",
            "text('1 = 1 --')",
            "text('1 = 1 /*')",
            "literal_column('1 = 1 OR 1')",
            f'text(f"id IN (SELECT id FROM {table})")',
            f"or_(m.{name}.id > 0, true())",
            "or_(true(), false())",
            "not_(false())",
            "literal(1).op('OR 1 =')(1)",
            "literal(1).op('= 1 OR 1 =')(1)",
            "literal(1).op('= 1) OR (1 =')(1)",
        ]
        where = f".where({self.pick(criteria)})"
        change = [f"update(m.{name}){where}.values({number}={value})", f"delete(m.{name}){where}"]
        read = f"note(session.scalars(select(m.{name}){where}).all())"
        how = self.pick(["0", "1", "2"])
        if how == "2":
            return read

        more = "execution_options={'synchronize_session': False}"
        given = self.pick(["", ", {'partywall_tenant': 'globex'}"])
        return f"session.execute({change[int(how)]}{given}, {more})\n{self.end()}"

    def raw(self) -> str:
        table = self.source_of(self.pick(_OWNED)).text
        sql = self.pick(
            [
                "DELETE FROM {0}",
                "UPDATE {0} SET id = id + 20000",
                "SELECT * FROM {0}",
                "WITH x AS (SELECT * FROM {0}) SELECT * FROM x",
                "INSERT INTO {0} SELECT * FROM {0} WHERE 1 = 0",
            ]
        ).format(table)
        forms = [
            f'found = session.execute(text(f"{sql}"))',
            f'found = session.connection().exec_driver_sql(f"{sql}")',
            f"found = session.execute(select(text('*')).select_from(text(f\"{table}\")))",
            f'found = session.execute(select(literal_column(f"(SELECT max(id) FROM {table})")))',
            f'found = session.execute(select(m.Order).from_statement(text(f"{sql}")))',
            f'found = session.query(m.Order).filter(text(f"id IN (SELECT id FROM {table})")).all()',
        ]
        return f"{self.pick(forms)}\nnote('raw SQL was run')"


def views(stored: Stored, columns: Mapping[str, list[str]]) -> dict[Any, Counter[Any]]:
    """Which rows are whose, worked out from what is stored."""
    found: dict[Any, Counter[Any]] = {}
    owners = dict(_owners(stored, columns))
    for (table, row), owner in owners.items():
        if table != "countries":
            found.setdefault(owner, Counter())[table, row] += stored[table][row]

    return found


_TENANT_COLUMNS = ("tenant_id", "organization", "tenant")
_BELONGS = {
    "engineers": ("id", "employees"),
    "managers": ("id", "employees"),
    "lines": ("order_id", "orders"),
    "remarks": ("line_id", "lines"),
    "order_tags": ("order_id", "orders"),
}


def _owners(stored: Stored, columns: Mapping[str, list[str]]) -> Iterator[tuple[Any, Any]]:
    known: dict[tuple[str, Any], Any] = {}
    for table in sorted(stored, key=lambda name: (name in _BELONGS, name == "remarks")):
        for row in stored[table]:
            values = dict(zip(columns[table], row, strict=True))
            owner = next((values[c] for c in _TENANT_COLUMNS if c in values), None)
            if table in _BELONGS:
                column, parents = _BELONGS[table]
                owner = known.get((parents, values[column]))

            known[table, values.get("id")] = owner
            yield (table, row), owner


def references(stored: Stored, columns: Mapping[str, list[str]]) -> Iterator[tuple[Any, ...]]:
    """Rows that refer to another tenant's row."""
    owners = dict(_owners(stored, columns))
    by_id = {
        (table, dict(zip(columns[table], row, strict=True)).get("id")): owner
        for (table, row), owner in owners.items()
    }
    for (table, row), owner in owners.items():
        values = dict(zip(columns[table], row, strict=True))
        for column, parents in _REFERENCES.items():
            target = (parents, values.get(column))
            if target in by_id and by_id[target] not in (None, owner):
                yield table, row


_REFERENCES = {
    "customer_id": "customers",
    "referrer_id": "customers",
    "manager_id": "managers",
    "product_id": "products",
    "order_id": "orders",
    "line_id": "lines",
    "tag_id": "tags",
    "label_id": "labels",
}


def foreign(value: Any, tenant: str) -> Iterator[Any]:
    """The objects among results that carry another tenant."""
    if isinstance(value, dict):
        for column in _TENANT_COLUMNS:
            if value.get(column) not in (None, tenant):
                yield value

        value = list(value.values())

    if isinstance(value, (list, tuple)):
        for item in value:
            yield from foreign(item, tenant)


@st.composite
def forgeries(draw: Callable[[st.SearchStrategy[Any]], Any], on: str) -> Program:
    forger = Forger(draw, on)
    steps = [forger.step() for _ in range(1 + forger.upto(3))]
    return Program("", (*steps, "session.commit()"))
