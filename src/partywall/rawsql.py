"""What a piece of SQL text names and could do, and `tenant_text`.

Text in, facts out: the words are read without knowing the database, the tables or the tenant. Where
databases read a text differently (backslashes, `#`, `--` without a space, `$$`, `[...]`, `/*! */`),
every reading counts. It does not follow names: what a view, a trigger or a function that is already
in the database does is not seen here.
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Self

from sqlalchemy import BindParameter, TextClause
from sqlalchemy.types import TypeEngine

from .context import TenantId, active_scope, current_tenant
from .definitions import is_ddl
from .errors import ConfigurationError, MissingTenantContextError, refused
from .positions import tables_in
from .tokens import (
    EXPONENT,
    HIDES,
    LEADING_NUMBER,
    LONG,
    PLAIN_WORD,
    QUOTED,
    SEPARATOR,
    TOKENS,
    WORD,
    spellings,
)

__all__ = [
    "Scan",
    "TenantParameter",
    "TenantText",
    "runs_sql",
    "scan",
    "stands_before",
    "tables_in",
    "tenant_text",
]


@dataclass(frozen=True, slots=True)
class Scan:
    """The facts about one text. In doubt a name is in it, and the text brings rows or breaks out.

    `names`: what could be a table's name, case-folded.
    `parameters`: its `:name` parameters, only those that certainly are.
    `opaque`: it could name anything, in a spelling or in a string that is run as SQL.
    `brings_rows`: as a criterion or a column it could bring in rows of its own. As a FROM, any
    name does.
    `breaks_out`: inside a built statement it could undo what stands around it.
    `is_definition`: whole, it defines or describes the schema and neither returns nor changes rows.
    `is_ddl`: whole, it is one statement that defines the schema and copies no rows into a table.
    `reads_only`: whole, it changes nothing.
    """

    names: frozenset[str]
    parameters: frozenset[str]
    opaque: bool
    brings_rows: bool
    breaks_out: bool
    is_definition: bool
    is_ddl: bool
    reads_only: bool


def scan(sql: str, *, hash_comments: bool = True) -> Scan:
    """Read a text once. Without `hash_comments`, `#` is an operator, as in PostgreSQL's `#>>`."""
    read = _known if len(sql) <= LONG else _scan
    return read(sql, hash_comments)


def runs_sql(name: str) -> bool:
    """Whether a function of this name runs or opens what a string names: SQL, a table, a file."""
    return _RUNS_A_STRING.fullmatch(name.casefold()) is not None


def stands_before(original: str, sql: str, *, hash_comments: bool) -> str | None:
    """What stands before a statement, comments left aside; None if the rest is not that statement."""
    wanted = _certain(original, hash_comments)
    found = _certain(sql, hash_comments)
    if [text for text, _ in found[len(found) - len(wanted) :]] != [text for text, _ in wanted]:
        return None

    before = sql[: found[len(found) - len(wanted)][1]]
    return None if scan(before, hash_comments=hash_comments).breaks_out else before


def _certain(sql: str, hash_comments: bool) -> list[tuple[str, int]]:
    matches = TOKENS[hash_comments].finditer(sql)
    return [(match[0], match.start()) for match in matches if match.lastgroup != "comment"]


def tenant_text(sql: str, /) -> TenantText:
    """A whole SQL statement that states its tenant condition itself, with `:tenant`.

    `:tenant` holds the current tenant when the statement executes and cannot be given a value.
    Where its type matters, give that alone: `.bindparams(bindparam("tenant", type_=Uuid))`.
    """
    return TenantText(sql)


class TenantParameter(BindParameter[Any]):
    """Holds the current tenant when the statement executes, never a value of its own."""

    inherit_cache = True

    def __init__(self, type_: TypeEngine[Any] | None = None) -> None:
        super().__init__(_TENANT, type_=type_, unique=True, callable_=_tenant_id)

    # BindParameter's own would store the tenant of the moment.
    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__.copy()


