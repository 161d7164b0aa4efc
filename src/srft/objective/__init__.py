"""The mathematics: flat tokens, the primitives on them, and the methods that read like their equations."""

from srft.objective.advantage import group_advantage
from srft.objective.methods import grpo, sft, sft_rl, srft
from srft.objective.registry import Method, Need, Terms, get_method, method, methods
from srft.objective.terms import (
    aggregate,
    clipped,
    entropy_weight,
    kl,
    luffy_shaping,
    mean_entropy,
    nll,
    policy_gradient,
)
from srft.objective.tokens import Responses, Tokens

__all__ = [
    "Method", "Need", "Responses", "Terms", "Tokens", "aggregate", "clipped", "entropy_weight", "get_method",
    "group_advantage", "grpo", "kl", "luffy_shaping", "mean_entropy", "method", "methods", "nll", "policy_gradient",
    "sft", "sft_rl", "srft",
]  # fmt: skip
