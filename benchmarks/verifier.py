"""How fast the verifier is, and how it stands up to hostile answers.

python benchmarks/verifier.py                          10,000 good answers and 10,000 hostile ones, mixed
python benchmarks/verifier.py --scaling 1 2            good answers alone with 1 and 2 workers
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import psutil

sys.path.insert(0, str(Path(__file__).parent))
from hostile import good_items, hostile_items, slow_items

from srft.verify import Verifier


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--good", type=int, default=10_000)
    parser.add_argument("--hostile", type=int, default=10_000)
    parser.add_argument("--slow", type=int, default=10, help="answers among them that run into the deadline")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--timeout", type=float, default=5.0, help="seconds")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--scaling", type=int, nargs="*", help="numbers of workers to time good answers with")
    args = parser.parse_args()
    good = good_items(args.good, args.seed)
    if args.scaling:
        for workers in args.scaling:
            with Verifier(workers, args.timeout) as verifier:
                verifier.grade([item for item, _ in good[: 20 * workers]])  # start them
                start = time.monotonic()
                verifier.grade([item for item, _ in good])
                rate = len(good) / (time.monotonic() - start)
            print(json.dumps({"workers": workers, "answers_per_second": round(rate, 1)}), flush=True)
        return
    hostile = hostile_items(args.hostile, args.seed)
    hostile += [slow_items()[i % 2] for i in range(args.slow)]
    order = list(range(len(good) + len(hostile)))
    random.Random(args.seed).shuffle(order)
    items = [item for item, _ in good] + hostile
    with Verifier(args.workers, args.timeout) as verifier, Peak() as peak:
        start = time.monotonic()
        grades = verifier.grade([items[i] for i in order])
        seconds = time.monotonic() - start
        replaced = verifier.replaced
    by_place = dict(zip(order, grades, strict=True))
    changed = sum(by_place[i].verdict != expected for i, (_, expected) in enumerate(good))
    attacks = Counter(by_place[i].verdict.value for i in range(len(good), len(items)))
    report = {
        "good": len(good),
        "good_verdicts_changed": changed,
        "hostile": len(hostile),
        "hostile_verdicts": dict(attacks),
        "graded": len(grades),
        "seconds": round(seconds, 1),
        "answers_per_second": round(len(grades) / seconds, 1),
        "workers": args.workers,
        "workers_replaced": replaced,
        "peak_worker_mib": round(peak.bytes / 2**20),
        "code_was_run": Path("/tmp/srft-was-run").exists(),
    }
    print(json.dumps(report, indent=2))


class Peak:
    """The largest resident memory (bytes) of any child process, sampled ten times a second."""

    def __init__(self) -> None:
        self.bytes = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Peak:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(0.1):
            for child in psutil.Process().children(recursive=True):
                try:
                    self.bytes = max(self.bytes, child.memory_info().rss)
                except psutil.Error:
                    continue


if __name__ == "__main__":
    main()
