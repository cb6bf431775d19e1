from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import partywall

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def lines_of(language: str) -> list[tuple[int, str]]:
    """The lines inside the blocks of one language, with their place in the README."""
    found, inside = [], ""
    for place, line in enumerate(README.splitlines()):
        if line.startswith("```"):
            inside = "" if inside else line.removeprefix("```")
        elif inside == language:
            found.append((place, line))

    return found


def test_every_python_block_runs(tmp_path: Path) -> None:
    """One after another, as a reader would; a traceback names the README's own line."""
    source = [""] * len(README.splitlines())
    for place, line in lines_of("python"):
        source[place] = line

    page = tmp_path / "README.md"
    page.write_text("\n".join(source), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, page], check=False, capture_output=True, text=True, timeout=120
    )

    assert done.returncode == 0, done.stderr
    assert done.stdout, "explain prints what it found"


def test_there_is_no_block_that_nothing_runs() -> None:
    languages = re.findall(r"^```(\w+)$", README, re.MULTILINE)

    assert set(languages) == {"python", "console"}
    assert README.count("```") == 2 * len(languages), "each block names its language"


def test_the_first_use_takes_eight_lines() -> None:
    second_block = README.split("```python\n")[2].split("```")[0]

    assert len([line for line in second_block.splitlines() if line.strip()]) <= 8


@pytest.mark.parametrize("end", ["-m partywall demo", "-m pytest"])
def test_ci_runs_the_very_commands_that_stand_here(end: str) -> None:
    commands = [
        line
        for _, line in lines_of("console")
        if line.startswith("python3 -m venv ") and line.endswith(end)
    ]
    ci = (ROOT / ".ci" / "run").read_text(encoding="utf-8")

    assert len(commands) == 1
    assert len(re.findall(f"^{re.escape(commands[0])}$", README, re.MULTILINE)) == 1
    assert f"$(readme_command '{end}')" in ci


def test_commands_name_files_that_are_there() -> None:
    for _, line in lines_of("console"):
        for path in re.findall(r"\S+\.py\b", line):
            assert (ROOT / path).is_file(), line


@pytest.mark.parametrize("name", sorted(partywall.__all__))
def test_every_public_name_is_explained(name: str) -> None:
    assert re.search(rf"\b{name}\b", README)


def test_a30_it_says_that_wsgi_resolvers_are_sync_and_what_to_do() -> None:
    told = " ".join(README.split())

    assert "WSGI resolvers are sync, because a WSGI server has no event loop to await on." in told
    assert "Look the tenant up with a sync client, behind `cached`." in told
