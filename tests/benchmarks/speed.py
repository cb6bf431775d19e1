"""How fast the wall is: `python tests/benchmarks/speed.py [--quick] [--only NAME ...]`.

Each variant of `workload.py` runs in a process of its own. The processes share one core and take
turns, long enough for warm caches, in an order that is then run backwards; each begins as often as the
others. A ratio is one of CPU times within a round. What is printed is the median over fresh sets
of processes of the medians over the rounds of a set. The column `noise` is the hand-written code
against itself, in two processes: smaller differences mean nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

from workload import OPERATIONS, READS, TENANTS

# Where its names and objects come to lie in memory speeds a process up or slows it down by some
# percent: many processes tell more than long turns.
SLICE_NS = 40_000_000
FULL = {"sets": 12, "laps": 1, "executions": 100_000}
QUICK = {"sets": 3, "laps": 1, "executions": 20_000}
TARGETS = {
    "insert_of_10": 1.05,
    "insert_of_10_children": 1.05,
    "insert_of_10_by_key": 1.05,
    "flush_of_1000": 1.05,
    "executemany_of_10_000": 1.05,
    "orm_bulk_insert_of_10_000": 1.05,
    "cold_compile": 1.25,
}
READ_NAMES = {operation.__name__ for operation in READS}
VARIANTS = ("hand", "hand again", "walled", "none")
RATIOS = {"walled": "hand", "hand again": "hand", "bare": "none"}

Samples = dict[tuple[str, str, int, str], list[float]]


class Worker:
    def __init__(self, variant: str, models: int, tenants: int) -> None:
        script = str(Path(__file__).with_name("workload.py"))
        arguments = [variant.split()[0], str(models), str(tenants)]
        self._process = subprocess.Popen(
            [sys.executable, script, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._answer()

    def ask(self, name: str, *arguments: object) -> Any:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps([name, *arguments]) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def end(self) -> None:
        self._process.kill()
        self._process.communicate()

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit("A worker has ended: see its error above.")

        return json.loads(line)


@contextmanager
def crew(
    models: int, variants: tuple[str, ...] = VARIANTS, tenants: int = TENANTS
) -> Iterator[dict[str, Worker]]:
    with ExitStack() as stack:
        workers = {}
        for variant in variants:
            workers[variant] = Worker(variant, models, tenants)
            stack.callback(workers[variant].end)

        yield workers


def main() -> None:
    options = arguments()
    budget = QUICK if options.quick else FULL
    share_one_core()
    operations = [name for name in OPERATIONS if not options.only or name in options.only]
    samples: Samples = {}
    with crew(options.models[0]) as workers:
        # Not those that are measured: whoever has listened to an engine has slowed it down for good.
        counts = {name: agreed(name, workers) for name in operations}

    for number in range(budget["sets"]):
        for models in options.models:
            progress(f"set {number + 1} of {budget['sets']}, {models} owned models")
            with crew(models) as workers:
                for name in operations:
                    for turns in ("one", "all"):
                        ratios = measure(name, turns, workers, budget["laps"])
                        for kind, ratio in ratios.items():
                            samples.setdefault((name, turns, models, kind), []).append(ratio)

    print(heading(options.quick))
    print(table(samples, counts, operations, options.models))
    if not options.only:
        progress(f"memory over {budget['executions']} executions")
        print(memory(budget["executions"]))


def share_one_core() -> None:
    """Workers inherit it: what else the machine does then slows all of them alike."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})


def agreed(name: str, workers: dict[str, Worker]) -> dict[str, int]:
    """The number of statements each variant sends; their results must be the same."""
    answers = {v: worker.ask("count", name) for v, worker in workers.items() if runs(v, name)}
    assert len({str(answer["result"]) for answer in answers.values()}) == 1, (name, answers)
    return {variant: answer["statements"] for variant, answer in answers.items()}


