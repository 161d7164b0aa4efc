"""CPU time of starting the command line, as multiples of importing typer and rich: python benchmarks/startup.py [RUNS].

User and system time of child processes, medians; the commands take turns, so that a busy machine slows all alike.
"""

from __future__ import annotations

import resource
import subprocess
import sys
from statistics import median

BASELINE = ["-c", "import typer, rich"]
COMMANDS = {
    "srft --help": ["-m", "srft", "--help"],
    "srft train --help": ["-m", "srft", "train", "--help"],
    "srft recipes": ["-m", "srft", "recipes"],
    "srft --version": ["-m", "srft", "--version"],
}
LIMIT = 2.5


def cpu_seconds(arguments: list[str]) -> float:
    """Of one Python process."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, *arguments], check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    """Print a line a command."""
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 11
    rounds = [[cpu_seconds(arguments) for arguments in (BASELINE, *COMMANDS.values())] for _ in range(runs)]
    baseline, *seconds = (median(column) for column in zip(*rounds, strict=True))
    print(f"import typer, rich: {baseline * 1000:.0f} ms of CPU time, median of {runs}")
    for name, value in zip(COMMANDS, seconds, strict=True):
        print(f"{name:20} {value * 1000:6.0f} ms  {value / baseline:5.2f} x (limit {LIMIT})")


if __name__ == "__main__":
    main()
