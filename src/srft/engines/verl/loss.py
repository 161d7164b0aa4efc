"""A method as the loss function of verl's workers, called on every micro-batch of every rank."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from srft.engines.verl.batch import at_responses
from srft.objective import Tokens, get_method
from srft.objective.correction import weighted_gradient
from srft.training.metrics import TokenSums

GIVEN = ("old_logp", "ref_logp")
SUMS = "srft"  # the one metric that is handed to verl: what all of ours are made of


@dataclass(frozen=True)
class Loss:
    """The sum of a method's terms.

    Args:
        name, file: of the method, as in a recipe.
        options: all of the method's.
        shaping: of every advantage.
        correct: weights of the tokens' gradients from the log-probs of policy and sampler; None for no correction.
    """

    name: str
    file: str | None
    options: Mapping[str, Any]
    shaping: tuple[Callable[[Tokens], Tensor], ...] = ()
    correct: Callable[[Tensor, Tensor], Tensor] | None = None

    def __call__(
        self,
        model_output: Mapping[str, Tensor] = {},
        data: Any = None,
        dp_group: Any = None,
        *,
        student_logits: Any = None,
    ) -> Any:
        """The loss and what its metrics are made of. verl averages gradients over ranks, while the terms are shares of
        one sum over ranks: hence `dp_size`.

        Asked first with the logits (1, M, V) of all M tokens, where the method wants quantities of the whole
        vocabulary: verl's own use of that call is distillation. Then it gives these, (1, M) by name.
        """
        if student_logits is not None:
            return self.quantities(student_logits)
        t, sampler_logprobs = self.tokens(model_output, data)
        weight = None
        if self.correct is not None:
            policy = t.logp if t.old_logp is None else t.old_logp  # the policy that sampled
            weight = self.correct(policy.detach(), sampler_logprobs)
        terms = get_method(self.name, self.file)(t if weight is None else weighted_gradient(t, weight), **self.options)
        sums = TokenSums()
        sums.add(t, terms, sampler_logprobs, weight)
        return torch.stack(list(terms.values())).sum() * data["dp_size"], {SUMS: sums}

    def quantities(self, logits: Tensor) -> dict[str, Tensor]:
        """What the method asks of the whole vocabulary, (1, M) by name, of logits (1, M, V)."""
        logp = logits[0].float().log_softmax(-1)
        asked = get_method(self.name, self.file).vocabulary
        return {name: quantity(logp, None, self.options)[None] for name, quantity in asked.items()}

    def tokens(self, model_output: Mapping[str, Tensor], data: Any) -> tuple[Tokens, Tensor]:
        """The response tokens of a micro-batch, and the sampler's log-probs of them (N,), nan where none."""
        device = model_output["log_probs"].device
        lengths = data["loss_mask"].offsets().diff()
        kept = data["loss_mask"].values().bool()
        row = data["row"].repeat_interleave(lengths)[kept]
        flat = {k: at_responses(x, lengths)[kept].float() for k, x in model_output.items()}
        given: dict[str, Any] = {name: data[name].values()[kept] for name in GIVEN if name in data}
        table = data["table"].to(device)
        logp, entropy = flat.pop("log_probs"), flat.pop("entropy")
        t = Tokens(logp, entropy, row, table, vocabulary=flat, shaping=self.shaping, record={}, **given)
        return t, data["sampler_logprobs"].values()[kept]