class TenantText(TextClause):
    """What `tenant_text` returns; the wall lets it pass."""

    inherit_cache = True

    def __init__(self, sql: str) -> None:
        if not isinstance(sql, str) or not _binds_tenant(sql):
            raise refused(
                ConfigurationError(
                    f"tenant_text() needs :{_TENANT} outside quotes and comments, as in "
                    f'tenant_text("SELECT ... WHERE tenant_id = :{_TENANT}").'
                )
            )

        super().__init__(sql)
        self._bindparams[_TENANT] = TenantParameter()

    def bindparams(self, *binds: BindParameter[Any], **names_to_values: Any) -> Self:
        if _TENANT in names_to_values:
            raise refused(_given())

        return super().bindparams(*map(_typed, binds), **names_to_values)

    @property
    def tenant_type(self) -> TypeEngine[Any]:
        return self._bindparams[_TENANT].type

    def bound_to(self, parameter: BindParameter[Any]) -> Self:
        """The same text with another parameter in the place of `:tenant`."""
        bound = self._clone()
        bound._bindparams = {**self._bindparams, _TENANT: parameter}
        return bound


_TENANT = "tenant"


# SQLite takes a string for a name where only a name can stand, also at the start of a FROM.
_NAME_FOLLOWS = {"", "from", "join", "into", "update", "table", "in", "."}
_NAME_FOLLOWS |= {"ignore", "replace", "abort", "fail", "rollback"}
_LIST_BEGINS = {"from", "join", "into", "update", "using"}
_LIST_ENDS = {"select", "set", "where", "values", "group", "order", "having", "limit"}
_LIST_ENDS |= {"returning", "window", "union"}


def _alone(pattern: str) -> re.Pattern[str]:
    return re.compile(rf" (?:{pattern})(?= )")


# The rules read tokens between single spaces: a string is ', a quoted name ", a parameter :.

_UPDATES = "(?<!for )(?<!for no key )update"
_BRINGS_ROWS = _alone(
    "select|from|join|straight_join|lateral|table|into|union|intersect|except|using|merge|delete"
    rf"|(?:insert|replace)(?! \()|{_UPDATES}"
    r"|with(?! (?:time|local|query|rollup|ordinality|ties|wrapper|conditional|unique)\b)"
    r"|in(?! (?:[(:?%$]|boolean\b|natural\b| *$))"
)
_READS = _alone("select|with|table|values|explain|show|describe|desc")
_WRITES = _alone(rf"(?:insert|replace|truncate)(?! \()|{_UPDATES}|delete|merge|into|create|execute")
_DEFINES = _alone(
    "create|alter|drop|comment|grant|revoke|analyze|vacuum|reindex|optimize|pragma|show|describe"
    "|desc|set|reset|begin|start|commit|end|rollback|savepoint|release|abort|lock|unlock|use"
    "|discard|checkpoint|listen|unlisten|notify|prepare transaction"
)
_TRIGGER = re.compile(r" create (?:or replace )?(?:temp |temporary |constraint )?trigger ")
_ONLY_DEFINES = re.compile(
    rf" (?:grant|revoke|comment|(?:create|alter) policy) |{_TRIGGER.pattern}"
)
_EVENT = _alone("(?:on|before|after|of|or) (?:insert|update|delete|truncate|replace)")
_ROWS_IN_DEFINITION = _alone(
    r"select|union|merge|update|delete|(?:insert|replace|truncate)(?! \()"
    r"|execute(?! (?:function|procedure)\b)"
)
# What rewrites the rows of a table, or lets them be read under another name.
_OTHER_ROWS = re.compile(
    r" alter .* (?:exchange|attach|detach|(?<!no )inherit|set schema) "
    r"| alter .* type .*(?<!key )(?<!unique )(?<!exclude )using "
    r"| alter .* (?:set expression|(?:modify|change) .*as \() "
    r"| rename (?!(?:column|constraint|index|key|attribute|value) )"
    r"| alter .* rename (?!(?:column|constraint|index|key|attribute|value) |(?!to |as )[^ =]+ to )"
    r"| create virtual | create (?:(?!table |index )[^( ]+ )*?view "
    r"| create .*table .* (?<!new )(?<!old )(?<!for )table "
    r"| create .*table .* inherits "
    r"| set statement | begin not "
)
_EXECUTES = _alone(r"execute(?! (?:function|procedure|on)\b)")
_EXECUTES_FIRST = _alone("exec|prepare(?! transaction)")
_BEGINS_DDL = _alone("create|alter|drop|comment|grant|revoke|rename|security|import")
_RUNS_A_STRING = re.compile(
    r"(?:query|table|cursor|schema|database)_to_xml\w*|dblink\w*|crosstab\w*|connectby|xpath_table"
    r"|ts_stat|ts_rewrite|sp_executesql|sys_exec|sys_eval|pg_logical_slot_(?:get|peek)\w*"
    r"|get_raw_page|bt_page_items|sqlite_dbdata|pg_read_file\w*|pg_read_binary_file\w*|pg_ls_\w+"
    r"|pg_stat_file|pg_file_write|lo_import|lo_export|load_file|readfile|writefile|load_extension"
    r"|writable_schema"
)


