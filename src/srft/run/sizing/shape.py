"""The sizes of a model that memory and time follow from, read off its config without allocating a weight."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig

from srft.policy.adapters import LoraSettings
from srft.policy.load import ModelSettings, change_config, load_config


@dataclass(frozen=True)
class Shape:
    """Sizes of a causal LM.

    Args:
        parameters: all of them, a tied head once.
        trainable: those that an optimizer updates: all, or LoRA's.
        adapters: parameters of LoRA of rank 1 on all linear layers.
        active: those that a token meets: fewer than all where there are experts.
        embedding: of the input embedding; the vocabulary head has as many.
        tied: the head is the input embedding.
        layers, hidden, vocabulary: their numbers.
        query, key_value: widths of the attention's projections.
        intermediate: width of a token's feed-forward layer, over all experts that it meets.
        query_norm: queries and keys are normalised, which keeps more for the backward pass.
    """

    parameters: int
    trainable: int
    adapters: int
    active: int
    embedding: int
    tied: bool
    layers: int
    hidden: int
    vocabulary: int
    query: int
    key_value: int
    intermediate: int
    query_norm: bool

    @property
    def body(self) -> int:
        """Parameters that a token's matrix products go through, without the head."""
        return self.active - self.embedding - (0 if self.tied else self.embedding)

    @property
    def layer(self) -> float:
        """Parameters of one layer, all experts."""
        return (self.parameters - self.embedding * (1 if self.tied else 2)) / self.layers

    @property
    def outside_layers(self) -> int:
        """Parameters of embedding and head."""
        return self.embedding * (1 if self.tied else 2)

    @property
    def cache(self) -> int:
        """Keys and values of one token, over all layers."""
        return 2 * self.layers * self.key_value


def shape_of(config: PretrainedConfig, lora: LoraSettings | None = None) -> Shape:
    """The sizes of a model of this config, with LoRA where it is asked for."""
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    model.tie_weights()
    text: Any = config.get_text_config()
    named = {name: p.numel() for name, p in model.named_parameters()}
    parameters = sum(named.values())
    chosen, experts = _experts(text)
    idle = sum(count for name, count in named.items() if ".experts." in name) * (1 - chosen / experts)
    heads = text.num_attention_heads
    head_width = getattr(text, "head_dim", None) or text.hidden_size // heads
    width = getattr(text, "moe_intermediate_size", None)
    return Shape(
        parameters=parameters,
        trainable=parameters if lora is None else lora.rank * _adapters(model, lora.target_modules),
        adapters=_adapters(model, "all-linear"),
        active=round(parameters - idle),
        embedding=model.get_input_embeddings().weight.numel(),
        tied=model.get_output_embeddings().weight is model.get_input_embeddings().weight,
        layers=text.num_hidden_layers,
        hidden=text.hidden_size,
        vocabulary=text.vocab_size,
        query=heads * head_width,
        key_value=(getattr(text, "num_key_value_heads", None) or heads) * head_width,
        intermediate=chosen * width if width else getattr(text, "intermediate_size", None) or 4 * text.hidden_size,
        query_norm=any("q_norm" in name for name in named),
    )


def count_parameters(config: PretrainedConfig) -> int:
    """Parameters of a model of this config, without allocating any."""
    return shape_of(config).parameters


def known_config(settings: ModelSettings) -> PretrainedConfig | None:
    """The config of a model of the hub that is listed here, with the settings' changes; None for any other. For plans
    on a machine that has not downloaded it."""
    if settings.path not in MODELS:
        return None
    values = {**MODELS[settings.path]}
    return change_config(AutoConfig.for_model(values.pop("model_type"), **values), settings)


def config_for_plan(settings: ModelSettings) -> PretrainedConfig:
    """The model's config from its folder or the local cache, else from the models that are listed here.

    Raises:
        SrftError: neither has it.
    """
    return known_config(settings) or load_config(settings)


