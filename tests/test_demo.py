from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest

pty = pytest.importorskip("pty", reason="no pseudo-terminals here")

DEMO = [sys.executable, "-m", "partywall", "demo"]
MISTAKES = {
    "a forgotten filter": ("saw 3 acme, 2 globex", "saw 3 acme"),
    "an unfiltered join": ("saw 3 acme, 2 globex", "saw 3 acme"),
    "a Core select": ("saw 3 acme, 2 globex", "saw 3 acme"),
    "a bulk delete": ("deleted 2 acme, 1 globex", "deleted 2 acme"),
    "a forged object": ("overwrote 1 globex", "refused: "),
}


@pytest.fixture(scope="module")
def report() -> str:
    done = subprocess.run(DEMO, check=False, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    return done.stdout


@pytest.mark.parametrize(("mistake", "verdicts"), MISTAKES.items(), ids=list(MISTAKES))
def test_each_mistake_leaks_plain_and_is_held_by_the_wall(
    report: str, mistake: str, verdicts: tuple[str, str]
) -> None:
    part = report.split(f". {mistake}\n")[1].split("\n\n")[1]
    left, right = (half.strip() for half in part.splitlines()[1].split(" | "))

    assert left == f"LEAK  {verdicts[0]}"
    assert right.startswith(f"ok    {verdicts[1]}")
    assert "globex" not in right


def test_the_sql_of_both_sides_is_shown(report: str) -> None:
    halves = [line.split(" | ") for line in report.splitlines() if " | " in line]
    plain = "\n".join(left for left, *_ in halves)
    walled = "\n".join(right for _, *right in halves if right for right in right)

    assert plain.count("tenant_id = 'acme'") == 1, "the one that the user wrote, in the join"
    assert walled.count("tenant_id = 'acme'") >= 5


def test_the_last_line_counts_who_got_through(report: str) -> None:
    assert report.rstrip().endswith("reached globex's rows in 5 of 5 cases, partywall in 0 of 5.")


def test_piped_it_is_plain_text_of_a_readable_width(report: str) -> None:
    assert "\x1b" not in report
    assert report.isascii()
    assert max(map(len, report.splitlines())) <= 100


@pytest.mark.parametrize("columns", [66, 80, 200])
def test_the_two_columns_fit_a_terminal(columns: int) -> None:
    shown = _on_a_terminal(os.environ | {"NO_COLOR": "1", "COLUMNS": str(columns)})
    halves = [line for line in shown.splitlines() if " | " in line]

    assert len({line.index(" | ") for line in halves}) == 1
    assert max(map(len, halves)) <= min(columns, 100)


@pytest.mark.parametrize(
    ("variables", "coloured"),
    [({}, True), ({"NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False)],
    ids=["terminal", "NO_COLOR", "dumb terminal"],
)
def test_colour_is_for_terminals_that_want_it(variables: dict[str, str], coloured: bool) -> None:
    environment = {k: v for k, v in os.environ.items() if k != "NO_COLOR"}
    shown = _on_a_terminal(environment | {"TERM": "xterm"} | variables)

    assert bool(re.search("\x1b\\[31m *LEAK", shown)) is coloured
    assert ("\x1b" in shown) is coloured
    assert "LEAK  saw 3 acme, 2 globex" in shown


def test_anything_but_demo_says_what_there_is() -> None:
    done = subprocess.run(
        [*DEMO[:3], "other"], check=False, capture_output=True, text=True, timeout=60
    )

    assert done.returncode != 0
    assert "usage: python -m partywall demo" in done.stderr


def _on_a_terminal(environment: dict[str, str]) -> str:
    ours, theirs = pty.openpty()
    with subprocess.Popen(DEMO, stdout=theirs, env=environment) as process:
        os.close(theirs)
        shown = b""
        while True:
            try:
                chunk = os.read(ours, 65536)
            except OSError:
                break

            if not chunk:
                break

            shown += chunk

    os.close(ours)
    assert process.returncode == 0
    return shown.decode()


def test_who_reads_may_stop_early() -> None:
    command = [sys.executable, "-m", "partywall", "demo"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as demo:
        assert demo.stdout is not None and demo.stderr is not None
        demo.stdout.close()
        assert demo.stderr.read() == b""

    assert demo.returncode == 0