@dataclass(slots=True)
class _Reader:
    """One pass over a text. `tokens` are certain; `loose` words may be code, quoted or comment."""

    names: set[str] = field(default_factory=set)
    parameters: set[str] = field(default_factory=set)
    tokens: list[str] = field(default_factory=lambda: [""])
    loose: set[str] = field(default_factory=set)
    open: list[tuple[str, bool]] = field(default_factory=list)
    listing: bool = True
    spelled: bool = False
    broken: bool = False
    more: bool = False

    def read(self, sql: str, hash_comments: bool) -> None:
        for match in TOKENS[hash_comments].finditer(sql):
            kind, text, last = match.lastgroup, match[0], match.end() == len(sql)
            if kind == "word":
                self._word(text)
            elif kind == "sign":
                self._sign(text)
            elif kind == "string":
                self._string(text)
            elif kind == "name":
                self._quoted(text)
            elif kind == "parameter":
                self.parameters.add(text[1:])
                self.tokens.append(":")
            elif kind == "comment":
                self.broken |= last and text[0] == "-"
            elif kind == "bracket" and self._bracket(text, hash_comments):
                self.tokens.append('"')
            elif kind in HIDES and not HIDES[kind].search(text, 1):
                self._loosely(text)
                self.broken |= last and kind == "line"
            else:
                self._doubt(sql[match.start() :])
                break

        self.broken |= bool(self.open)

    def _word(self, text: str) -> None:
        word = text.casefold()
        self._name(text)
        if not word.isascii():
            self._loosely(text)
            # A space to SQLite where a word begins.
            word = word.lstrip("\ufeff")
            if not word:
                return

        if self.tokens[-2:] == ["1", "."]:
            # 1.e5FROM
            word = EXPONENT.sub("", word) or "1"

        if word[0] in "$0123456789":
            word = LEADING_NUMBER.sub("", word, 1) or "1"
            self.names.add(word)

        if self._separates(word):
            word = "~"
        elif word in _LIST_BEGINS:
            self.listing = True
        elif word in _LIST_ENDS:
            self.listing = False

        self.tokens.append(word)

    def _separates(self, word: str) -> bool:
        inside = self.open[-1][0] if self.open else ""
        return SEPARATOR.get(inside) == word or (
            word == "from"
            and self.tokens[-1] == "distinct"
            and (self.tokens[-2] == "is" or self.tokens[-3:-1] == ["is", "not"])
        )

    def _sign(self, sign: str) -> None:
        if sign == "(":
            before = self.tokens[-1]
            self.open.append((before, self.listing))
            self.listing = self.listing and before in ("", "from", "join", ",", "(")
        elif sign == ")" and self.open:
            self.listing = self.open.pop()[1]
        elif sign in ");":
            self.broken = True

        self.tokens.append(sign)

    def _string(self, text: str) -> None:
        before = self.tokens[-1]
        if (
            before in _NAME_FOLLOWS
            or (self.listing and before in (",", "("))
            or (before == "=" and self.tokens[2:3] == ["virtual"])
        ):
            self._name(text[1:-1].replace("''", "'"))

        lately = self.tokens[-7:]
        if {("", "do"), (";", "do")}.intersection(pairwise(lately)):
            # PostgreSQL runs it. In pieces, or with escapes, it is not what it seems.
            self.spelled |= "\\" in text or before in ("'", "&")
            self._loosely(text)

        self.tokens.append("'")

    def _quoted(self, text: str) -> None:
        self.spelled |= text[0] in "uU"
        text = text.lstrip("uU&")
        self._name(text[1:-1].replace(text[0] * 2, text[0]))
        self.tokens.append('"')

    def _bracket(self, text: str, hash_comments: bool) -> bool:
        """[a name] in SQLite, a subscript or ARRAY[...] in PostgreSQL; False if they disagree."""
        inner = _Reader(tokens=["["], listing=False)
        inner.read(text[1:-1].replace("[", " "), hash_comments)
        self._name(text[1:-1])
        self.names |= inner.names
        self.loose |= inner.loose.union(inner.tokens)
        self.spelled |= inner.spelled
        return not inner.broken

    def _doubt(self, rest: str) -> None:
        """From here on databases disagree about what is quoted: every word counts."""
        self._loosely(rest)
        self.broken = True
        self.spelled |= 'u&"' in rest.lower()
        for name in QUOTED.findall(rest):
            self._name(name)

    def _loosely(self, text: str) -> None:
        self.broken |= any(sign in text for sign in "();")
        self.more |= ";" in text
        for word in {*WORD.findall(text), *PLAIN_WORD.findall(text)}:
            self._name(word)
            self.loose |= {word.casefold().strip("$"), LEADING_NUMBER.sub("", word.casefold(), 1)}

        self.names |= self.loose

    def _name(self, name: str) -> None:
        self.names.update(spellings(name))


