"""What the distribution promises to those who install it."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib import import_module, resources
from importlib.metadata import metadata, requires
from pathlib import Path

import pytest
import sqlalchemy
from packaging.requirements import Requirement

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
REQUIREMENTS = [Requirement(line) for line in requires("partywall") or []]
EXTRAS = metadata("partywall").get_all("Provides-Extra") or []

# What each extra's use needs, and what those names are imported as.
BROUGHT = {
    "asyncio": {"greenlet"},
    "sqlite-async": {"greenlet", "aiosqlite"},
    "postgresql": {"psycopg[binary]"},
    "postgresql-async": {"greenlet", "asyncpg"},
    "mariadb": {"pymysql[rsa]"},
    "mariadb-async": {"greenlet", "asyncmy", "cryptography"},
    "starlette": {"starlette"},
    "fastapi": {"greenlet", "fastapi"},
    "flask": {"flask"},
    "jwt": {"pyjwt[crypto]"},
}
MODULES = {
    "psycopg[binary]": ["psycopg", "psycopg_binary"],
    "pymysql[rsa]": ["pymysql", "cryptography"],
    "pyjwt[crypto]": ["jwt", "cryptography"],
}
FRAMEWORKS = {
    *("starlette", "fastapi", "flask", "werkzeug", "django", "pydantic", "jwt", "anyio"),
    *("aiosqlite", "asyncpg", "psycopg", "pymysql", "asyncmy", "pytest", "hypothesis"),
}


def test_sqlalchemy_is_all_it_needs() -> None:
    needed = [requirement for requirement in REQUIREMENTS if requirement.marker is None]

    assert [requirement.name.lower() for requirement in needed] == ["sqlalchemy"]


def test_sqlalchemy_is_bounded_at_both_ends() -> None:
    """A34: the whole suite runs on the first and the last of them."""
    bounds = next(r for r in REQUIREMENTS if r.marker is None).specifier

    assert bounds.contains(sqlalchemy.__version__, prereleases=True)
    assert bounds.contains("2.0.99") and bounds.contains("2.1.99")
    assert not bounds.contains("2.2.0") and not bounds.contains("1.4.54")


def _brought_by(extra: str) -> set[str]:
    """The requirements of an extra, through the other extras of ours that it names."""
    found = set()
    for requirement in REQUIREMENTS:
        if requirement.marker is None or not requirement.marker.evaluate({"extra": extra}):
            continue

        if requirement.name == "partywall":
            found |= {name for inner in requirement.extras for name in _brought_by(inner)}
        else:
            extras = f"[{','.join(requirement.extras)}]" if requirement.extras else ""
            found.add(requirement.name.lower() + extras)

    return found


@pytest.mark.parametrize("extra", BROUGHT)
def test_an_extra_installs_what_its_use_imports(extra: str) -> None:
    """E10: read from the metadata, and imported here, where `test` brings them all."""
    assert _brought_by(extra) == BROUGHT[extra]
    for name in BROUGHT[extra]:
        for module in MODULES.get(name, [name]):
            assert import_module(module)


def test_every_extra_is_in_the_readme_and_no_other() -> None:
    """E10"""
    table = README.split("| extra |")[1].split("\n\n")[0]
    explained = {name for row in table.splitlines() for name in re.findall("`([^`]+)`", row)}

    assert explained == set(EXTRAS)


def test_the_readme_says_what_each_extra_brings() -> None:
    """E10: by the packages that are not there for another one's sake."""
    table = README.split("| extra |")[1].split("\n\n")[0]
    for row in table.splitlines()[2:]:
        extras, brings = row.strip("| ").split(" | ")
        for extra in set(re.findall("`([^`]+)`", extras)) - {"test"}:
            own = {re.sub(r"\[.*", "", name) for name in _brought_by(extra)}
            others = {"greenlet", "cryptography"} if len(own) > 1 else set()
            named = extra if brings == "the framework" else brings.lower()
            assert own - others, extra
            assert all(name in named for name in own - others), (extra, own)


def test_test_brings_every_extra_that_users_have() -> None:
    """E10"""
    assert set(BROUGHT) == set(EXTRAS) - {"test", "lint"}
    assert set().union(*BROUGHT.values()) <= _brought_by("test")


def test_it_is_typed() -> None:
    assert resources.files("partywall").joinpath("py.typed").is_file()


@pytest.mark.parametrize("module", ["partywall", "partywall.__main__"])
def test_the_core_imports_no_framework(module: str) -> None:
    """C17"""
    script = f"import sys, {module}; print(*{{name.split('.')[0] for name in sys.modules}})"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60
    )

    assert not set(done.stdout.split()) & FRAMEWORKS
