"""Every metric of a training step, one entry each; `docs/metrics.md` is written from these entries.

A metric of responses is a function of the step's `ResponseFacts`, a metric of tokens one of a micro-batch's `Tokens`;
what other code measures is described here by `describe`. Names are TRL's where TRL has the metric.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean, stdev

import torch
from accelerate import Accelerator
from torch import Tensor

from srft.errors import SrftError
from srft.objective import Terms, Tokens
from srft.processes import gather
from srft.rollout.response import Response


@dataclass(frozen=True)
class Metric:
    """What a metric is.

    Args:
        name: in metrics.jsonl; `<…>` stands for a word that depends on the method.
        description: what it is, in one sentence.
        unit: of its value.
        trl: TRL's metric of that name says the same.
    """

    name: str
    description: str
    unit: str
    trl: bool


@dataclass(frozen=True)
class ResponseFacts:
    """What the metrics need of one response, as in `Response`; `length` in tokens. Gathered over all ranks."""

    group_id: int
    is_demo: bool
    reward: float
    verdict: str
    length: int
    truncated: bool
    is_learnt: bool = True
    rewards: Mapping[str, float | None] = field(default_factory=dict)


ResponseMetric = Callable[[Sequence[ResponseFacts]], float]
TokenMetric = Callable[[Tokens, Tensor], Tensor | None]

METRICS: dict[str, Metric] = {}
_OF_ROLLOUTS: dict[str, ResponseMetric] = {}
_OF_DEMOS: dict[str, ResponseMetric] = {}
_OF_TOKENS: dict[str, TokenMetric] = {}


def describe(name: str, description: str, unit: str = "", *, trl: bool = False) -> str:
    """Make a metric known that other code measures. Returns its name."""
    METRICS[name] = Metric(name, description, unit, trl)
    return name


def of_rollouts(
    name: str, description: str, unit: str = "", *, trl: bool = False
) -> Callable[[ResponseMetric], ResponseMetric]:
    """A metric of the step's rollouts; absent in a step without any."""

    def register(function: ResponseMetric) -> ResponseMetric:
        _OF_ROLLOUTS[describe(name, description, unit, trl=trl)] = function
        return function

    return register


def of_demonstrations(name: str, description: str, unit: str = "") -> Callable[[ResponseMetric], ResponseMetric]:
    """A metric of the step's demonstrations; absent in a step without any."""

    def register(function: ResponseMetric) -> ResponseMetric:
        _OF_DEMOS[describe(name, description, unit)] = function
        return function

    return register


def of_tokens(
    name: str, description: str, unit: str = "", *, trl: bool = False
) -> Callable[[TokenMetric], TokenMetric]:
    """A mean over tokens of the step: a function of a micro-batch's tokens and of the sampler's log-probs (N,), nan
    where none, that gives the values to average; None where it cannot be had."""

    def register(function: TokenMetric) -> TokenMetric:
        _OF_TOKENS[describe(name, description, unit, trl=trl)] = function
        return function

    return register


def metrics_page() -> str:
    """The table of docs/metrics.md, in Markdown."""
    lines = ["| metric | unit | what it is | in TRL |", "|---|---|---|---|"]
    for metric in METRICS.values():
        lines.append(f"| `{metric.name}` | {metric.unit} | {metric.description} | {'yes' if metric.trl else ''} |")
    return "\n".join(lines) + "\n"


def response_metrics(responses: Sequence[Response], accelerator: Accelerator) -> dict[str, float]:
    """The metrics of a step's responses over all ranks."""
    mine = [
        ResponseFacts(
            r.group_id, r.is_demo, r.reward, r.verdict.value, len(r.token_ids), r.truncated, r.is_learnt, r.rewards
        )
        for r in responses
    ]
    everyone: list[ResponseFacts] = gather(accelerator, mine)
    facts = [f for f in everyone if f.is_learnt]
    metrics: dict[str, float] = {"tokens": sum(f.length for f in everyone)}
    metrics |= _means_by_reward([f for f in everyone if not f.is_demo])
    for is_demo, chosen in ((False, _OF_ROLLOUTS), (True, _OF_DEMOS)):
        if some := [f for f in facts if f.is_demo == is_demo]:
            metrics |= {name: function(some) for name, function in chosen.items()}
    return metrics


