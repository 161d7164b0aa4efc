"""The methods, by family. Importing this registers them."""

from srft.objective.methods.mixed import sft_rl, srft
from srft.objective.methods.rl import grpo
from srft.objective.methods.sft import sft

__all__ = ["grpo", "sft", "sft_rl", "srft"]
