"""A grammar of statements, written as the Python source that builds them.

What is written is deterministic: rows are limited only in an order that leaves nothing open, and
window functions number rows by their keys. Everything else about a statement is left to chance.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from hypothesis import strategies as st

from .arena import Program
from .schema import NUMBERS, WORDS, Data, Model, models

T = TypeVar("T")
WORD, NUMBER = "word", "number"
READABLE = (
    "Order",
    "Customer",
    "Line",
    "Product",
    "Tag",
    "Setting",
    "Remark",
    "Employee",
    "Engineer",
    "Manager",
    "Asset",
    "Vehicle",
    "Building",
    "Label",
    "Account",
    "Transfer",
    "Document",
    "Country",
)
TENANTS = {
    "sqlite": ("acme", "globex", "ACME"),
    "postgresql": ("acme", "globex", "ACME"),
    "mariadb": ("acme", "globex", "initech"),
}


@dataclass(frozen=True)
class Source:
    """Something to select from: how its columns are written, and what identifies its rows."""

    name: str
    words: tuple[str, ...]
    numbers: tuple[str, ...]
    key: tuple[str, ...] = ()
    model: Model | None = None
    text: str | None = None

    def columns(self, kind: str) -> tuple[str, ...]:
        return self.words if kind == WORD else self.numbers

    @property
    def is_entity(self) -> bool:
        return self.model is not None


@dataclass
class Select:
    source: str
    kinds: list[str]
    entities: list[Source] = field(default_factory=list)
    ordered: bool = False
    unique: bool = False
    member: str = ""


class Author:
    """Draws one program. What comes first in a list of choices is what failures shrink to."""

    def __init__(self, draw: Callable[[st.SearchStrategy[Any]], Any], on: str) -> None:
        self.draw = draw
        self.on = on
        self.lines: list[str] = []
        self._named = 0
        self._derived: list[tuple[str, list[str]]] = []
        self._joined: list[str] = []

    def pick(self, options: Sequence[T]) -> T:
        return options[self.draw(st.integers(0, len(options) - 1))]

    def chance(self, one_in: int) -> bool:
        return bool(self.draw(st.integers(0, one_in - 1)) == one_in - 1)

    def upto(self, most: int) -> int:
        return int(self.draw(st.integers(0, most)))

    def let(self, stem: str, expression: str) -> str:
        self._named += 1
        name = f"{stem}{self._named}"
        self.lines.append(f"{name} = {expression.replace('<name>', repr(name))}")
        return name

    # Sources.

    def entity(self, name: str, *, bare: bool) -> Source:
        model = models()[name]
        if bare:
            return mapped(model, f"m.{name}", f"{{m.prefix}}{model.table}")

        forms = ["aliased(m.{0})", "aliased(m.{0}, name=<name>)", "aliased(m.{0}, flat=True)"]
        written = self.pick(forms).format(name)
        alias = self.let("a", written)
        return mapped(model, alias, alias if "<name>" in written else None)

    def core(self, name: str, *, bare: bool) -> Source:
        model = models()[name]
        table = f"m.{name}.__table__"
        form = self.pick(["{0}.alias()", "{0}.alias(<name>)"]) if not bare else "{0}"
        return _of_table(model, self.let("t", form.format(table)))

    def source(self, used: set[str], depth: int, *, entity: bool = False) -> Source:
        name = self.pick(READABLE)
        bare = name not in used and not self.chance(3)
        choice = 0 if entity or depth <= 0 else self.upto(7)
        if choice in (5, 6):
            return self.derived(depth - 1)

        if choice == 7:
            return self.special(name)

        if bare:
            used.add(name)

        if choice == 4:
            return self.core(name, bare=bare)

        return self.entity(name, bare=bare)

    def special(self, name: str) -> Source:
        form = self.pick(["polymorphic", "adhoc", "audit", "of subquery", "secondary"])
        if form == "polymorphic":
            name = self.let("w", "with_polymorphic(m.Employee, '*', aliased=True)")
            source = mapped(models()["Employee"], name, None)
            words = (f"{name}.Engineer.language",)
            numbers = (f"{name}.Manager.budget",)
            return replace(
                source,
                words=(*source.words, *words),
                numbers=(*source.numbers, *numbers),
            )

        if form == "adhoc":
            columns = "column('id', Integer), column('amount', Integer), column('number', String)"
            name = self.let("h", f"table(m.prefix + 'orders', {columns}).alias()")
            return Source(name, (f"{name}.c.number",), (f"{name}.c.id", f"{name}.c.amount"))

        if form == "audit":
            name = self.let("t", "m.audit.alias()")
            key = (f"{name}.c.id",)
            return Source(name, (f"{name}.c.entry",), (*key, f"{name}.c.weight"), key)

        if form == "secondary":
            table = self.pick(["order_tags", "order_labels"])
            name = self.let("t", f"m.{table}.alias()")
            other = {"order_tags": "tag_id", "order_labels": "label_id"}[table]
            key = (f"{name}.c.order_id", f"{name}.c.{other}")
            return Source(name, (), key, key)

        inner = self.entity(name, bare=True)
        chosen = f"select({inner.name}).where({self.condition([inner], 0)})"
        held = self.let("q", f"{chosen}.{self.pick(['subquery()', 'cte()'])}")
        return mapped(models()[name], self.let("a", f"aliased(m.{name}, {held})"), None)

    def derived(self, depth: int) -> Source:
        """A subquery or CTE over any select, set operation or recursion; at times once more."""
        if self._derived and self.chance(5):
            held, kinds = self.pick(self._derived)
            form = self.pick(["{0}.alias()", "select({0}).subquery()", "select({0}).cte()"])
            return _of_columns(self.let("q", form.format(held)), kinds)

        form = self.upto(10)
        if form == 10:
            return self.listed()

        if form == 9:
            return self.recursive()

        if form == 8:
            return self.changed()

        inner = self.compound(depth) if form == 7 else self.select(depth)
        kinds = inner.kinds
        ends = ["subquery()", "subquery(<name>)", "cte()", "cte(<name>)", "alias()"]
        if self.on != "mariadb":
            ends.append("cte(nesting=True)")

        name = self.let("q", f"{inner.source}.{self.pick(ends)}")
        self._derived.append((name, kinds))
        return _of_columns(name, kinds)

    def listed(self) -> Source:
        """VALUES: rows of nobody, beside the tenant's."""
        if self.on != "postgresql":
            return self.recursive()

        listed = [(number,) for number in NUMBERS[: 1 + self.upto(3)]]
        column = "column('x0', Integer)"
        return _of_columns(self.let("v", f"values({column}, name=<name>).data({listed})"), [NUMBER])

    def recursive(self) -> Source:
        """The chain of referrers, from some customers on."""
        start = self.condition([mapped(models()["Customer"], "m.Customer", None)], 0)
        columns = "m.Customer.id.label('x0'), m.Customer.referrer_id.label('x1')"
        first = f"select({columns}, literal(0).label('x2')).where({start})"
        name = self.let("r", f"{first}.cte(<name>, recursive=True)")
        link = self.pick(["m.Customer.referrer_id == {0}.c.x0", "m.Customer.id == {0}.c.x1"])
        step = f"select(m.Customer.id, m.Customer.referrer_id, {name}.c.x2 + 1)"
        step += f".join({name}, {link.format(name)}).where({name}.c.x2 < 3)"
        name = self.let("r", f"{name}.{self.pick(['union', 'union_all'])}({step})")
        return _of_columns(name, [NUMBER] * 3)

    def changed(self) -> Source:
        """PostgreSQL: the rows that a CTE changes (the transaction is rolled back)."""
        if self.on != "postgresql":
            return self.recursive()

        place = self.where_any(mapped(models()["Order"], "m.Order", None))
        change = self.pick(
            ["update(m.Order){0}.values(amount=m.Order.amount + 1)", "delete(m.Line)"]
        )
        rows = "m.Order.id, m.Order.amount" if "Order" in change else "m.Line.id, m.Line.quantity"
        columns = ", ".join(f"{c}.label('x{i}')" for i, c in enumerate(rows.split(", ")))
        name = self.let("d", f"{change.format(place)}.returning({columns}).cte()")
        return _of_columns(name, [NUMBER] * 2)

    # Expressions.

    def value(self, kind: str) -> str:
        return repr(self.pick(WORDS if kind == WORD else NUMBERS))

    def column(self, scope: list[Source], kind: str) -> str | None:
        columns = [column for source in scope for column in source.columns(kind)]
        return self.pick(columns) if columns else None

    def expression(self, scope: list[Source], kind: str, depth: int) -> str:
        column = self.column(scope, kind)
        choice = self.upto(9)
        if depth > 0 and choice == 9:
            return self.scalar(scope, kind, depth)

        if column is None:
            return f"literal({self.value(kind)})"

        if choice < 5:
            return column

        if kind == WORD:
            forms = [
                "func.upper({0})",
                "func.coalesce({0}, {1})",
                "case(({0} == {1}, 'x'), else_={0})",
                "{0} + 'x'",
            ]
        else:
            other = self.column(scope, WORD) or f"literal({self.value(WORD)})"
            forms = [
                "{0} + {1}",
                "func.coalesce({0}, {1})",
                "case(({0} > {1}, 1), else_={0})",
                f"func.length({other})",
            ]

        return self.pick(forms).format(column, self.value(kind))

    def scalar(self, scope: list[Source], kind: str, depth: int) -> str:
        inner = self.entity(self.pick(READABLE), bare=False)
        where = self.linked(inner, scope, depth - 1)
        if inner.columns(kind) and self.chance(3):
            first = f"select({self.pick(inner.columns(kind))}).where({where})"
            return f"{first}.order_by({', '.join(inner.key)}).limit(1).scalar_subquery()"

        if kind == NUMBER and self.chance(4):
            return f"case(({self.exists(scope, depth)}, 1), else_=0)"

        if kind == WORD:
            picked = f"func.min({self.pick(inner.words or ('literal(1)',))})"
        else:
            key = inner.key[-1]
            picked = self.pick(["func.count()", "func.count({0})", "func.max({1})"]).format(
                key, self.pick(inner.numbers)
            )

        return f"select({picked}).select_from({inner.name}).where({where}).scalar_subquery()"

    def linked(self, inner: Source, scope: list[Source], depth: int) -> str:
        """A condition between a subquery's own rows and those around it."""
        parts = [self.match(inner, scope)]
        if self.chance(2):
            parts.append(self.condition([inner], depth))

        return ", ".join(parts)

    def match(self, one: Source, others: list[Source]) -> str:
        """An equality, mostly of keys."""
        pairs = [
            f"{one.name}.{mine}_id == {key}"
            for other in others
            if other.model and one.model and "." in other.key[-1]
            for mine, target in one.model.relations.items()
            if target == other.model.name and f"{one.name}.{mine}_id" in one.numbers
            for key in other.key
        ]
        pairs += [
            f"{other.name}.{theirs}_id == {one.key[-1]}"
            for other in others
            if other.model and one.model
            for theirs, target in other.model.relations.items()
            if target == one.model.name and f"{other.name}.{theirs}_id" in other.numbers
        ]
        if pairs and not self.chance(3):
            return self.pick(pairs)

        kind = self.pick([NUMBER, NUMBER, WORD])
        mine, theirs = self.column([one], kind), self.column(others, kind)
        if mine is None or theirs is None:
            return "true()"

        return f"{mine} == {theirs}"

    def condition(self, scope: list[Source], depth: int) -> str:
        choice = self.upto(13)
        if depth > 0 and choice >= 9:
            if choice == 9:
                return self.exists(scope, depth)

            if choice == 10:
                return self.within(scope, depth)

            if choice == 11:
                return self.related(scope, depth)

            if choice == 12:
                parts = [self.condition(scope, depth - 1) for _ in range(2)]
                return f"{self.pick(['and_', 'or_'])}({', '.join(parts)})"

            # A text is no column expression and cannot be negated alone.
            return f"not_(and_({self.condition(scope, depth - 1)}, literal(1) == 1))"

        if choice == 8:
            return self.fragment(scope)

        kind = self.pick([NUMBER, WORD])
        left = self.expression(scope, kind, depth)
        forms = ["{0} == {1}", "{0} != {1}", "{0}.is_(None)", "{0}.is_not(None)", "{0}.in_({2})"]
        if kind == NUMBER:
            forms += ["{0} > {1}", "{0}.between({1}, 7)", "{0} <= {3}", "{0}.not_in({2})"]
        else:
            forms += ["{0}.like('%' + {1})", "{0} < {3}", "{0} == 'globex'", "{0} != 'acme'"]

        if self.on == "postgresql":
            forms.append("{0}.is_distinct_from({1})")

        several = [self.pick(WORDS if kind == WORD else NUMBERS) for _ in range(self.upto(2))]
        other = self.column(scope, kind) or self.value(kind)
        if "." not in left and "(" not in left:
            left = f"literal({left})"

        return self.pick(forms).format(f"({left})", self.value(kind), several, other)

    def fragment(self, scope: list[Source]) -> str:
        """Text as a criterion; it may only name what is selected from."""
        named = [source.text for source in scope if source.text]
        if not named:
            return "true()"

        name = self.pick(named)
        column = f"{name}.{'id' if '_accounts' not in name else 'number'}"
        column = column.replace("accounts.id", "accounts.number")
        forms = [
            "{0} > 1",
            "{0} > 2 OR {0} < 9",
            "1 = 1 OR {0} = 1",
            "{0} IS NULL OR NOT ({0} = 3)",
        ]
        sql = self.pick(forms).format(column)
        return f'text(f"{sql}")'

    def exists(self, scope: list[Source], depth: int) -> str:
        name = self.pick(READABLE)
        around = [source.model.name for source in scope if source.model is not None]
        bare = name not in around and not _related(name, set(around))
        inner = self.entity(name, bare=bare and self.chance(2))
        where = self.linked(inner, scope, depth - 1)
        forms = [
            "exists().where({1})",
            "exists({0}).where({1})",
            "select({0}).where({1}).exists()",
            "exists(select({0}).where({1}))",
            "~exists().where({1})",
            "select(literal(1)).select_from({2}).where({1}).exists()",
            "select({0}).join({3}, {4}).where({1}).exists()",
            "select({0}).outerjoin({3}, {4}).where({1}).exists()",
        ]
        form = self.pick(forms)
        second = self.entity(self.pick(READABLE), bare=False) if "{3}" in form else inner
        on = self.match(second, [inner]) if second is not inner else ""
        return form.format(inner.key[-1], where, inner.name, second.name, on)

    def within(self, scope: list[Source], depth: int) -> str:
        kind = self.pick([NUMBER, WORD])
        column = self.column(scope, kind)
        if column is None:
            return "true()"

        inner = self.entity(self.pick(READABLE), bare=False)
        chosen = self.column([inner], kind)
        if chosen is None:
            return "true()"

        where = self.condition([inner], depth - 1)
        forms = ["{0}.in_({1})", "{0}.not_in({1})", "{0}.in_({1}.scalar_subquery())"]
        if self.on != "sqlite":
            forms += ["{0} == any_({1}.scalar_subquery())", "{0} != all_({1}.scalar_subquery())"]

        form = self.pick(forms)
        if self.chance(6):
            number, other = self.column(scope, NUMBER), self.column([inner], NUMBER)
            if number is not None and other is not None:
                pairs = f"select({chosen}, {other}).where({where})"
                return f"tuple_({column}, {number}).in_({pairs})"

        found = f"select({chosen}).where({where})"
        if self.chance(4):
            found = f"union({found}, select({chosen}))"
            form = "{0}.in_({1})"

        return form.format(column, found)

    def related(self, scope: list[Source], depth: int) -> str:
        able = [source for source in scope if source.model and source.model.relations]
        if not able:
            return "true()"

        source = self.pick(able)
        assert source.model is not None
        relation = self.pick(list(source.model.relations))
        target = models()[source.model.relations[relation]]
        test = "any" if relation in source.model.many else "has"
        forms = [
            f"{source.name}.{relation}.{test}({{0}})",
            f"~{source.name}.{relation}.{test}({{0}})",
        ]
        criterion = ""
        if self.chance(2):
            column = self.pick([*target.words, *target.numbers])
            kind = WORD if column in target.words else NUMBER
            criterion = f"{column}={self.value(kind)}"
        elif target.name != source.model.name and target.relations and self.chance(2):
            further = self.pick(list(target.relations))
            test = "any" if further in target.many else "has"
            if target.relations[further] != source.model.name:
                criterion = f"m.{target.name}.{further}.{test}()"
        elif depth > 1:
            alias = self.entity(target.name, bare=False)
            relation = f"{relation}.of_type({alias.name})"
            forms = [f"{source.name}.{relation}.{test}({{0}})"]
            criterion = self.condition([alias], 0)

        if test == "has" and not criterion and self.chance(3):
            return f"{source.name}.{relation.split('.')[0]} == None"

        return self.pick(forms).format(criterion)

    def where_any(self, source: Source, depth: int = 1) -> str:
        parts = [self.condition([source], depth) for _ in range(self.upto(2))]
        return f".where({', '.join(parts)})" if parts else ""

    # Selects.

    def select(
        self,
        depth: int,
        *,
        kinds: list[str] | None = None,
        top: bool = False,
        outer: list[Source] | None = None,
    ) -> Select:
        """A select of labelled columns or, at the top, of entities."""
        used: set[str] = set()
        base = self.source(used, depth)
        self._joined = []
        if outer is not None:
            base = self.entity(self.pick(READABLE), bare=False)

        scope = [base]
        joins, extra = self.joins(scope, used, depth)
        if outer is not None:
            extra.append(self.match(base, outer))

        style = "columns" if kinds or outer else self.pick(["columns", "columns", "aggregate"])
        able = [source for source in scope if source.is_entity and source.model is not None]
        if top and able and self.chance(2):
            return self.entities(able, scope, joins, extra, base, depth)

        outputs, kinds, after = [], list(kinds or []), ""
        if style == "aggregate":
            outputs, kinds, after = self.aggregates(scope)
        else:
            kinds = kinds or [self.pick([NUMBER, WORD]) for _ in range(1 + self.upto(2))]
            outputs = [self.output(scope, kind, depth) for kind in kinds]

        criteria = extra + [self.condition(scope, depth) for _ in range(self.upto(2))]
        labelled = ", ".join(f"({out}).label('x{i}')" for i, out in enumerate(outputs))
        source = f"select({labelled}).select_from({base.name}){joins}"
        source += f".where({', '.join(criteria)})" if criteria else ""
        source += after
        ordered = False
        if style == "columns" and self.chance(4):
            source += ".distinct()"

        member = source
        if self.chance(2):
            source, ordered = self.sorted(source, [f"'x{i}'" for i in range(len(kinds))]), True

        return Select(source, kinds, ordered=ordered, member=member)

    def output(self, scope: list[Source], kind: str, depth: int) -> str:
        if kind == NUMBER and self.chance(5) and all(source.key for source in scope):
            keys = ", ".join(key for source in scope for key in source.key)
            within = self.column(scope, WORD) or self.column(scope, NUMBER) or keys
            number = self.column(scope, NUMBER) or "1"
            forms = [
                "func.row_number().over(order_by=[{0}])",
                "func.row_number().over(partition_by={1}, order_by=[{0}])",
                "func.sum({2}).over(partition_by={1})",
                "func.count().over()",
                "func.rank().over(order_by={1})",
                "func.lag({2}).over(order_by=[{0}])",
            ]
            return self.pick(forms).format(keys, within, number)

        return self.expression(scope, kind, depth)

    def aggregates(self, scope: list[Source]) -> tuple[list[str], list[str], str]:
        kinds = [self.pick([WORD, NUMBER]) for _ in range(self.upto(2))]
        groups = [self.column(scope, kind) for kind in kinds]
        grouped = [(g, kind) for g, kind in zip(groups, kinds, strict=True) if g is not None]
        number = self.column(scope, NUMBER) or "1"
        number = f"literal({number})" if number == "1" else number
        word = self.column(scope, WORD) or number
        forms = [
            "func.count()",
            "func.count({0})",
            "func.sum({0})",
            "func.max({0})",
            "func.min({0})",
            "func.count(distinct({1}))",
            "func.coalesce(func.sum({0}), 0)",
        ]
        if self.on != "mariadb":
            forms += ["func.count().filter({0} > 1)", "func.max({0}).filter({1} != 'a')"]

        if word == number:
            forms = forms[:5]

        totals = [self.pick(forms).format(number, word) for _ in range(1 + self.upto(1))]
        after = f".group_by({', '.join(group for group, _ in grouped)})" if grouped else ""
        if grouped and self.chance(3):
            after += self.pick([".having(func.count() > 1)", f".having(func.max({number}) >= 2)"])

        outputs = [group for group, _ in grouped] + totals
        return outputs, [kind for _, kind in grouped] + [NUMBER] * len(totals), after

    def sorted(self, source: str, by: list[str]) -> str:
        by = [f"desc({column})" if self.chance(3) else column for column in by]
        if self.chance(3):
            by = by[::-1]

        source += f".order_by({', '.join(by)})"
        if self.chance(2):
            source += f".limit({1 + self.upto(3)})"
            if self.chance(3):
                source += f".offset({self.upto(2)})"

        return source

    def joins(self, scope: list[Source], used: set[str], depth: int) -> tuple[str, list[str]]:
        """Joins as source, and the conditions that join implicitly."""
        written, beside, implicit = "", [], []
        for _ in range(self.pick([0, 1, 1, 2]) if depth > 0 else self.upto(1)):
            choice = self.upto(5)
            able = [s for s in scope if s.model is not None and s.model.relations]
            if choice <= 1 and able and self.chance(6):
                written += self.found_join(self.pick(able), scope)
            elif choice <= 1 and able:
                written += self.relationship_join(self.pick(able), scope, used)
            elif choice == 2:
                other = self.source(used, depth - 1)
                implicit.append(self.match(other, scope))
                beside.append(other)
            elif choice == 3 and self.on == "postgresql" and depth > 0:
                written += self.lateral(scope, depth)
            elif choice == 4 and depth > 0:
                written += self.nested_join(scope, used, depth)
            else:
                written += self.explicit_join(scope, used, depth)

        scope += beside
        return written, implicit

    def how(self) -> str:
        forms = ["", ", isouter=True", ", isouter=True"]
        return self.pick(forms if self.on == "mariadb" else [*forms, ", full=True"])

    def relationship_join(self, source: Source, scope: list[Source], used: set[str]) -> str:
        assert source.model is not None
        relation = self.pick(list(source.model.relations))
        target = source.model.relations[relation]
        bare = target not in used and target != source.model.name
        bare = bare and not _related(target, used)
        other = self.entity(target, bare=bare)
        along = f"{source.name}.{relation}"
        if bare:
            used.add(target)
            if self.chance(4):
                along += f".and_({self.condition([other], 0)})"
            elif source.name.startswith("m."):
                self._joined.append(along)

            written = along
        else:
            written = self.pick(["{0}, {1}", "{1}.of_type({0})"]).format(other.name, along)

        how = self.how()
        scope.append(other)
        return f".join({written}{how})"

    def found_join(self, source: Source, scope: list[Source]) -> str:
        """The ON clause is left to the foreign keys."""
        assert source.model is not None
        other = self.entity(self.pick(list(source.model.relations.values())), bare=False)
        scope.append(other)
        return self.pick(
            [f".join_from({source.name}, {other.name})", f".join({other.name}{self.how()})"]
        )

    def explicit_join(self, scope: list[Source], used: set[str], depth: int) -> str:
        other = self.source(used, depth - 1)
        on = self.match(other, scope)
        how = self.how()
        if on == "true()":
            # PostgreSQL needs an equality in the ON clause of a FULL join that says anything else.
            how = how.replace("full", "isouter")

        if self.chance(3) and "full" not in how:
            on = f"and_({on}, {self.condition([*scope, other], min(depth - 1, 1))})"

        scope.append(other)
        return f".join({other.name}, {on}{how})"

    def nested_join(self, scope: list[Source], used: set[str], depth: int) -> str:
        """a JOIN (b JOIN c), of tables or entities."""
        first = self.entity(self.pick(READABLE), bare=False)
        second = self.entity(self.pick(READABLE), bare=False)
        join = self.pick(["join", "outerjoin"])
        inner = f"{join}({first.name}, {second.name}, {self.match(second, [first])})"
        on = self.match(first, scope)
        scope += [first, second]
        return f".join({inner}, {on}{self.pick(['', ', isouter=True'])})"

    def lateral(self, scope: list[Source], depth: int) -> str:
        inner = self.select(0, outer=list(scope))
        other = _of_columns(self.let("l", f"{inner.source}.lateral()"), inner.kinds)
        scope.append(other)
        return f".join({other.name}, true(){self.pick(['', ', isouter=True'])})"

    def entities(
        self,
        able: list[Source],
        scope: list[Source],
        joins: str,
        extra: list[str],
        base: Source,
        depth: int,
    ) -> Select:
        chosen = [self.pick(able)]
        if len(able) > 1 and self.chance(3):
            chosen.append(self.pick([source for source in able if source is not chosen[0]]))

        outputs = [source.name for source in chosen]
        if self.chance(4):
            outputs.append(f"({self.output(scope, NUMBER, depth)}).label('extra')")

        if self.chance(8):
            source, *chosen = chosen
            outputs = outputs[1:]
            outputs.append(f"Bundle('bundle', {', '.join((*source.key, *source.words[:2]))})")

        criteria = extra + [self.condition(scope, depth) for _ in range(self.upto(2))]
        source = f"select({', '.join(outputs)}).select_from({base.name}){joins}"
        source += f".where({', '.join(criteria)})" if criteria else ""
        ordered = all(each.key for each in scope) and self.chance(2)
        if ordered:
            # The keys of all that is selected from: an outer join repeats its entities.
            source = self.sorted(source, [key for each in scope for key in each.key])

        options, unique = self.options(chosen)
        along = [each for each in self._joined if each.rsplit(".", 1)[0] in outputs]
        if along and ordered and self.chance(2):
            options, unique = f".options(contains_eager({self.pick(along)}))", True
        elif chosen and self.on != "sqlite" and self.chance(12):
            options += self.pick([".with_for_update()", f".with_for_update(of={outputs[0]})"])

        return Select(f"{source}{options}", [], chosen, ordered, unique)

    def options(self, chosen: list[Source]) -> tuple[str, bool]:
        """Loader options along the relationships of what is selected."""
        written, unique = "", False
        for source in chosen:
            assert source.model is not None
            if source.model.relations and self.chance(2):
                path, name, model = "", source.name, source.model
                for _ in range(1 + self.upto(1)):
                    relation = self.pick(list(model.relations))
                    how = self.pick(_LOADERS)
                    unique = unique or how == "joinedload"
                    target = f"{name}.{relation}"
                    if self.chance(5) and how != "noload":
                        wanted = models()[model.relations[relation]]
                        bare = mapped(wanted, f"m.{wanted.name}", None)
                        target += f".and_({self.condition([bare], 0)})"

                    path += f".{how}({target})"
                    model = models()[model.relations[relation]]
                    name = f"m.{model.name}"
                    if not model.relations:
                        break

                written += f".options({path.removeprefix('.')})"
            elif self.chance(5):
                column = self.pick([*source.words, *source.numbers])
                if column.count(".") == source.name.count(".") + 1:
                    written += f".options({self.pick(['load_only', 'defer'])}({column}))"

        if any(source.name == "m.Employee" for source in chosen) and self.chance(2):
            written += ".options(selectin_polymorphic(m.Employee, [m.Engineer, m.Manager]))"

        if chosen and self.chance(8):
            model = self.pick(chosen).model
            assert model is not None
            bare = mapped(model, f"m.{model.name}", None)
            criterion = self.condition([bare], 0)
            written += f".options(with_loader_criteria(m.{model.name}, {criterion}))"

        return written, unique

    def compound(self, depth: int, *, top: bool = False) -> Select:
        """A set operation, at times of set operations."""
        kinds = [self.pick([NUMBER, WORD]) for _ in range(1 + self.upto(1))]
        parts = [self.member(depth, kinds) for _ in range(2 + self.upto(1))]
        operation = self.pick(["union", "union_all", "intersect", "except_"])
        source = f"{operation}({', '.join(parts)})"
        if self.chance(3):
            source = f"{parts[0]}.{operation}({', '.join(parts[1:])})"

        ordered = False
        if top and self.chance(2):
            source = self.sorted(source, [f"'x{i}'" for i in range(len(kinds))])
            ordered = True

        return Select(source, kinds, ordered=ordered)

    def member(self, depth: int, kinds: list[str]) -> str:
        if depth > 1 and self.chance(5):
            inner = f"union({self.member(0, kinds)}, {self.member(0, kinds)})"
            name = self.let("u", f"{inner}.subquery()")
            return f"select({name})"

        return self.select(depth - 1, kinds=kinds).member

    def legacy(self) -> str:
        """What `Session.query` makes of it."""
        name = self.pick(READABLE)
        source = self.entity(name, bare=not self.chance(3))
        query = f"session.query({source.name})"
        scope = [source]
        if models()[name].relations and self.chance(2):
            used = {name} if source.name.startswith("m.") else set()
            query += self.relationship_join(source, scope, used)

        if self.chance(2):
            query += f".filter({self.condition(scope, 2)})"

        keys = ", ".join(key for each in scope for key in each.key)
        forms = [
            "{0}.all()",
            "{0}.count()",
            "{0}.order_by({1}).first()",
            "{0}.order_by({1}).slice(1, 3).all()",
            "session.query({0}.exists()).scalar()",
            "{0}.distinct().count()",
            "{0}.with_entities(func.count()).scalar()",
            "{0}.union({0}).count()",
            "session.query({0}.subquery()).all()",
            "{0}.limit(2).with_entities(func.count()).all()",
            "{0}.populate_existing().enable_eagerloads(False).all()",
        ]
        return self.pick(forms).format(query, keys)

    def from_statement(self) -> Select:
        name = self.pick(READABLE)
        source = self.entity(name, bare=True)
        parts = [f"select({source.name}).where({self.condition([source], 1)})" for _ in range(2)]
        inner = f"{self.pick(['union', 'union_all'])}({', '.join(parts)})"
        form = self.pick(["from_statement({0})", "from_statement({1})"])
        return Select(f"select({source.name}).{form.format(inner, parts[0])}", [], [source])