class TokenSums:
    """Adds up, over the micro-batches of an update, what its metrics are made of."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor | float] = defaultdict(float)  # on the device until the update's end
        self._largest_gap: Tensor | float = 0.0

    def add(self, t: Tokens, terms: Terms, sampler_logprobs: Tensor | None, weight: Tensor | None = None) -> None:
        """A micro-batch's tokens and terms, with the sampler's log-probs where the policy that sampled is known, and
        the correction's `weight` (N,). The squares of a term's gradient in log π, H and what else the networks gave
        add up exactly over micro-batches, because every token is in one of them."""
        if sampler_logprobs is None:
            sampler_logprobs = torch.full_like(t.logp, torch.nan)
        given = [x for x in (t.logp, t.entropy, t.value, t.reward_logp, *t.vocabulary.values()) if x is not None]
        for name, term in terms.items():
            self._sums[f"loss/{name}"] += term.detach().double()
            parts = torch.autograd.grad(term, given, retain_graph=True, allow_unused=True)
            self._sums[f"squares/{name}"] += sum(g.square().sum().double() for g in parts if g is not None)
        for name, function in _OF_TOKENS.items():
            if (values := function(t, sampler_logprobs)) is not None:
                self._add(name, values.detach().sum().double(), len(values))
                if name == SAMPLER_GAP and len(values):
                    self._largest_gap = torch.as_tensor(self._largest_gap).to(values).maximum(values.max())
        for name, (total, count) in (t.record or {}).items():
            self._add(name if "/" in name else f"method/{name}", total, count)
        if weight is not None:
            sampled = ~torch.isnan(sampler_logprobs)
            self._add(IMPORTANCE_RATIO, torch.where(sampled, weight, 0.0).sum().double(), sampled.sum())

    def __iadd__(self, other: TokenSums) -> TokenSums:
        """With the sums of other micro-batches."""
        for name, value in other._sums.items():
            self._sums[name] += value
        self._largest_gap = max(self._largest_gap, other._largest_gap)
        return self

    def metrics(self, accelerator: Accelerator) -> dict[str, float]:
        """The update's metrics, the same on every rank."""
        names = sorted({name for rank in gather(accelerator, [sorted(self._sums)]) for name in rank})
        values = [torch.as_tensor(self._sums.get(n, 0.0), device=accelerator.device).double() for n in names]
        total = dict(zip(names, accelerator.reduce(torch.stack(values), "sum").tolist(), strict=True))
        metrics = {name: value for name, value in total.items() if name.startswith("loss/")}
        metrics["loss"] = sum(metrics.values())
        norms = {n.removeprefix("squares/"): v**0.5 for n, v in total.items() if n.startswith("squares/")}
        for name, norm in norms.items():
            metrics[f"gradient_share/{name}"] = norm / (sum(norms.values()) or 1.0)
        for name, count in total.items():
            if name.startswith("tokens/") and count:
                shown = name.removeprefix("tokens/")
                metrics[shown] = total[f"sum/{shown}"] / count
        if SAMPLER_GAP in metrics:
            metrics[LARGEST_SAMPLER_GAP] = max(gather(accelerator, [float(self._largest_gap)]))
        return metrics

    def _add(self, name: str, total: Tensor | float, count: Tensor | int) -> None:
        self._sums[f"sum/{name}"] += total
        self._sums[f"tokens/{name}"] += count


describe("step", "number of the step in the run, from 1")
describe("stage", "the recipe's stage that the step belongs to, from 1")
describe("learning_rate", "of the policy in this step's update", trl=True)
describe("loss", "the loss: the sum of its terms", trl=True)
describe("loss/<term>", "one term of the method's loss")
describe("gradient_share/<term>", "gradient norm of one term, in log π and H of the tokens, as a share of the sum")
describe("grad_norm", "gradient norm of the policy before clipping", trl=True)
describe("grad_norm/<network>", "the same of the critic or the reward model")
describe("skipped_updates", "updates left out so far because a gradient was not finite")
describe("warning/<name>", "1 in a step in which the warning of that name holds, else absent")
describe("method/<name>", "what the method shows of itself: a weight, a share; a mean over tokens")
describe("clip_ratio/region_mean", "share of tokens whose ratio is clipped", trl=True)


