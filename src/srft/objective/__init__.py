"""The mathematics: flat tokens, the primitives on them, and the methods that read like their equations."""

from srft.objective.advantage import (
    gae,
    group_advantage,
    leave_one_out,
    position_shaping,
    ppl_shaping,
    right_rollouts,
)
from srft.objective.coefficients import coefficients
from srft.objective.methods.mixed import sft_rl
from srft.objective.methods.rl import grpo
from srft.objective.methods.sft import sft
from srft.objective.methods.srft import srft
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
    response_mean,
)
from srft.objective.tokens import Responses, Tokens
from srft.objective.vocabulary import Quantity, branching_factor

__all__ = [
    "Method", "Need", "Quantity", "Responses", "Terms", "Tokens", "aggregate", "branching_factor", "clipped",
    "coefficients", "entropy_weight", "gae", "get_method", "group_advantage", "grpo", "kl", "leave_one_out",
    "luffy_shaping", "mean_entropy", "method", "methods", "nll", "policy_gradient", "position_shaping", "ppl_shaping",
    "response_mean", "right_rollouts", "sft", "sft_rl", "srft",
]  # fmt: skip
