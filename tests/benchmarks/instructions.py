"""What the wall costs in instructions: `python tests/benchmarks/instructions.py [--only NAME ...]`.

Valgrind counts what Python executes, so neither the machine's speed nor what else it does counts.
Where names and objects come to lie in memory does, by a percent or two: each variant of
`workload.py` runs under several hash seeds, and a ratio is one of means. `noise` is how far the seeds
of one variant are apart. What it cannot see is how long a processor waits for its memory; `speed.py`
does.
"""

from __future__ import annotations

import argparse
import gc
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from bisect import bisect_left
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from statistics import mean

from workload import OPERATIONS, READS, Turn, Worker

SEEDS = 3
TENANTS = 16
READ_NAMES = {operation.__name__ for operation in READS}
VARIANTS = ("hand", "walled", "none")
# How often each is executed and counted, after as many times that fill the caches.
TIMES = {"flush_of_1000": 3, "executemany_of_10_000": 3, "orm_bulk_insert_of_10_000": 3}
USUAL_TIMES = 100
# What valgrind calls `bisect.bisect_left`.
COUNTED = "_bisect_bisect_left"

Counts = dict[str, dict[str, list[float]]]


def main() -> None:
    options = arguments()
    if options.worker:
        work(options.worker, options.only)
        return

    if shutil.which("valgrind") is None:
        raise SystemExit("Install valgrind first: it counts the instructions.")

    counts: Counts = {
        variant: {name: [] for name in options.only if runs(variant, name)} for variant in VARIANTS
    }
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        # Side by side: that changes no count.
        runs_of_all = [(variant, seed) for variant in VARIANTS for seed in range(SEEDS)]
        found = threads.map(lambda run: (run[0], count(run[0], options.only, run[1])), runs_of_all)
        for variant, counted in found:
            for name, instructions in counted.items():
                counts[variant][name].append(instructions)

    print(f"Python {platform.python_version()}, SQLAlchemy {version('sqlalchemy')}\n")
    print(table(counts, options.only))


def runs(variant: str, name: str) -> bool:
    return variant != "none" or name in READ_NAMES


def work(variant: str, names: list[str]) -> None:
    """In a process of its own, under valgrind."""
    worker = Worker(variant, 5, TENANTS)
    for name in (name for name in names if runs(variant, name)):
        times = TIMES.get(name, USUAL_TIMES)
        worker.run(name, "all", times)
        turns = list(islice(worker.turns["all"], times))
        gc.disable()
        # Valgrind counts inside of this function in C, which nothing else calls meanwhile.
        bisect_left([None], 1, key=lambda _: execute(worker, name, turns))
        gc.enable()


def execute(worker: Worker, name: str, turns: list[Turn]) -> int:
    for turn in turns:
        worker.execute(name, *turn)

    return 0


def count(variant: str, names: list[str], seed: int) -> dict[str, float]:
    """Instructions of one execution of each operation."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "counts"
        command = ["valgrind", "--tool=callgrind", "--collect-atstart=no"]
        command += [f"--toggle-collect={COUNTED}", f"--dump-after={COUNTED}"]
        command += [f"--callgrind-out-file={out}", sys.executable, __file__]
        subprocess.run(
            [*command, "--worker", variant, "--only", *names],
            env={**os.environ, "PYTHONHASHSEED": str(seed)},
            check=True,
            capture_output=True,
        )
        dumps = sorted(out.parent.glob("counts.*"), key=lambda dump: int(dump.suffix[1:]))
        totals = [total for total in map(total_of, dumps) if total]

    counted = [name for name in names if runs(variant, name)]
    if len(totals) != len(counted):
        raise SystemExit("This Python has no symbols by which valgrind knows where to count.")

    return {
        name: total / TIMES.get(name, USUAL_TIMES)
        for name, total in zip(counted, totals, strict=True)
    }


def total_of(dump: Path) -> int:
    lines = dump.read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(("totals:", "summary:")))


def table(counts: Counts, names: list[str]) -> str:
    rows = [["operation", "by hand", "no tenancy", "noise"], ["---", "---:", "---:", "---:"]]
    for name in names:
        against = [
            f"{mean(counts['walled'][name]) / mean(counts[base][name]):.2f}"
            if runs(base, name)
            else ""
            for base in ("hand", "none")
        ]
        seeds = [counts[variant][name] for variant in ("hand", "walled")]
        noise = max(max(found) / min(found) - 1 for found in seeds)
        title = name.replace("_", " ").replace("10 000", "10,000")
        rows.append([title, *against, f"{noise:.1%}"])

    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    names = list(OPERATIONS)
    parser.add_argument("--only", nargs="+", choices=names, default=names, help="these alone")
    parser.add_argument("--worker", choices=VARIANTS, help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
