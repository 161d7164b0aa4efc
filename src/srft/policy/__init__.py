"""The policy: loading it, cutting its batches, its log-probs and entropy."""

from srft.policy.batch import MicroBatch, Pair, cut, pad
from srft.policy.forward import Critic, Head, Policy
from srft.policy.load import load_config, load_model, load_tokenizer, pad_token, stop_tokens

__all__ = [
    "Critic", "Head", "MicroBatch", "Pair", "Policy", "cut", "load_config", "load_model", "load_tokenizer", "pad",
    "pad_token", "stop_tokens",
]  # fmt: skip
