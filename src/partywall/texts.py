"""Text inside statements: what is not SQL expression language is read word by word."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy.dialects.mysql.base import MySQLDialect
from sqlalchemy.sql import operators
from sqlalchemy.sql.elements import ClauseElement, ColumnClause, ColumnElement, TextClause
from sqlalchemy.sql.selectable import FromClause, TextualSelect
from sqlalchemy.types import NullType, String

from . import rawsql
from .compilers import Compiler
from .errors import ConfigurationError, UnscopedStatementError, refused
from .fragments import ctes_in, goes_on, lists_more
from .froms import leaves, source
from .ownership import Ownership, owned, owned_names, tenant_types
from .positions import tables_in
from .predicate import ExactParameter, TenantParameter, is_inexact, same_type

# Where SQLite keeps the tables of the database itself; other schemas are attached files.
_HERE = (None, "main", "temp")

# Operators such as `->>` are text too, but bring nothing in and break nothing.
# A word that does not qualify another.
_WORDS = re.compile(r"""\b\w++(?!["`\]]?\s*\.)""", re.ASCII)
# PostgreSQL cuts such a name, and may arrive at another table's.
_CUT = re.compile(r"\b\w{64}", re.ASCII)
_PLAIN_TYPE = re.compile(
    r"(?:\w+|double precision|(?:character|bit) varying|(?:un)?signed integer)"
    r"(?:\(\d+(?:, ?\d+)?\))?(?: with(?:out)? time zone)?(?:\[\])*",
    re.IGNORECASE,
)
# Two backslashes end no string in either reading; one does not where it is no escape.
_PLAIN_LITERAL = re.compile(r"-?[\d.]+|null|true|false|[a-z]?'(?:[^'\\]|''|\\\\)*'", re.IGNORECASE)
_UNESCAPED_LITERAL = re.compile(r"'(?:[^']|'')*'")
# What a compiler, and a driver, takes for a parameter. A percent sign of the SQL itself is doubled.
_PARAMETER = re.compile(r"(?<!%)((?:%%)*+)%\(([^()]*+)\)s")
# Where one parameter becomes several when the statement executes.
_EXPANDING = re.compile(r"__\[POSTCOMPILE_(\S+?)(?=\]|~~)")
# Stand behind a criterion, and behind the rows of an INSERT, until it is known what follows them.
CRITERION, ROWS = "\0\1", "\0\2"
_MARK = re.compile(f"{CRITERION}|{ROWS}")
_MARK_INSIDE = re.compile(rf"(?:{_MARK.pattern})(?!(?:\s|{_MARK.pattern})*(?:\)|\Z))")
_COMMENTS = ("--", "/*", "#", ";")
_TELLING = frozenset(string.ascii_letters + "_'\"`\\()[];#")


class Criteria(ClauseElement):
    """What the developer wrote in WHERE or ON, and the conditions that it must not undo."""

    __visit_name__ = "partywall_criteria"

    def __init__(
        self, written: Iterable[Any], conditions: Iterable[ColumnElement[bool]], end: str = ""
    ) -> None:
        self.written = [clause.self_group(against=operators.and_) for clause in written]
        self.conditions = [clause.self_group(against=operators.and_) for clause in conditions]
        self.end = end


class Plain(Compiler):
    """SQL without the names of its parameters, which may look like anything."""

    def nameless(self, sql: str) -> str:
        """Without the names of its parameters, which are those of columns: `%(item #)s`."""
        return self._unexpanded(_PARAMETER.sub(r"\1%s", sql))

    def _unexpanded(self, sql: str) -> str:
        names = {self.escaped_bind_names.get(name, name) for name in self.bind_names.values()}
        return _EXPANDING.sub(lambda found: "__[" if found[1] in names else found[0], sql)


class Texts(Plain):
    """Collects the text fragments of a statement and judges them together, when all are known."""

    unsupported: str | None = None
    done = False
    # Whether it is refused to a tenant, though not where none is current.
    without_tenant = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.guarded: dict[str, Ownership] = {}
        self.fragments: list[str] = []
        self.raw_parts = 0
        # The tables, CTEs and targets that were rendered, by case-folded name.
        self.rendered: Counter[str] = Counter()
        # Tables without a schema, each with the CTEs that it is read in; the names of all CTEs.
        self.read: list[tuple[str, tuple[str, ...]]] = []
        self.inside: tuple[str, ...] = ()
        self._cte_names: set[str] = set()
        self._within_cte: dict[Any, Counter[str]] = {}
        self._trusted = False
        self._vouched_for = False
        super().__init__(*args, **kwargs)
        if self.guarded:
            self._look_behind_guards()

        if self._cte_names:
            self._refuse_hidden(self._cte_names)

        if self.fragments:
            self._refuse_fragments()

        if getattr(self, "statement", None) is not None and not self._vouched_for:
            self._refuse_more_tables()

        if self.guarded and any(sign in self.string for sign in _COMMENTS):
            # A construct of the developer's own may hold one.
            self.refuse_breaking(self._sent())

        self.done = True

    def mark(self, sign: str) -> str:
        """The sign, where somebody looks behind it."""
        return sign if getattr(self, "statement", None) is not None and not self.done else ""

    def _look_behind_guards(self) -> None:
        mysql = isinstance(self.dialect, MySQLDialect)
        for mark in _MARK_INSIDE.finditer(self.string):
            behind = _MARK.sub("", self.string[mark.end() :])
            if goes_on(behind, rows=mark[0] == ROWS, hash_comments=mysql):
                raise refused(
                    UnscopedStatementError(
                        "A text fragment in this statement could undo its tenant condition: it "
                        "stands behind WHERE, ON or VALUES and goes on with it. Write it with "
                        "where(), values() or on_conflict_do_update()."
                    )
                )

        self.string = _MARK.sub("", self.string)
        many = self._insertmanyvalues
        if many is not None and CRITERION in many.single_values_expr:
            # SQLAlchemy writes the row anew for each batch, by its parts too.
            row = _MARK.sub("", many.single_values_expr)
            parts = [
                (column, name, _MARK.sub("", value), keys)
                for column, name, value, keys in many.insert_crud_params
            ]
            self._insertmanyvalues = many._replace(single_values_expr=row, insert_crud_params=parts)

    def visit_textclause(
        self, textclause: TextClause, add_to_result_map: Any = None, **kw: Any
    ) -> str:
        outer = self._trusted
        if _is_whole(self):
            if isinstance(textclause, rawsql.TenantText):
                self._trusted = True
                self.rendered.update(self._tables_in(textclause.text))
                textclause = self._bound(textclause)
            else:
                self._trusted = self._vouches_for(textclause.text)

        if (_is_whole(self) or kw.get("asfrom")) and not self._trusted:
            self.refuse_names(textclause.text)

        try:
            return super().visit_textclause(textclause, add_to_result_map, **kw)
        finally:
            self._trusted = outer

    def visit_tstring(self, tstring: Any, *args: Any, **kw: Any) -> str:
        written = super().visit_tstring(tstring, *args, **kw)
        text = self.nameless(written)
        if self.guarded or not (_is_whole(self) and self._vouches_for(text)):
            self.note(text)

        return written

    def visit_tstring_text(self, element: Any, **kw: Any) -> str:
        # Judged with the template that it is a part of.
        return super().post_process_text(element.text)

    def _vouches_for(self, text: str) -> bool:
        """DDL names what it defines."""
        if self._defines(text):
            self._vouched_for = True
        elif self._shows_owned(text):
            self._vouched_for = self.without_tenant = True

        return self._vouched_for

    def _bound(self, textclause: rawsql.TenantText) -> rawsql.TenantText:
        """`:tenant` as a value of the tenant column's type, where the text names but one type."""
        types = {
            same_type(type_): type_ for type_ in tenant_types(self._scan(textclause.text).names)
        }
        type_ = textclause.tenant_type
        if isinstance(type_, NullType) and len(types) == 1:
            (type_,) = types.values()

        if isinstance(self.dialect, MySQLDialect):
            exact = isinstance(type_, (String, NullType))
        else:
            exact = any(is_inexact(each, self.dialect) for each in types.values())

        return textclause.bound_to((ExactParameter if exact else TenantParameter)("tenant", type_))

    def visit_bindparam(self, bindparam: Any, *args: Any, **kw: Any) -> str:
        written = super().visit_bindparam(bindparam, *args, **kw)
        if bindparam.expand_op is operators.not_in_op:
            # Of an empty list, NULL) OR (1 = 1, wherever the parameter stands.
            self.raw_parts += 1

        if self.guarded:
            # A type of the developer's own may have written it.
            self.refuse_listing(written)

        return written

    def visit_partywall_exact_parameter(self, parameter: ExactParameter, **kw: Any) -> str:
        bound = self.visit_bindparam(parameter, **kw)
        if not isinstance(self.dialect, MySQLDialect):
            postgresql = self.dialect.name == "postgresql"
            exact = (
                f'CAST({bound} AS TEXT) COLLATE "C"' if postgresql else f"{bound} COLLATE BINARY"
            )
            return f"({exact})"

        collation = "utf8mb4_nopad_bin" if self.dialect.is_mariadb else "utf8mb4_0900_bin"
        return f"(CONVERT({bound} USING utf8mb4) COLLATE {collation})"

    def post_process_text(self, text: str) -> str:
        self.note(text)
        return super().post_process_text(text)

    def escape_literal_column(self, text: str) -> str:
        self.note(text)
        return super().escape_literal_column(text)

    def visit_extract(self, extract: Any, **kw: Any) -> str:
        self.note(extract.field)
        return super().visit_extract(extract, **kw)

    def visit_function(self, func: Any, *args: Any, **kw: Any) -> str:
        if rawsql.runs_sql(func.name) and owned_names():
            raise refused(raw_sql([]))

        return super().visit_function(func, *args, **kw)

    def visit_typeclause(self, typeclause: Any, *args: Any, **kw: Any) -> Any:
        rendered = super().visit_typeclause(typeclause, *args, **kw)
        # None: MySQL leaves out a CAST that it does not know.
        if rendered is not None and not _PLAIN_TYPE.fullmatch(rendered):
            self.note(rendered)

        return rendered

    def render_bind_cast(self, type_: Any, dbapi_type: Any, sqltext: str) -> str:
        rendered = super().render_bind_cast(type_, dbapi_type, sqltext)
        if not _PLAIN_TYPE.fullmatch(rendered.rpartition("::")[2]):
            self.note(rendered)

        return rendered

    def render_literal_value(self, value: Any, type_: Any) -> str:
        rendered = super().render_literal_value(value, type_)
        if not self._is_plain(rendered):
            self.note(rendered)
            if self.done and (self.guarded or owned_names() & self._scan(rendered).names):
                # Rendered when the statement executes, past the last look.
                raise refused(raw_sql([]))

        return rendered

    def visit_empty_set_expr(self, *args: Any, **kw: Any) -> str:
        rendered = super().visit_empty_set_expr(*args, **kw)
        if not self.done:
            self.note(rendered)
            return rendered

        # When the statement executes, past the last look.
        self.refuse_names(rendered)
        if self.guarded:
            self.refuse_breaking(rendered)

        return rendered

    def _is_plain(self, literal: str) -> bool:
        if _PLAIN_LITERAL.fullmatch(literal):
            return True

        escapes = getattr(self.dialect, "_backslash_escapes", False)
        return not escapes and _UNESCAPED_LITERAL.fullmatch(literal) is not None

    def visit_cte(self, cte: Any, asfrom: bool = False, **kw: Any) -> Any:
        named = cte if cte._cte_alias is None else cte._cte_alias
        name, outer = str(named.name).casefold(), self.inside
        if asfrom:
            self.rendered[name] += 1

        self.inside = (*outer, name)
        before = self.rendered.copy()
        try:
            written = super().visit_cte(cte, asfrom=asfrom, **kw)
        finally:
            self.inside = outer
            self._cte_names.add(name)

        mine = self.rendered - before
        if mine:
            self._within_cte[cte] = mine

        earlier = cte._restates
        if earlier in self._within_cte and earlier not in self.ctes:
            # SQLAlchemy takes it away again: what follows it holds it.
            self.rendered -= self._within_cte.pop(earlier)

        return written

    def _refuse_hidden(self, names: set[str]) -> None:
        """A CTE must not stand for a table: what the wall reads of the table would be read of it."""
        hiding = owned_names() & names
        for table, inside in self.read if hiding else ():
            if table in hiding and not self._comes_before(inside, table):
                raise refused(
                    UnscopedStatementError(
                        f"A CTE in this statement takes the name of {table!r}, an owned table that "
                        "the statement reads too. Give the CTE another name.",
                        table=table,
                    )
                )

    def _comes_before(self, inside: tuple[str, ...], cte: str) -> bool:
        """Whether what is read inside of these CTEs does not see the one of that name yet."""
        if self.ctes_recursive or not inside:
            return False

        if cte in inside:
            return True

        order = [str(each.name).casefold() for each in self.ctes]
        if self.dialect.name == "sqlite" or not {inside[0], cte} <= {*order}:
            # SQLite shows every CTE to all that stand beside it.
            return False

        return order.index(inside[0]) < order.index(cte)

    def get_from_hint_text(self, table: FromClause, text: str | None) -> Any:
        self.note(text or "")
        return super().get_from_hint_text(table, text)

    def get_crud_hint_text(self, table: FromClause, text: str | None) -> Any:
        self.note(text or "")
        return super().get_crud_hint_text(table, text)

    def get_statement_hint_text(self, hint_texts: Sequence[str]) -> str:
        self.note(" ".join(hint_texts))
        return super().get_statement_hint_text(hint_texts)

    def note(self, text: str) -> None:
        if not self._trusted:
            self.raw_parts += 1
            if not _TELLING.isdisjoint(text) or "--" in text or "/*" in text:
                self.fragments.append(text)

    def _defines(self, text: str) -> bool:
        """DDL, whose own texts are compiled by a compiler that has no statement."""
        statement = getattr(self, "statement", None)
        return statement is None or (not self.stack and self._scan(text).is_definition)

    def _shows_owned(self, text: str) -> bool:
        """DDL that gives owned rows another name, as a view does."""
        return self._scan(text).is_ddl and self._owned_in(text) is not None

    def refuse_names(self, text: str) -> None:
        named = self._owned_in(text)
        if named is not None:
            raise refused(raw_sql(named))

    def _owned_in(self, text: str) -> frozenset[str] | None:
        """The owned tables that a text names, or none if it could name any; None if none."""
        names = owned_names()
        named = names & self._tables_in(text).keys()
        return named if named or (names and self._scan(text).opaque) else None

    def _refuse_fragments(self) -> None:
        if self.guarded:
            for fragment in self.fragments:
                self.refuse_breaking(fragment)

        if any(self._scan(fragment).opaque for fragment in self.fragments) and owned_names():
            raise refused(raw_sql([]))

    def refuse_breaking(self, text: str) -> None:
        if self._scan(text).breaks_out:
            raise refused(
                UnscopedStatementError(
                    "A text fragment in this statement could undo its tenant condition: it leaves "
                    "a parenthesis, a quote or a comment open, or holds a semicolon. Close it, or "
                    "bind the value as a parameter."
                )
            )

    def refuse_listing(self, text: str) -> None:
        if "," not in text:
            return

        if lists_more(text, hash_comments=isinstance(self.dialect, MySQLDialect)):
            raise refused(
                UnscopedStatementError(
                    "A text fragment in this statement could set more than the column that it is "
                    "the value of. Set each column by its name."
                )
            )

    def _refuse_more_tables(self) -> None:
        """The last look at the SQL: it names no owned table that was not rendered as one.

        Text, names that go unquoted, types and constructs of the developer's own all end here.
        """
        names = owned_names()
        text = self.string.casefold()
        spaced = self.raw_parts and not all(map(str.isidentifier, names))
        if self.string.isascii() and "u&" not in text and not _CUT.search(text) and not spaced:
            words = [word for word in _WORDS.findall(text) if word in names]
            if all(words.count(word) <= self.rendered[word] for word in {*words}):
                return

        counts = self._tables_in(self._sent())
        hidden = [name for name in names & counts.keys() if counts[name] > self.rendered[name]]
        if hidden:
            raise refused(raw_sql(hidden))

        if self._cte_names:
            # A text beside a CTE, or its name, may hold another.
            mysql = isinstance(self.dialect, MySQLDialect)
            self._refuse_hidden(ctes_in(self._sent(), hash_comments=mysql) - self._cte_names)

    def _sent(self) -> str:
        """The finished SQL. Where parameters have places, their names are gone already."""
        return self._unexpanded(self.string) if self.positional else self.nameless(self.string)

    def owned(self, from_: FromClause) -> Ownership | None:
        table = source(from_)
        anywhere = bool(self.schema_translate_map) or (
            self.dialect.name == "sqlite" and getattr(table, "schema", None) not in _HERE
        )
        ownership = owned(table, self.dialect.default_schema_name, anywhere)
        if ownership is None:
            return None

        if self.unsupported is not None:
            raise refused(ConfigurationError(self.unsupported, table=ownership.table.name))

        self.guarded[getattr(from_, "name", ownership.table.name)] = ownership
        return ownership

    def _tables_in(self, text: str) -> Counter[str]:
        return tables_in(text, hash_comments=isinstance(self.dialect, MySQLDialect))

    def _scan(self, text: str) -> rawsql.Scan:
        return rawsql.scan(text, hash_comments=isinstance(self.dialect, MySQLDialect))


class ReadOnly(Plain):
    """For unscoped blocks without `write=True`: owned tables are read, and nothing else."""

    def visit_insert(self, insert_stmt: Any, *args: Any, **kw: Any) -> str:
        self._refuse_write(insert_stmt)
        return super().visit_insert(insert_stmt, *args, **kw)

    def visit_update(self, update_stmt: Any, *args: Any, **kw: Any) -> str:
        # MySQL also sets columns of further tables.
        named = [*(update_stmt._values or ())]
        named += [key for key, _ in getattr(update_stmt, "_ordered_values", None) or ()]
        tables = [key.table for key in named if isinstance(key, ColumnClause)]
        self._refuse_write(update_stmt, *(table for table in tables if table is not None))
        return super().visit_update(update_stmt, *args, **kw)

    def visit_delete(self, delete_stmt: Any, *args: Any, **kw: Any) -> str:
        self._refuse_write(delete_stmt)
        return super().visit_delete(delete_stmt, *args, **kw)

    def visit_textclause(self, textclause: TextClause, *args: Any, **kw: Any) -> str:
        self._refuse_text(textclause.text)
        return super().visit_textclause(textclause, *args, **kw)

    def visit_tstring(self, tstring: Any, *args: Any, **kw: Any) -> str:
        written = super().visit_tstring(tstring, *args, **kw)
        self._refuse_text(self.nameless(written))
        return written

    def _refuse_text(self, text: str) -> None:
        facts = rawsql.scan(text)
        if _is_whole(self) and not (facts.reads_only or facts.is_definition):
            names = owned_names()
            changed = names & tables_in(text).keys()
            if changed or (names and facts.opaque):
                raise refused(only_reads(changed))

    def _refuse_write(self, statement: Any, *further: FromClause) -> None:
        for leaf in (*leaves(statement.table), *further):
            ownership = owned(source(leaf), self.dialect.default_schema_name)
            if ownership is not None:
                raise refused(only_reads([ownership.table.name]))


def plainly_named(sql: str) -> str:
    """With words for the names of its parameters, as different as those were: `%(item #)s`."""
    return _PARAMETER.sub(lambda found: f"{found[1]}%(p{found[2].encode().hex()})s", sql)


def _is_whole(compiler: Compiler) -> bool:
    """Whether the text that is visited is a statement of its own."""
    return not compiler.stack or isinstance(compiler.stack[-1]["selectable"], TextualSelect)


def raw_sql(names: Iterable[str]) -> UnscopedStatementError:
    named = ", ".join(repr(name) for name in sorted(names)) or "something that cannot be read"
    return UnscopedStatementError(
        f"Raw SQL names owned tables ({named}). Use select() and its kin, write the whole "
        'statement with tenant_text("... WHERE tenant_id = :tenant"), or wrap it in '
        "'with unscoped(\"why\")' if it must see every row.",
        tables=sorted(names),
    )


def only_reads(names: Iterable[str]) -> UnscopedStatementError:
    named = ", ".join(repr(name) for name in sorted(names))
    return UnscopedStatementError(
        f"This unscoped block only reads, and the statement changes {named}. "
        'Open it with unscoped("why", write=True).',
        tables=sorted(names),
    )