def _experts(text: Any) -> tuple[int, int]:
    """Experts that a token meets, of how many."""
    names = ("num_experts", "num_local_experts", "n_routed_experts")
    experts = next((n for name in names if (n := getattr(text, name, None))), None)
    return (text.num_experts_per_tok, experts) if experts else (1, 1)


def _adapters(model: Any, targets: str | list[str]) -> int:
    """Parameters of LoRA of rank 1: a row and a column beside each linear layer that it targets."""
    head = model.get_output_embeddings()
    linear = {name: m for name, m in model.named_modules() if isinstance(m, nn.Linear) and m is not head}
    if isinstance(targets, list):
        linear = {name: m for name, m in linear.items() if name.rsplit(".")[-1] in targets}
    return sum(m.in_features + m.out_features for m in linear.values())


def _model(
    model_type: str, hidden: int, intermediate: int, layers: int, heads: int, key_values: int, vocabulary: int,
    tied: bool, **more: Any,
) -> dict[str, Any]:  # fmt: skip
    return {
        "model_type": model_type, "hidden_size": hidden, "intermediate_size": intermediate,
        "num_hidden_layers": layers, "num_attention_heads": heads, "num_key_value_heads": key_values,
        "vocab_size": vocabulary, "tie_word_embeddings": tied, "max_position_embeddings": 32768, **more,
    }  # fmt: skip


# Sizes as the models' config.json state them, for planning where they have not been downloaded.
_QWEN25 = {
    "0.5B": _model("qwen2", 896, 4864, 24, 14, 2, 151936, True),
    "1.5B": _model("qwen2", 1536, 8960, 28, 12, 2, 151936, True),
    "3B": _model("qwen2", 2048, 11008, 36, 16, 2, 151936, True),
    "7B": _model("qwen2", 3584, 18944, 28, 28, 4, 152064, False),
    "14B": _model("qwen2", 5120, 13824, 48, 40, 8, 152064, False),
    "32B": _model("qwen2", 5120, 27648, 64, 40, 8, 152064, False),
}
_QWEN3 = {
    "0.6B": _model("qwen3", 1024, 3072, 28, 16, 8, 151936, True, head_dim=128),
    "1.7B": _model("qwen3", 2048, 6144, 28, 16, 8, 151936, True, head_dim=128),
    "4B": _model("qwen3", 2560, 9728, 36, 32, 8, 151936, True, head_dim=128),
    "8B": _model("qwen3", 4096, 12288, 36, 32, 8, 151936, False, head_dim=128),
    "14B": _model("qwen3", 5120, 17408, 40, 40, 8, 151936, False, head_dim=128),
}
_LLAMA = {
    "meta-llama/Llama-3.2-1B": _model("llama", 2048, 8192, 16, 32, 8, 128256, True),
    "meta-llama/Llama-3.2-3B": _model("llama", 3072, 8192, 28, 24, 8, 128256, True),
    "meta-llama/Llama-3.1-8B": _model("llama", 4096, 14336, 32, 32, 8, 128256, False),
    "meta-llama/Llama-3.1-70B": _model("llama", 8192, 28672, 80, 64, 8, 128256, False),
}
MODELS: Mapping[str, dict[str, Any]] = {
    **{f"Qwen/Qwen2.5-{size}{kind}": shape for size, shape in _QWEN25.items() for kind in ("", "-Instruct")},
    **{f"Qwen/Qwen2.5-Math-{size}{kind}": _QWEN25[size] for size in ("1.5B", "7B") for kind in ("", "-Instruct")},
    **{f"Qwen/Qwen3-{size}{kind}": shape for size, shape in _QWEN3.items() for kind in ("", "-Base")},
    "Qwen/Qwen3-32B": _model("qwen3", 5120, 25600, 64, 64, 8, 151936, False, head_dim=128),
    **{f"{path}{kind}": shape for path, shape in _LLAMA.items() for kind in ("", "-Instruct")},
}
