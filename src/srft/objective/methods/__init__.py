"""The methods, by family. Importing this registers them."""

from srft.objective.methods.mixed import chord, hpt, luffy, relift, sasr, sft_rl, superrl, tapo, uft
from srft.objective.methods.preference import dpo
from srft.objective.methods.rl import dapo, dr_grpo, grpo, ppo, prime
from srft.objective.methods.sft import dft, gem, iw_sft, psft, rft, sft, sft_kl
from srft.objective.methods.srft import srft

__all__ = [
    "chord", "dapo", "dft", "dpo", "dr_grpo", "gem", "grpo", "hpt", "iw_sft", "luffy", "ppo", "prime", "psft",
    "relift", "rft", "sasr", "sft", "sft_kl", "sft_rl", "srft", "superrl", "tapo", "uft",
]  # fmt: skip
