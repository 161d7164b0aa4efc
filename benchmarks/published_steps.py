"""Step times that others published beside what `srft plan` estimates for the same work: docs/planning.md's table.

python benchmarks/published_steps.py
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from srft.recipe.load import load_recipe
from srft.run.estimate import Estimate, estimate_on
from srft.run.sizing.hardware import GPUS
from srft.run.sizing.setup import Lengths

NEMO = "NeMo RL, performance summary v0.5"
VERL = "llm-d py-inference-scheduler, log of verl 0.7.1"
AMD = "AMD ROCm blog of 24 Apr 2025, verl 0.3"
GSM8K = (102, 290)  # tokens of prompt and response, means of verl's logs on GSM8K; the blog gives a throughput alone


@dataclass(frozen=True)
class Published:
    """A step as its source describes it.

    Args:
        prompts, n: of a step; prompt, response: mean tokens; limit: of a response; updates: of a step.
        seconds: published.
        calibrated: the efficiencies were fitted to it.
    """

    source: str
    work: str
    model: str
    gpu: str
    gpus: int
    prompts: int
    n: int
    prompt: float
    response: float
    limit: int
    updates: int
    seconds: float
    method: str = "grpo"
    tensor_parallel: int = 1
    calibrated: bool = False

    def estimate(self) -> Estimate:
        """Ours, on an FSDP engine with vLLM beside it, as these systems are."""
        changes = [
            f"model.path={self.model}", "model.config={}", f"method.name={self.method}", f"rollout.n={self.n}",
            f"rollout.max_response_length={self.limit}", f"training.prompts_per_step={self.prompts}",
            f"optim.updates_per_batch={self.updates}",
        ]  # fmt: skip
        changes += ["method.kl_weight=0.001"] if self.method == "grpo" else []
        lengths = Lengths(self.prompt, self.response, 0.0, round(self.prompt), None, "published")
        recipe = load_recipe("qwen2.5-math-7b-grpo", changes)
        size = estimate_on(recipe, lengths, GPUS[self.gpu], self.gpus, verl=True)
        return Estimate(replace(size.setup, tensor_parallel=self.tensor_parallel, gpu_memory=0.6))

    @property
    def ratio(self) -> float:
        """Our seconds over the published ones."""
        return sum(self.estimate().step.values()) / self.seconds


def gsm8k(model: str, gpu: str, n: int, limit: int, tokens_per_second: float, method: str) -> Published:
    """A row of the blog: 1024 prompts on 8 GPUs, tokens of prompts and responses a second and GPU."""
    seconds = 1024 * n * sum(GSM8K) / 8 / tokens_per_second
    work = f"7B {method.upper()}, GSM8K, 1024 × {n}"
    return Published(AMD, work, model, gpu, 8, 1024, n, *GSM8K, limit, 4, seconds, method, tensor_parallel=2)


LLAMA, QWEN3, QWEN2 = "meta-llama/Llama-3.1-8B", "Qwen/Qwen3-32B", "Qwen/Qwen2.5-7B"
PUBLISHED = [
    # Its model is not named; the reported utilisation (37 %) and token counts are those of 7B (Qwen2.5) on an H200.
    Published(VERL, "7B GRPO, GSM8K, 1024 × 8", QWEN2, "h200", 16, 1024, 8, 111, 424.5, 1024, 4, 93.5, calibrated=True),
    # Mean lengths are published of prompt and response together; prompts of OpenMathInstruct-2 are taken to be 150.
    Published(NEMO, "8B GRPO, 64 × 32", LLAMA, "h100-80", 16, 64, 32, 150, 869, 3946, 4, 92.8, calibrated=True),
    Published(NEMO, "8B GRPO, 64 × 32", LLAMA, "gb200", 8, 64, 32, 150, 916, 3946, 4, 91.0),
    Published(NEMO, "32B GRPO, 64 × 32", QWEN3, "h100-80", 32, 64, 32, 150, 3101, 3946, 4, 376, tensor_parallel=4),
    Published(NEMO, "32B GRPO, 64 × 32", QWEN3, "gb200", 16, 64, 32, 150, 3103, 3946, 4, 381),
    gsm8k(QWEN2, "h100-80", 5, 1024, 1544.30, "grpo"),
    gsm8k(QWEN2, "mi300x", 5, 1024, 1747.94, "grpo"),
    gsm8k(QWEN2, "h100-80", 1, 512, 907.24, "ppo"),
]


def main() -> None:
    """Print the table."""
    print("| source | work | GPUs | published (s) | ours (s) | ratio | of it sampling, scoring, training |")
    print("|---|---|---|---|---|---|---|")
    for row in PUBLISHED:
        step = row.estimate().step
        parts = ", ".join(f"{step.get(part, 0):.0f}" for part in ("sampling", "scoring", "training"))
        fitted = " (fitted)" if row.calibrated else ""
        print(
            f"| {row.source}{fitted} | {row.work} | {row.gpus} × {row.gpu} | {row.seconds:.0f} "
            f"| {sum(step.values()):.0f} | {row.ratio:.2f} | {parts} |"
        )


if __name__ == "__main__":
    main()