_LOADERS = ("selectinload", "joinedload", "subqueryload", "lazyload", "immediateload")
_WAYS = (
    "session.execute(statement){unique}.all()",
    "session.execute(statement){unique}.all()",
    "session.connection().execute(statement).all()",
    "list(session.scalars(statement){unique})",
    (
        "[row for part in session.execute(statement, execution_options={{'yield_per': 2}})"
        ".partitions() for row in part]"
    ),
    "session.scalar(select(func.count()).select_from(statement.subquery()))",
)


@st.composite
def reads(draw: Callable[[st.SearchStrategy[Any]], Any], on: str) -> Program:
    author = Author(draw, on)
    form = author.upto(10)
    if form == 10:
        found = author.legacy()
        return Program("\n".join(author.lines) + "\n", (f"result = {found}",), ordered=False)

    if form == 9:
        chosen = author.compound(2, top=True)
    elif form == 8:
        chosen = author.from_statement()
    else:
        chosen = author.select(2, top=True)

    author.lines.append(f"statement = {chosen.source}")
    ways = _WAYS[:4] if chosen.unique or chosen.entities else _WAYS
    way = author.pick(ways)
    run = f"result = {way.format(unique='.unique()' if chosen.unique else '')}"
    if chosen.entities and "connection" not in way and form != 8 and author.chance(2):
        run += _touch(author, chosen.entities)

    return Program("\n".join(author.lines) + "\n", (run,), ordered=chosen.ordered)