@of_rollouts("reward", "mean reward of the rollouts", trl=True)
def _reward(facts: Sequence[ResponseFacts]) -> float:
    return fmean(f.reward for f in facts)


describe("reward/<name>", "mean of one of several rewards, before its weight, over the rollouts that it applies to")
UNSCORED = describe("unscored", "share of rollouts that no reward applies to: they are not learnt from")


@of_rollouts("reward_std", "standard deviation of the rollouts' rewards", trl=True)
def _reward_std(facts: Sequence[ResponseFacts]) -> float:
    return stdev(f.reward for f in facts) if len(facts) > 1 else 0.0


@of_rollouts("frac_reward_zero_std", "share of groups whose rollouts all have the same reward: no signal", trl=True)
def _frac_reward_zero_std(facts: Sequence[ResponseFacts]) -> float:
    return fmean(len({f.reward for f in group}) == 1 for group in _groups(facts))


@of_rollouts("frac_groups_all_correct", "share of groups whose rollouts are all right")
def _frac_groups_all_correct(facts: Sequence[ResponseFacts]) -> float:
    return fmean(all(f.verdict == "right" for f in group) for group in _groups(facts))


@of_rollouts("frac_groups_all_wrong", "share of groups whose rollouts are all wrong")
def _frac_groups_all_wrong(facts: Sequence[ResponseFacts]) -> float:
    return fmean(all(f.verdict != "right" for f in group) for group in _groups(facts))


@of_rollouts("completions/mean_length", "mean length of the rollouts", "tokens", trl=True)
def _mean_length(facts: Sequence[ResponseFacts]) -> float:
    return fmean(f.length for f in facts)


@of_rollouts("completions/max_length", "length of the longest rollout", "tokens", trl=True)
def _max_length(facts: Sequence[ResponseFacts]) -> float:
    return max(f.length for f in facts)


@of_rollouts("completions/clipped_ratio", "share of rollouts cut at the length limit", trl=True)
def _clipped_ratio(facts: Sequence[ResponseFacts]) -> float:
    return fmean(f.truncated for f in facts)


@of_rollouts("verdict/unparsable", "share of rollouts in which the grader could read no answer")
def _unparsable(facts: Sequence[ResponseFacts]) -> float:
    return fmean(f.verdict == "unparsable" for f in facts)


@of_rollouts("verdict/timeout", "share of rollouts that the grader could not decide in time")
def _timeout(facts: Sequence[ResponseFacts]) -> float:
    return fmean(f.verdict == "timeout" for f in facts)


@of_demonstrations("demo/reward", "mean reward of the demonstrations")
def _demo_reward(facts: Sequence[ResponseFacts]) -> float:
    return fmean(f.reward for f in facts)


@of_demonstrations("demo/mean_length", "mean length of the demonstrations", "tokens")
def _demo_mean_length(facts: Sequence[ResponseFacts]) -> float:
    return fmean(f.length for f in facts)


@of_demonstrations("demo/wrong", "share of demonstrations that are not graded right")
def _demo_wrong(facts: Sequence[ResponseFacts]) -> float:
    return fmean(f.verdict != "right" for f in facts)


@of_demonstrations("demo/clipped_ratio", "share of demonstrations cut at the length limit")
def _demo_clipped_ratio(facts: Sequence[ResponseFacts]) -> float:
    return fmean(f.truncated for f in facts)


@of_tokens("entropy", "entropy of the policy over the vocabulary, on rollouts", "nats", trl=True)
def _entropy(t: Tokens, sampler_logprobs: Tensor) -> Tensor:
    return t.rollout.entropy


@of_tokens("entropy/demo", "the same on demonstrations", "nats")
def _entropy_demo(t: Tokens, sampler_logprobs: Tensor) -> Tensor:
    return t.demo.entropy


@of_tokens("entropy/correct", "the same on right rollouts", "nats")
def _entropy_correct(t: Tokens, sampler_logprobs: Tensor) -> Tensor:
    return t.rollout.correct.entropy


