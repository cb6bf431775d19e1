"""The benchmarks keep working, and what they compare is comparable. Nothing is timed here."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.append(str(Path(__file__).with_name("benchmarks")))

import instructions
import speed
import workload

REFERENCE_CHECKS = {"insert_of_10_by_key": 1}


@pytest.fixture(scope="module")
def workers() -> Iterator[dict[str, Any]]:
    with speed.crew(5, ("hand", "walled", "none"), tenants=4) as workers:
        yield workers


@pytest.mark.parametrize("name", workload.OPERATIONS)
def test_the_wall_sends_no_statement_that_hand_written_code_would_not_send(
    workers: dict[str, Any], name: str
) -> None:
    """Every customer and invoice of the other tenants is in the way; the results agree."""
    sent = speed.agreed(name, workers)

    assert sent["walled"] == sent["hand"] + REFERENCE_CHECKS.get(name, 0)


@pytest.mark.parametrize("turns", ["one", "all"])
def test_a_ratio_is_measured(workers: dict[str, Any], turns: str) -> None:
    found = speed.measure("point_select", turns, {**workers, "hand again": workers["hand"]}, 1)

    assert set(found) == {"walled", "hand again", "bare"}
    assert all(ratio > 0 for ratio in found.values())


def test_only_the_walled_worker_imports_partywall(workers: dict[str, Any]) -> None:
    importers = [name for name, worker in workers.items() if "partywall" in worker.ask("modules")]

    assert importers == ["walled"]


@pytest.mark.parametrize("variant", instructions.VARIANTS)
def test_what_is_counted_runs_without_valgrind_too(variant: str) -> None:
    command = [sys.executable, instructions.__file__, "--worker", variant]
    subprocess.run([*command, "--only", "point_select"], check=True, timeout=60)


def test_a_ratio_is_one_of_means(tmp_path: Path) -> None:
    dump = tmp_path / "counts.1"
    dump.write_text("events: Ir\nsummary: 300\n")
    counts = {"walled": [90.0, 110.0], "hand": [200.0, 200.0], "none": [50.0, 50.0]}
    found = {variant: {"point_select": counted} for variant, counted in counts.items()}

    assert instructions.total_of(dump) == 300
    assert "| point select | 0.50 | 2.00 | 22.2% |" in instructions.table(found, ["point_select"])