def _scan(sql: str, hash_comments: bool) -> Scan:
    reader = _Reader()
    reader.read(sql, hash_comments)
    text = " ".join([*reader.tokens, ""])
    loose = " , ".join(["", *reader.loose, ""])
    statements = _statements(text)
    whole = bool(statements) and not reader.more
    return Scan(
        names=frozenset(reader.names - {""}),
        parameters=frozenset(reader.parameters),
        opaque=(
            reader.spelled
            or any(map(_EXECUTES.search, (text, loose)))
            or any(map(_EXECUTES_FIRST.match, statements))
            or any(map(runs_sql, reader.names))
        ),
        brings_rows=any(map(_BRINGS_ROWS.search, (text, loose))),
        breaks_out=reader.broken,
        is_definition=(
            whole
            and all(map(_defines, statements))
            and not _ROWS_IN_DEFINITION.search(loose)
            and "writable_schema" not in reader.names
        ),
        is_ddl=is_ddl(sql, hash_comments) if _BEGINS_DDL.match(text) else False,
        reads_only=whole and all(map(_only_reads, statements)) and not _WRITES.search(loose),
    )


_known = functools.lru_cache(maxsize=2048)(_scan)


def _statements(text: str) -> list[str]:
    statements = [part for part in text.split(";") if part.strip()]
    if (
        statements.count(" end ") == 1
        and statements[-1] == " end "
        and _TRIGGER.match(text)
        and " begin " in statements[0]
        and not _EXECUTES.search(statements[0])
    ):
        return [text.replace(";", "")]

    return statements


def _defines(statement: str) -> bool:
    if not _DEFINES.match(statement):
        return False

    without_events = _EVENT.sub("", statement)
    return bool(_ONLY_DEFINES.match(statement)) or not (
        _ROWS_IN_DEFINITION.search(without_events) or _OTHER_ROWS.match(statement)
    )


def _only_reads(statement: str) -> bool:
    return bool(_READS.match(" " + statement.lstrip("( "))) and not _WRITES.search(statement)


def _binds_tenant(sql: str) -> bool:
    # `#>` and `#-` are PostgreSQL's; MySQL would read a comment.
    return _TENANT in scan(sql, hash_comments=not re.search("#[>-]", sql)).parameters


def _typed(bind: BindParameter[Any]) -> BindParameter[Any]:
    if bind._orig_key != _TENANT or isinstance(bind, TenantParameter):
        return bind

    if not bind.required or bind.expanding:
        raise refused(_given())

    return TenantParameter(bind.type)


def _given() -> ConfigurationError:
    return ConfigurationError(
        f"tenant_text() binds :{_TENANT} to the current tenant itself. "
        f"Enter 'with tenant_scope(...)' and leave {_TENANT!r} out of bindparams()."
    )


def _tenant_id() -> TenantId:
    scope = active_scope()
    if scope is not None and scope.context is None:
        raise refused(
            MissingTenantContextError(
                "tenant_text() needs a tenant, and unscoped() has none. Use text() there."
            )
        )

    return current_tenant().tenant_id
