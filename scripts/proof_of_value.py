#!/usr/bin/env python
"""Prove that a change of the code changes no number: the same runs, before and after, with identical results.

    python scripts/proof_of_value.py                      # the present tree against HEAD; or name another commit
    python scripts/proof_of_value.py main --only grpo select --jobs 1
    python scripts/proof_of_value.py record TREE OUT --base COMMIT  # only the base: keep it for several comparisons
    python scripts/proof_of_value.py record TREE OUT
    python scripts/proof_of_value.py compare OLD_OUT NEW_OUT --base COMMIT

A case is one or more `srft` commands on the embedded model, a few steps each, on the CPU with one thread. Compared are
all rows of all .jsonl files (metrics, evaluations, rollouts, selections, responses), the numbers of results.json and
contamination.json, and the bytes of every tensor in .safetensors files. Everything must be equal to the last bit,
except times. What exists only in the new recording is listed as added. The exit status is 1 on any difference.

Numbers are the same on one machine only: a recording cannot be compared with one of another machine or torch.

Where a refactor renames keys, metrics or files, give the base its `Renames` below. The cases are always written with
the new names. An entry that ends in `.` or `/` renames all that begin with it.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import runpy
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Renames:
    """What is called otherwise in a base.

    Args:
        keys: words of the cases' commands, new: old. A recipe's key (without `stages.N.`), `key=value`, an option.
        metrics: columns of .jsonl rows and paths in .json files, old: new; `FILE:` before an old one is for that file
            alone, `!` before a new one says that it is the opposite; paths are joined by `/`.
        files: relative to the case's folder, old: new, e.g. "run/rollouts/": "run/samples/".
        dropped: metrics, paths and files (old names) that the new tree no longer writes.
    """

    keys: Mapping[str, str] = field(default_factory=dict)
    metrics: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)
    dropped: frozenset[str] = frozenset()


# By the beginning of a base's commit. The one here is the tree before the rooms were rebuilt: its numbers are those of
# 40a58a7, which rebuilt them; later commits end defects.
RENAMES = {
    "ee8f536": Renames(
        keys={
            "evaluation.sampling.n": "evaluation.samples",
            "hooks.buffer.size": "buffer.size",
            "sampling.n=4": "--samples=4",
            "template=chat": "--template=chat",
            "sampling.max_response_length=160": "--max-length=160",
            "max_batch=12": "--max-batch=12",
            "sampling.temperature=1.0": "--temperature=1.0",
            "sampling.top_p=0.95": "--top-p=0.95",
            "statistics=true": "--statistics",
        },
        metrics={
            "lr": "learning_rate",
            "loss/total": "loss",
            "entropy/rollout": "entropy",
            "demo_reward": "demo/reward",
            "demo_length": "demo/mean_length",
            "method/clip_fraction": "clip_ratio/region_mean",
            "metrics.jsonl:response_length": "completions/mean_length",
            "metrics.jsonl:unfinished": "completions/clipped_ratio",
            "evaluations.jsonl:unfinished": "truncated",
            "set": "benchmark",
            "avg@2": "avg",
            "unparsable": "no_answer",
            "score": "reward",
            "finished": "!truncated",
            "results.json:settings/protocol/samples": "settings/protocol/n",
        },
    )
}

TIMES = ("seconds", "step_time", "tokens_per_second", "time/")  # columns that begin with one of these are not compared

RUN = [
    "--out", "{out}/run", "training.device=cpu", "training.prompts_per_step=4", "training.tokens_per_micro_batch=700",
    "rollout.n=4", "rollout.max_response_length=160", "data.limit=24", "optim.lr=1e-3", "verify.workers=1",
    "verify.timeout=60", "evaluation.sets.test.limit=4", "evaluation.sets.ood.limit=4", "evaluation.sampling.n=2",
]  # fmt: skip


def run(recipe: str, *changes: str, stages: int = 0, steps: int = 3) -> list[str]:
    """A short training run; of a staged recipe 2 steps a stage."""
    if not stages:
        return ["train", recipe, *RUN, f"training.steps={steps}", "training.epochs=null", *changes]
    words = ["train", recipe, *RUN]
    for i in range(stages):
        here = f"stages.{i}."
        words += [f"{here}training.steps=2", f"{here}training.epochs=null", f"{here}training.prompts_per_step=4"]
        words += [f"{here}optim.lr=1e-3", f"{here}data.limit=24"]
    return words + list(changes)


SELECTION = ["data.selection.n=4", "data.limit=8"]
PAIRS = ["stages.1.data.selection.n=4", "stages.1.data.limit=8"]
EIGHT = ["training.prompts_per_step=8"]  # PSFT makes 8 updates on each batch
EIGHT_STAGED = ["stages.0.training.prompts_per_step=8"]
RESUME = ["train", "--resume", "--out", "{out}/run"]

Commands = list[list[str]]
CASES: dict[str, Commands] = {  # long ones first
    "two-processes": [["torchrun", *run("quickstart", "optim.updates_per_batch=2")]],
    "dapo": [run("quickstart-dapo", "optim.updates_per_batch=2")],
    "psft-then-rl": [run("quickstart-psft-then-rl", *EIGHT_STAGED, stages=2)],
    "resume": [run("quickstart", steps=2), [*RESUME, "training.steps=3"]],
    "resume-stages": [
        run("quickstart-rl-then-sft-kl", "stages.1.training.steps=1", stages=2),
        [*RESUME, "stages.1.training.steps=2"],
    ],
    "eval": [
        ["eval", "srft:model", "--benchmarks", "problems.jsonl", "--out", "{out}", "sampling.n=4", "template=chat",
         "sampling.max_response_length=160", "max_batch=12", "sampling.temperature=1.0", "sampling.top_p=0.95",
         "statistics=true", "--training-data", "srft:arithmetic/train.jsonl"],
    ],
    "select": [
        run("quickstart-grpo", steps=2),
        *(["select", "{out}/run", "--out", f"{{out}}/{keep}.jsonl", "--keep", keep] for keep in ("correct", "pairs")),
        ["select", "{out}/run", "--out", "{out}/noise.jsonl", "--keep", "noise+rbf", "--noise", "0.3"],
        ["select", "{out}/run", "--out", "{out}/entropy.jsonl", "--keep", "entropy", "--model", "srft:model"],
    ],
    "quickstart": [run("quickstart")],
    "srft-hpt": [run("quickstart", "method.preset=hpt")],
    "srft-batch-entropy": [run("quickstart", "method.entropy_scope=batch")],
    "srft-bf16": [run("quickstart", "training.precision=bf16", "model.gradient_checkpointing=true")],
    "srft-sampling": [
        run("quickstart", "rollout.temperature=0.8", "rollout.top_p=0.9", "rollout.demo_slots=replace",
            "rollout.max_batch=6", "optim.schedule=cosine", "optim.warmup=0.3", "optim.weight_decay=0.1"),
    ],
    "sft-lora": [run("quickstart-sft", "model.lora.rank=4", steps=2), [*RESUME, "training.steps=3"]],
    "chord-mu": [run("quickstart-chord-mu", "method.mu_steps=3")],
    "low-entropy-clipping": [run("quickstart-low-entropy-clipping", "optim.updates_per_batch=2")],
    "position-shaping": [run("quickstart-position-shaping", "advantage.position.steps=[1, 3]")],
    "ppo": [run("quickstart-ppo", "optim.auxiliary_lr=2e-3", steps=2), [*RESUME, "training.steps=3"]],
    "prime": [run("quickstart-prime", "optim.auxiliary_lr=2e-3", steps=2), [*RESUME, "training.steps=3"]],
    "psft": [run("quickstart-psft", *EIGHT)],
    "psft-prolong": [run("quickstart-psft-prolong", *EIGHT)],
    "psft-then-dpo": [run("quickstart-psft-then-dpo", *EIGHT_STAGED, *PAIRS, stages=2)],
    "psft-warmup": [run("quickstart-psft-warmup", "stages.1.training.prompts_per_step=8", stages=2)],
    "relift": [run("quickstart-relift", "hooks.buffer.size=2", steps=2), [*RESUME, "training.steps=3"]],
    "rft": [run("quickstart-rft", *SELECTION)],
    "rft-entropy": [run("quickstart-rft-entropy", *SELECTION)],
    "rft-noise": [run("quickstart-rft-noise", *SELECTION, "data.selection.noise=0.3")],
    "rft-noise+rbf": [run("quickstart-rft-noise+rbf", *SELECTION, "data.selection.noise=0.3")],
    "rft-rbf": [run("quickstart-rft-rbf", *SELECTION)],
    "sasr": [run("quickstart-sasr", "method.warmup_steps=1", steps=5)],
    "sft-then-dpo": [run("quickstart-sft-then-dpo", *PAIRS, stages=2)],
}  # fmt: skip
PLAIN = "chord-phi dft dr-grpo gem grpo hpt iw-sft luffy ppl-shaping sft sft+rl sft-kl superrl tapo uft"
STAGED = "rl-then-sft rl-then-sft-kl sft-n-then-rl sft-then-rl"
CASES |= {name: [run(f"quickstart-{name}")] for name in PLAIN.split()}
CASES |= {name: [run(f"quickstart-{name}", stages=2)] for name in STAGED.split()}


def renamed(name: str, table: Mapping[str, str]) -> str:
    """The name by the table: whole, or by the longest entry for its beginning."""
    if name in table:
        return table[name]
    beginnings = [old for old in table if old.endswith((".", "/")) and name.startswith(old)]
    old = max(beginnings, key=len, default="")
    return table[old] + name[len(old) :] if old else name


def renames_of(base: str) -> Renames:
    """What is called otherwise in the base; nothing where it has no entry."""
    return next((renames for commit, renames in RENAMES.items() if base.startswith(commit)), Renames())


def old_word(word: str, keys: Mapping[str, str]) -> str:
    """A word of a command in the base's names."""
    key, equals, value = word.partition("=")
    if not equals or word in keys:
        return renamed(word, keys)
    parts = key.split(".", 2)
    stage = f"stages.{parts[1]}." if parts[0] == "stages" else ""
    if (plain := f"{key.removeprefix(stage)}={value}") in keys:
        return stage + keys[plain]
    return f"{stage}{renamed(key.removeprefix(stage), keys)}={value}"


