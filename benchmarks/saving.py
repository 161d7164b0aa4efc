"""What a checkpoint costs a run, written at once and beside the training, and what its checksums cost.

    python benchmarks/saving.py --hidden 768 --layers 12 --steps 6 --every 2

A Qwen2 model with random weights is trained by SFT on the embedded problems. Shown are the seconds for which the
training stood still at each checkpoint but the last, which every run waits for, those of the whole training, and those
of the checksums of one checkpoint alone.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from statistics import median

from rich.console import Console
from transformers import AutoConfig, AutoModelForCausalLM

from srft import load_recipe, train
from srft.policy.load import ModelSettings, load_tokenizer
from srft.policy.manifest import damage
from srft.training.checkpoint_files import state_folder
from srft.training.loop import Loop


def main() -> None:
    """Train twice, and print a line for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hidden", type=int, default=768)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--every", type=int, default=2)
    parser.add_argument("--folder", default=None, help="on the disk to measure; the temporary one if left out")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as scratch:
        model = make_model(Path(scratch) / "model", arguments.hidden, arguments.layers)
        for behind in ("false", "true"):
            measure(Path(scratch) / f"run-{behind}", model, arguments.steps, arguments.every, behind)


def make_model(folder: Path, hidden: int, layers: int) -> Path:
    """A model with random weights and the embedded tokenizer."""
    tokenizer = load_tokenizer(ModelSettings(path="srft:model"))
    config = AutoConfig.for_model(
        "qwen2", hidden_size=hidden, intermediate_size=4 * hidden, num_hidden_layers=layers,
        num_attention_heads=hidden // 64, num_key_value_heads=hidden // 64, vocab_size=32_000,
    )  # fmt: skip
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def measure(out: Path, model: Path, steps: int, every: int, behind: str) -> None:
    """Train, and print what saving took."""
    recipe = load_recipe("quickstart", [
        "method.name=sft", f"model.path={model}", f"training.steps={steps}", f"training.checkpoint_every={every}",
        f"training.checkpoint_async={behind}", "training.prompts_per_step=4", "evaluation.sets={}",
        "training.device=cpu",
    ])  # fmt: skip
    seconds: list[float] = []
    save = Loop.save

    def timed(self: Loop, step: int, **options: bool) -> None:
        began = time.perf_counter()
        save(self, step, **options)
        seconds.append(time.perf_counter() - began)

    Loop.save = timed  # type: ignore[method-assign]
    began = time.perf_counter()
    run = train(recipe, out, console=Console(quiet=True))
    whole = time.perf_counter() - began
    Loop.save = save  # type: ignore[method-assign]
    folders = [run.directory.checkpoint, state_folder(run.directory.checkpoint)]
    size = sum(file.stat().st_size for folder in folders for file in folder.rglob("*") if file.is_file())
    began = time.perf_counter()
    assert not any(map(damage, folders))
    checking = time.perf_counter() - began
    step = median(row["step_time"] for row in run.metrics)
    print(
        f"checkpoint_async={behind}: {size / 2**30:.2f} GiB a checkpoint, stood still {median(seconds[:-1]):.2f} s, "
        f"step {step:.2f} s, whole run {whole:.1f} s, checksums {checking:.2f} s"
    )


if __name__ == "__main__":
    main()
