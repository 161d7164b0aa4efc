"""Start of the command line, and of a run: python benchmarks/startup.py [RUNS].

Commands: CPU time (user and system) of child processes as multiples of importing typer and rich, and seconds; medians.
They take turns, so that a busy machine slows all alike. A run: seconds, and seconds of CPU time, from the start of
`srft train quickstart` to the row of its first step in metrics.jsonl, without the evaluation of the untrained model
before it; and to the row of that evaluation.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

BASELINE = ["-c", "import typer, rich"]
COMMANDS = {
    "srft --help": ["-m", "srft", "--help"],
    "srft train --help": ["-m", "srft", "train", "--help"],
    "srft recipes": ["-m", "srft", "recipes"],
    "srft methods": ["-m", "srft", "methods"],
    "srft --version": ["-m", "srft", "--version"],
}
LIMIT, SECONDS, FIRST_STEP = 2.5, 0.5, 8.0
TRAIN = ["-m", "srft", "train", "quickstart"]


def cpu_seconds(arguments: list[str]) -> tuple[float, float]:
    """Of one Python process: CPU time, and time on the clock."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run([sys.executable, *arguments], check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return cpu, time.perf_counter() - began


def seconds_to_row(file: str, overrides: list[str]) -> tuple[float, float]:
    """From the start of a run to the first row of a file of its directory: on the clock, and of CPU time. Then the run
    is ended."""
    with tempfile.TemporaryDirectory() as folder:
        path, began = Path(folder) / "run" / file, time.perf_counter()
        command = [sys.executable, *TRAIN, *overrides, "--out", str(path.parent)]
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        while process.poll() is None and not (path.is_file() and path.stat().st_size):
            time.sleep(0.02)
        seconds = time.perf_counter() - began
        process.kill()
        process.wait()
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return seconds, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    """Print a line a command, and one a run."""
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 11
    rounds = [[cpu_seconds(arguments) for arguments in (BASELINE, *COMMANDS.values())] for _ in range(runs)]
    (baseline, _), *costs = ([median(x) for x in zip(*column, strict=True)] for column in zip(*rounds, strict=True))
    print(f"import typer, rich: {baseline * 1000:.0f} ms of CPU time, median of {runs}; limits {LIMIT} x, {SECONDS} s")
    for name, (cpu, seconds) in zip(COMMANDS, costs, strict=True):
        print(f"{name:20} {cpu * 1000:6.0f} ms  {cpu / baseline:5.2f} x  {seconds:.2f} s")
    few = [seconds_to_row("metrics.jsonl", ["evaluation.at_start=false"]) for _ in range(min(runs, 3))]
    first, cpu = (median(column) for column in zip(*few, strict=True))
    print(
        f"first step of quickstart: {first:.1f} s (limit {FIRST_STEP}), {cpu:.1f} s of CPU time, median of {len(few)}"
    )
    before, cpu = seconds_to_row("evaluations.jsonl", [])
    print(f"its evaluation before training: {before:.1f} s, {cpu:.1f} s of CPU time")


if __name__ == "__main__":
    main()