@of_tokens("entropy/wrong", "the same on wrong rollouts", "nats")
def _entropy_wrong(t: Tokens, sampler_logprobs: Tensor) -> Tensor:
    return t.rollout.wrong.entropy


@of_tokens("approx_kl", "estimate of KL(π_old‖π) on rollouts: mean of ρ − 1 − log ρ; with several updates", "nats")
def _approx_kl(t: Tokens, sampler_logprobs: Tensor) -> Tensor | None:
    rollout = t.rollout
    if rollout.old_logp is None:
        return None
    log_ratio = (rollout.logp - rollout.old_logp).detach()
    return log_ratio.exp() - 1 - log_ratio


SAMPLER_GAP = "sampling/sampling_logp_difference/mean"


@of_tokens(SAMPLER_GAP, "difference of the sampler's and the policy's log-prob of a sampled token", "nats", trl=True)
def _sampler_gap(t: Tokens, sampler_logprobs: Tensor) -> Tensor | None:
    sampled = ~torch.isnan(sampler_logprobs)
    policy = t.logp if t.old_logp is None else t.old_logp  # the policy that sampled
    return (policy.detach() - sampler_logprobs)[sampled].abs()


LARGEST_SAMPLER_GAP = describe(
    "sampling/sampling_logp_difference/max", "the largest of these differences", "nats", trl=True
)

IMPORTANCE_RATIO = describe(
    "sampling/importance_sampling_ratio/mean", "mean weight of the tokens under `rollout.correction`", trl=True
)
NOTICEABLE_GAP, GROSS_GAP = 0.05, 0.5  # nats a token, in the mean


def combined(name: str, values: Sequence[float]) -> float:
    """A step's metric of those of its updates: their mean, the largest of largest ones, the last of a running count."""
    if name == LARGEST_SAMPLER_GAP:
        return max(values)
    return values[-1] if name == "skipped_updates" else fmean(values)


def check_sampler(metrics: Mapping[str, float]) -> None:
    """Raises SrftError where sampler and policy are not the same model."""
    if metrics.get(SAMPLER_GAP, 0.0) > GROSS_GAP:
        raise SrftError(
            f"the sampler's log-probs differ from the policy's by {metrics[SAMPLER_GAP]:.2f} nats a token",
            where="rollout.engine",
            fix="It samples from another model. Compare its config and weights, or use rollout.engine: transformers.",
        )


describe("rewards/<name>", "TRL's, of a stage that it trains on preference pairs", trl=True)
describe("logps/<name>", "the same", "nats", trl=True)
describe("logits/<name>", "the same", trl=True)
describe("mean_token_accuracy", "the same", trl=True)
describe("num_tokens", "the same: tokens so far", "tokens", trl=True)

describe("tokens", "response tokens of the step, demonstrations' included", "tokens")
describe("tokens_per_second", "these by the step's duration", "tokens/s")
describe("step_time", "duration of the step", "s", trl=True)
describe("seconds/collect", "sampling and grading", "s")
describe("seconds/update", "everything between sampling and reporting", "s")
describe("steps_left", "steps of the stage that follow")
describe("seconds_left", "to the stage's end, at the pace of the last ten steps and of the last evaluation", "s")


def _groups(facts: Sequence[ResponseFacts]) -> list[list[ResponseFacts]]:
    groups: Mapping[int, list[ResponseFacts]] = defaultdict(list)
    for f in facts:
        groups[f.group_id].append(f)
    return list(groups.values())


def _means_by_reward(rollouts: Sequence[ResponseFacts]) -> dict[str, float]:
    """The mean of each of several rewards over the rollouts that it applies to; absent where it applies to none."""
    given: Mapping[str, list[float]] = defaultdict(list)
    for f in rollouts:
        for name, reward in f.rewards.items():
            if reward is not None:
                given[f"reward/{name}"].append(reward)
    if not any(f.rewards for f in rollouts):
        return {}
    means = {name: fmean(rewards) for name, rewards in given.items()}
    return means | {UNSCORED: fmean(not f.is_learnt for f in rollouts)}