def _touch(author: Author, entities: list[Source]) -> str:
    """Lazy loads, from objects that may be missing on the outer side of a join."""
    model = entities[0].model
    assert model is not None
    if not model.relations:
        return ""

    relation = author.pick(list(model.relations))
    rows = "[row[0] if hasattr(row, '_fields') else row for row in result]"
    first = author.pick(["", "\nsession.expire_all()", "\nsession.commit()"])

    return f"{first}\nfor each in {rows}:\n    note(each and each.{relation})"


@st.composite
def datasets(
    draw: Callable[[st.SearchStrategy[Any]], Any], on: str, *, strays: bool = False
) -> Data:
    count = draw(st.integers(2, 3))
    return Data(
        seed=draw(st.integers(0, 999)),
        tenants=TENANTS[on][:count],
        size=3 - draw(st.integers(0, 1)),
        strays=strays and draw(st.booleans()),
    )


def mapped(model: Model, name: str, text: str | None) -> Source:
    return Source(
        name,
        tuple(f"{name}.{column}" for column in model.words),
        tuple(f"{name}.{column}" for column in model.numbers),
        tuple(f"{name}.{column}" for column in model.key),
        model,
        text,
    )


def _of_table(model: Model, name: str) -> Source:
    from .schema import alone

    table = vars(alone())[model.name].__table__
    words = [column.key for column in table.columns if column.key in model.words]
    numbers = [column.key for column in table.columns if column.key in model.numbers]
    return Source(
        name,
        tuple(f"{name}.c.{column}" for column in words),
        tuple(f"{name}.c.{column}" for column in numbers),
        tuple(f"{name}.c.{column.key}" for column in table.primary_key),
    )


def _of_columns(name: str, kinds: Sequence[str]) -> Source:
    columns = [(f"{name}.c.x{place}", kind) for place, kind in enumerate(kinds)]
    return Source(
        name,
        tuple(column for column, kind in columns if kind == WORD),
        tuple(column for column, kind in columns if kind == NUMBER),
    )


_FAMILIES = ({"Employee", "Engineer", "Manager"}, {"Asset", "Vehicle", "Building"})


def _related(target: str, used: set[str]) -> bool:
    """Two classes of one hierarchy share a table, and cannot both stand there bare."""
    return any(target in family and family & used for family in _FAMILIES)