def record(tree: Path, out: Path, base: str, cases: Sequence[str], jobs: int) -> None:
    """Run the cases with the package in `tree`/src; `out` gets a folder for each, with log.txt and done.

    The cases are run in `jobs` processes, one after another in each: starting up takes longer than most of them."""
    out.mkdir(parents=True, exist_ok=True)
    for case in cases:
        shutil.rmtree(out / case, ignore_errors=True)
    rows = (tree / "src/srft/embedded/arithmetic/test.jsonl").read_text().splitlines(keepends=True)
    (out / "problems.jsonl").write_text("".join(rows[:12]))
    settings = {"PYTHONPATH": str(tree / "src"), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "NO_COLOR": "1"}
    words = [sys.executable, str(Path(__file__).resolve()), "work", str(tree / "src"), "--base", base, "--only"]
    env = os.environ | settings | {"HF_HUB_OFFLINE": "1"}
    workers = [subprocess.Popen([*words, *cases], env=env, cwd=out) for _ in range(jobs)]
    for worker in workers:
        worker.wait()


def work(source: str, base: str, cases: Sequence[str]) -> None:
    """One of the processes of `record`: run, in the present folder, each case that none has begun."""
    keys = renames_of(base).keys
    for case in cases:
        try:
            Path(case).mkdir()
        except FileExistsError:
            continue
        start = time.perf_counter()
        with Path(case, "log.txt").open("w") as log, redirect_stdout(log), redirect_stderr(log):
            try:
                for command in CASES[case]:
                    words = [word.replace("{out}", case) for word in command]
                    execute([old_word(word, keys) for word in words], log)
                assert str(sys.modules["srft"].__file__ if "srft" in sys.modules else source).startswith(source)
                Path(case, "done").write_text("")
            except Exception:
                traceback.print_exc()
        for state in Path(case).rglob("*.pt"):
            state.unlink()
        fate = "" if Path(case, "done").exists() else f"  FAILED: see {Path(case, 'log.txt').resolve()}"
        print(f"{case}: {time.perf_counter() - start:.1f} s{fate}", flush=True)


