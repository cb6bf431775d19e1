"""How SQL text falls into words, strings, names and comments, and where databases disagree."""

from __future__ import annotations

import re

LONG = 20_000

_TOKEN = r"""
      (?P<comment>   --(?=[ \t\r\n]|\Z)[^\r\n]*+(?=\r?\n|\Z)
                   | /\*(?!M?!)(?:[^*/]|\*(?!/)|/(?!\*))*+\*/ )
    | (?P<line>      (?:--HASH)[^\n]*+ )
    | (?P<body>      /\*M?!.*?\*/ | \$(?P<tag>(?:(?!\d)[\w\x80-\U0010ffff]++)?)\$.*?\$(?P=tag)\$ )
    | (?P<bracket>   \[(?:[^\]'"`]|'[^'\]]*'|"[^"\]]*"|`[^`\]]*`)*+\] )
    | (?P<string>    '(?:[^'\\]|''|\\[^'])*+' ESCAPE )
    | (?P<name>      (?:[uU]&)?"(?:[^"\\]|""|\\[^"])*+" | `(?:[^`]|``)*+` )
    | (?P<doubt>     ['"`\[] | /\* )
    | (?P<parameter> (?<![:\w\\]):\w++(?![:\w]) )
    | (?P<word>      [\w$\x80-\U0010ffff]++ )
    | (?P<sign>      \S )
"""
# `#` begins a comment in MySQL and is an operator elsewhere. What SQLAlchemy writes for LIKE with a
# backslash as `escape` is a whole string outside of MySQL.
TOKENS = {
    hashes: re.compile(
        _TOKEN.replace("HASH", r"|\#" if hashes else "").replace(
            "ESCAPE", "" if hashes else r"| (?<=\ ESCAPE\ )'\\'"
        ),
        re.VERBOSE | re.DOTALL,
    )
    for hashes in (True, False)
}
WORD = re.compile(r"[\w$\x80-\U0010ffff]+")
PLAIN_WORD = re.compile(r"\w+")
LEADING_NUMBER = re.compile(r"\$?\d+(?:e\d+)?")
EXPONENT = re.compile(r"^e\d+")
QUOTED = re.compile(r"""(?=["`\[]([^"`\]]+)["`\]])""")
HIDES = {"line": re.compile(r"""['"`\[]|/\*"""), "body": re.compile(r"""['"`\[#]|--|/\*""")}

# EXTRACT(YEAR FROM x): directly inside these the word separates arguments.
SEPARATOR = {
    "extract": "from",
    "substring": "from",
    "substr": "from",
    "mid": "from",
    "trim": "from",
    "overlay": "from",
    "position": "in",
    "convert": "using",
    "char": "using",
}


def spellings(name: str) -> set[str]:
    """What a database could take the name for."""
    if len(name) <= 63 and name.isascii():
        return {name.casefold()}

    # PostgreSQL cuts a name after 63 bytes; MySQL's lower case of U+0130 is a plain i.
    cut = name.encode(errors="replace")[:63].decode(errors="ignore")
    return {name.casefold(), cut.casefold(), name.replace("\u0130", "i").casefold()}
