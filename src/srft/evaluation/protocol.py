"""How the papers evaluate: sampling, lengths, templates, samples per problem."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from srft.data import TEMPLATES
from srft.errors import SrftError, did_you_mean
from srft.evaluation.benchmarks import Choice


@dataclass(frozen=True)
class Protocol:
    """Sampling settings.

    Args:
        temperature: 0 is greedy.
        max_response_length: tokens.
        template: of the prompts.
        grader: of mathematical answers, "math" or "oat".
        samples: of each problem, where the user asks for a number; else each benchmark's own.
        extract: which answer counts: the `boxed` one alone, or failing that the `last` one that is stated.
    """

    name: str
    temperature: float
    top_p: float
    max_response_length: int
    template: str
    samples: int | None = None
    extract: str = "boxed"
    grader: str = "math"

    def samples_of(self, choice: Choice) -> int:
        if asked := choice.samples or self.samples:
            return asked
        return choice.benchmark.samples.get(self.name, 1) if choice.benchmark else 1

    def length_of(self, choice: Choice) -> int:
        """Tokens: a benchmark's own limit in this protocol, if it has one, unless the user gave a lower one."""
        own = choice.benchmark.max_response_length.get(self.name) if choice.benchmark else None
        return min(own, self.max_response_length) if own else self.max_response_length

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


PROTOCOLS: Mapping[str, Protocol] = {
    "srft": Protocol("srft", 0.6, 1.0, 8192, "srft"),  # SRFT §5.1, App. B; its templates are Figs. A3, A4
    "psft": Protocol("psft", 0.7, 0.95, 10240, "qwen-math"),  # PSFT §4.1.2; its system prompt (A.2) says the same
}


def make_protocol(name: str, **changes: Any) -> Protocol:
    """A preset with changes; those that are None leave the preset's value.

    Raises:
        SrftError: unknown protocol or template, or a value out of range.
    """
    if name not in PROTOCOLS:
        raise SrftError(f"unknown protocol '{name}'", where="--protocol", fix=did_you_mean(name, PROTOCOLS))
    protocol = Protocol(**{**asdict(PROTOCOLS[name]), **{k: v for k, v in changes.items() if v is not None}})
    if protocol.template not in TEMPLATES:
        raise SrftError(
            f"unknown template '{protocol.template}'",
            where="--template",
            fix=did_you_mean(protocol.template, TEMPLATES),
        )
    for option, good in {
        "grader": protocol.grader in ("math", "oat"),
        "extract": protocol.extract in ("boxed", "last"),
        "temperature": protocol.temperature >= 0,
        "top-p": 0 < protocol.top_p <= 1,
        "max-length": protocol.max_response_length > 0,
        "samples": protocol.samples is None or protocol.samples > 0,
    }.items():
        if not good:
            raise SrftError("out of range", where=f"--{option}", fix="See `srft eval --help`.")
    return protocol