def execute(words: list[str], log: Any) -> None:
    """`srft WORDS` in this process, or by torchrun in two."""
    if words[0] == "torchrun":
        launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "srft"]
        subprocess.run([*launch, *words[1:]], stdout=log, stderr=log, check=True)
        return
    sys.argv = ["srft", *words]
    try:
        runpy.run_module("srft", run_name="__main__")
    except SystemExit as exit:
        if exit.code:
            raise RuntimeError(f"srft {' '.join(words)}: exit status {exit.code}") from None


def read(folder: Path) -> dict[str, Any]:
    """What a case wrote, by relative path: the rows of .jsonl files, the numbers of .json files, hashes of tensors."""
    contents: dict[str, Any] = {}
    for file in sorted(folder.rglob("*")):
        name = str(file.relative_to(folder))
        if file.suffix == ".jsonl":
            contents[name] = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
        elif file.name in ("results.json", "contamination.json"):
            contents[name] = [dict(numbers(json.loads(file.read_text())))]
        elif file.suffix == ".safetensors":
            contents[name] = [hashes(file)]
    return contents


def numbers(tree: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """The numbers of a JSON tree, with their paths."""
    if isinstance(tree, dict | list):
        for key, value in tree.items() if isinstance(tree, dict) else enumerate(tree):
            yield from numbers(value, f"{path}/{key}" if path else str(key))
    elif isinstance(tree, int | float):
        yield path, tree


def hashes(file: Path) -> dict[str, str]:
    """The tensors of a .safetensors file: type, shape and hash of the bytes."""
    raw = file.read_bytes()
    start = 8 + int.from_bytes(raw[:8], "little")
    tensors = {}
    for name, tensor in json.loads(raw[8:start]).items():
        if name != "__metadata__":
            begin, end = tensor["data_offsets"]
            digest = hashlib.sha256(raw[start + begin : start + end]).hexdigest()[:16]
            tensors[name] = f"{tensor['dtype']} {tensor['shape']} {digest}"
    return tensors


def first_difference(old: Path, new: Path, names: Renames, added: Counter[str]) -> tuple[str, Counter[str]]:
    """The first difference of two recordings of a case, or nothing; and the rows and tensors that are equal, by kind
    of file. `added` counts what only the new one has."""
    equal: Counter[str] = Counter()
    for name, folder in (("old", old), ("new", new)):
        if not (folder / "done").exists():
            return f"the {name} one was not recorded or failed: {folder}/log.txt", equal
    before, after = read(old), read(new)
    files = {name: renamed(name, names.files) for name in before if name not in names.dropped}
    added.update(after.keys() - files.values())
    for name, now in files.items():
        if now not in after:
            return f"{now}: missing", equal
        if len(before[name]) != len(after[now]):
            return f"{now}: {len(before[name])} rows, now {len(after[now])}", equal
        tensors = name.endswith(".safetensors")
        kind = Path(name).stem if Path(name).stem in ("metrics", "evaluations") else "tensors" if tensors else "other"
        for i, (row, other) in enumerate(zip(before[name], after[now], strict=True), 1):
            columns = {k: k if tensors else column_name(name, k, names.metrics) for k in row if k not in names.dropped}
            if not tensors:
                known = {there.removeprefix("!") for there in columns.values()}
                added.update(f"{Path(now).name}: {k}" for k in other.keys() - known if not timed(k))
            for column, there in columns.items():
                there, opposite = there.removeprefix("!"), there.startswith("!")
                if there not in other and not timed(column):
                    return f"{now}: row {i}: {there}: missing", equal
                if not timed(column) and not same(row[column], not other[there] if opposite else other[there]):
                    return f"{now}: row {i}: {there}: {row[column]!r}, now {other[there]!r}", equal
            equal[kind] += len(columns) if tensors else 1
    return "", equal


def column_name(file: str, column: str, table: Mapping[str, str]) -> str:
    """The new name of a column, by the table's entry for its file or by that for all files."""
    name = Path(file).name
    if (own := renamed(f"{name}:{column}", table)) != f"{name}:{column}":
        return own
    return renamed(column, table)


def timed(column: str) -> bool:
    return column.startswith(TIMES)


def same(one: Any, other: Any) -> bool:
    return bool(one == other) or json.dumps(one) == json.dumps(other)  # the latter where there is a NaN


def compare(old: Path, new: Path, base: str, cases: Sequence[str]) -> bool:
    """Print a table; whether all is equal."""
    added: Counter[str] = Counter()
    alike = True
    print(f"{'case':22}{'metrics':>9}{'evaluations':>13}{'other':>8}{'tensors':>9}  result")
    for case in cases:
        difference, equal = first_difference(old / case, new / case, renames_of(base), added)
        alike = alike and not difference
        counts = f"{equal['metrics']:9}{equal['evaluations']:13}{equal['other']:8}{equal['tensors']:9}"
        print(f"{case:22}{counts}  {difference or 'identical'}")
    for name, count in sorted(added.items()):
        print(f"added: {name} ({count} times)")
    print("No difference." if alike else "DIFFERENT.")
    return alike


def prove(commit: str, cases: Sequence[str], jobs: int) -> bool:
    """Record a commit and the present tree, and compare; the recordings are kept where they differ."""
    tree, folder = Path(__file__).resolve().parent.parent, Path(tempfile.mkdtemp(prefix="proof-"))
    git = ["git", "-C", str(tree)]
    parse = subprocess.run([*git, "rev-parse", "--verify", commit], capture_output=True, text=True, check=True)
    base, git = parse.stdout.strip(), [*git, "worktree"]
    subprocess.run([*git, "add", "--quiet", "--detach", str(folder / "tree"), commit], check=True)
    try:
        record(folder / "tree", folder / "old", base, cases, jobs)
    finally:
        subprocess.run([*git, "remove", "--force", str(folder / "tree")], check=True)
    record(tree, folder / "new", "", cases, jobs)
    if alike := compare(folder / "old", folder / "new", base, cases):
        shutil.rmtree(folder)
    else:
        print(f"Both recordings: {folder}")
    return alike


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="*", default=["HEAD"], help="COMMIT | record TREE OUT | compare OLD NEW")
    parser.add_argument("--only", nargs="+", metavar="CASE", choices=CASES, default=list(CASES))
    parser.add_argument("--jobs", type=int, default=2, help="processes that record (2)")
    parser.add_argument("--base", default="", metavar="COMMIT", help="whose names the old recording (or TREE) has")
    given = parser.parse_args()
    alike = True
    match given.what:
        case ["record", tree, out]:
            record(Path(tree).resolve(), Path(out).resolve(), given.base, given.only, given.jobs)
        case ["compare", old, new]:
            alike = compare(Path(old), Path(new), given.base, given.only)
        case ["work", source]:
            work(source, given.base, given.only)
        case [commit]:
            alike = prove(commit, given.only, given.jobs)
        case _:
            parser.error("give a commit, `record TREE OUT` or `compare OLD NEW`")
    sys.exit(not alike)


if __name__ == "__main__":
    main()