def measure(name: str, turns: str, workers: dict[str, Worker], laps: int) -> dict[str, float]:
    """The median ratios of one set of workers."""
    team = [variant for variant in VARIANTS if runs(variant, name)]
    warm = {variant: workers[variant].ask("run", name, turns, 3) for variant in team}
    warm = {variant: workers[variant].ask("run", name, turns, 3) for variant in team}
    times = max(1, 3 * SLICE_NS // min(warm.values()))
    ratios: dict[str, list[float]] = {}
    for number in range(laps * len(team)):
        place = number % len(team)
        order = team[place:] + team[:place]
        spent = dict.fromkeys(team, 0)
        for variant in order + order[::-1]:
            spent[variant] += workers[variant].ask("run", name, turns, times)

        spent["bare"] = spent["walled"]
        for kind, base in RATIOS.items():
            if base in spent:
                ratios.setdefault(kind, []).append(spent[kind] / spent[base])

    return {kind: median(found) for kind, found in ratios.items()}


def runs(variant: str, name: str) -> bool:
    return variant != "none" or name in READ_NAMES


def heading(quick: bool) -> str:
    database = "SQLite in memory"
    return (
        f"Python {platform.python_version()}, SQLAlchemy {version('sqlalchemy')}, {database}, "
        f"{TENANTS} tenants{', quick form' if quick else ''}\n"
    )


def table(
    samples: Samples, counts: dict[str, dict[str, int]], operations: list[str], models: list[int]
) -> str:
    """One row per operation; each cell is a ratio of walled time."""
    settings = [(count, turns) for count in models for turns in ("one", "all")]
    titles = [f"{count} models, {turns_named(turns)}" for count, turns in settings]
    rows = [
        ["operation", *titles, "target", "against no tenancy", "noise", "statements hand/walled"]
    ]
    rows.append(["---"] + ["---:"] * (len(rows[0]) - 1))
    for name in operations:
        ratios = [middle(samples, name, turns, count, "walled") for count, turns in settings]
        bare = [middle(samples, name, turns, count, "bare") for count, turns in settings]
        noise = [middle(samples, name, turns, count, "hand again") for count, turns in settings]
        sent = f"{counts[name]['hand']}/{counts[name]['walled']}"
        target = TARGETS.get(name, 1.00)
        rows.append(
            [name.replace("_", " ").replace("10 000", "10,000")]
            + [f"{ratio:.2f}" for ratio in ratios]
            + [f"{target:.2f}", spread(bare), spread(noise), sent]
        )

    return "\n".join("| " + " | ".join(row) + " |" for row in rows) + "\n"


def turns_named(turns: str) -> str:
    return "1 tenant" if turns == "one" else f"{TENANTS:,} in turn"


def middle(samples: Samples, name: str, turns: str, models: int, variant: str) -> float:
    return median(samples.get((name, turns, models, variant), [float("nan")]))


def spread(ratios: list[float]) -> str:
    if ratios[0] != ratios[0]:
        return ""

    low, high = f"{min(ratios):.2f}", f"{max(ratios):.2f}"
    return low if low == high else f"{low} to {high}"


def memory(executions: int) -> str:
    """Growth after every tenant has had a turn with each kind of statement."""
    lines = []
    with crew(5, ("hand", "walled")) as workers:
        for variant, worker in workers.items():
            first = worker.ask("memory", 4 * TENANTS)
            last = worker.ask("memory", executions)
            blocks, kib = last["blocks"] - first["blocks"], last["kib"] - first["kib"]
            lines.append(f"{variant}: {blocks:+,} Python objects, {kib:+,} KiB")

    return f"Memory growth over {executions:,} executions: " + "; ".join(lines)


def progress(text: str) -> None:
    if sys.stderr.isatty():
        print(text, file=sys.stderr)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="some minutes, and coarser figures")
    parser.add_argument("--only", nargs="+", choices=OPERATIONS, help="these operations alone")
    parser.add_argument("--models", nargs="+", type=int, default=[5, 200])
    return parser.parse_args()


if __name__ == "__main__":
    main()
