"""The conditions of warnings: what in the rows of metrics.jsonl is trouble, each with its numbers and advice.

The limits lie between the healthy runs that were measured and those made to have the trouble (docs/reliability.md). A
condition sees rows of one stage: the first, and the last `MEMORY`. Where a method does not have a metric, its mean is
nan and the condition does not hold.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite, nan
from statistics import median
from typing import Any

from srft.training.metrics import GROSS_GAP, NOTICEABLE_GAP, SAMPLER_GAP

Rows = Sequence[Mapping[str, Any]]
Condition = Callable[[Rows], str]

WINDOW = 5  # steps that a mean is taken over: a single step of a small batch is noise
MANY = 20  # steps among which spikes are counted
MEMORY = 200  # steps that a condition looks back to, so that a step of a long run costs no more than one of a short run
SHARE = "gradient_share/"


@dataclass(frozen=True)
class Kind:
    """A warning that can be given.

    Args:
        condition: when it is given, in words.
        advice: which settings to change.
        seen: what of it the last of a stage's rows show; "" where the condition does not hold.
    """

    condition: str
    advice: str
    seen: Condition


KINDS: dict[str, Kind] = {}


def kind(name: str, condition: str, advice: str) -> Callable[[Condition], Condition]:
    """Make a warning known under a name."""

    def register(seen: Condition) -> Condition:
        KINDS[name] = Kind(condition, advice, seen)
        return seen

    return register


def _number(row: Mapping[str, Any], name: str) -> float:
    """A row's metric; nan where it has none."""
    value = row.get(name)
    return float(value) if isinstance(value, int | float) else nan


def _means(rows: Rows, name: str) -> list[float]:
    """Of each `WINDOW` rows that follow one another and have the metric."""
    numbers = [x for row in rows if isfinite(x := _number(row, name))]
    return [sum(numbers[i : i + WINDOW]) / WINDOW for i in range(len(numbers) - WINDOW + 1)]


def _mean(rows: Rows, name: str) -> float:
    """Over the last `WINDOW` rows; nan where there are not as many, or one of them has no such metric."""
    means = _means(rows[-WINDOW:], name)
    return means[-1] if means else nan


def _first(rows: Rows, name: str) -> float:
    """In the stage's first row that has it: of the model as it came in."""
    return next((x for row in rows if isfinite(x := _number(row, name))), nan)


def _fall(rows: Rows) -> str:
    """What the mean reward fell to, where that is below half of its best and the best above 0.1; else ""."""
    means, now = _means(rows, "reward"), _mean(rows, "reward")
    best = max(means[:-WINDOW], default=nan)
    return f"the reward fell from {best:.2f} to {now:.2f}" if best > 0.1 and now < best / 2 else ""


def _above(name: str, limit: float, text: str, beside: str = "") -> Condition:
    """The metric's mean of the last steps is at least so much; `text` says so with it at `{}`.

    Args:
        beside: another metric, without which the condition does not apply.
    """

    def seen(rows: Rows) -> str:
        mean = _mean(rows, name)
        return text.format(mean) if mean >= limit and (not beside or beside in rows[-1]) else ""

    return seen


FELL = f"the mean reward of 5 steps is below half of its best in the last {MEMORY}, which was above 0.1"


@kind(
    "sampler_mismatch",
    f"sampler and policy differ by more than {NOTICEABLE_GAP} nats a token (above {GROSS_GAP} the run ends)",
    "`rollout.correction: tis` corrects for it; `rollout.engine: transformers` has no difference.",
)
def _sampler_mismatch(rows: Rows) -> str:
    gap = _number(rows[-1], SAMPLER_GAP)
    return f"sampler and policy differ by {gap:.3f} nats a token" if gap > NOTICEABLE_GAP else ""


@kind(
    "skipped_updates",
    "an update of the last 5 steps was left out, as loss or gradient was not finite (after 5 in a row the run ends)",
    "Lower `optim.lr`; `training.precision: fp32`; look for outliers among the rewards.",
)
def _skipped_updates(rows: Rows) -> str:
    before = _number(rows[-1 - WINDOW], "skipped_updates") if len(rows) > WINDOW else 0.0
    new = _number(rows[-1], "skipped_updates") - before
    return f"{new:.0f} updates in {WINDOW} steps were left out: loss or gradient was not finite" if new > 0 else ""


@kind(
    "diverged",
    "the loss or the gradient norm is above 1000 and above 100 times the largest of the stage's steps before",
    "Lower `optim.lr` by a factor of 10 or more, and begin anew or from the last checkpoint before that step.",
)
def _diverged(rows: Rows) -> str:
    for name in ("loss", "grad_norm"):
        now = abs(_number(rows[-1], name))
        before = max((abs(_number(row, name)) for row in rows[:-1]), default=nan)
        if now > 1000 and now > 100 * before:
            return f"{name} is {now:.3g}, and was {before:.3g} at most"
    return ""


@kind(
    "grad_norm_spikes",
    "in 3 of the last 20 steps the gradient norm is above 10 times their median",
    "Lower `optim.lr` or `optim.max_grad_norm`, or take more `training.prompts_per_step`.",
)
def _grad_norm_spikes(rows: Rows) -> str:
    norms = [x for row in rows[-MANY:] if isfinite(x := _number(row, "grad_norm"))]
    usual = median(norms) if len(norms) == MANY else nan
    high = [norm for norm in norms if norm > 10 * usual]
    if len(high) < 3:
        return ""
    return f"the gradient norm was up to {max(high):.3g} in {len(high)} of {MANY} steps, its median is {usual:.3g}"


@kind(
    "reward_fell",
    FELL,
    "Lower `optim.lr`; `gradient_share/…` says which term drives; `training.best` keeps the model from before.",
)
def _reward_fell(rows: Rows) -> str:
    return _fall(rows)


@kind(
    "one_term_drives",
    f"one of several loss terms has 0.7 or more of the gradient in the mean of 5 steps, and {FELL}",
    "Lower `optim.lr`, or that term's weight. For srft: `method.rollout_signal: advantage`, or `method.wrong_floor: "
    "-5`, as SRFT's Eq. 12 has no bound on wrong rollouts.",
)
def _one_term_drives(rows: Rows) -> str:
    names = [name for name in rows[-1] if name.startswith(SHARE)]
    shares = {name.removeprefix(SHARE): _mean(rows, name) for name in names}
    fall = _fall(rows)
    largest = max(shares, key=lambda name: shares[name], default="")
    if len(shares) < 2 or not fall or not shares[largest] >= 0.7:
        return ""
    return f"`{largest}` has {shares[largest]:.0%} of the gradient, and {fall}"


@kind(
    "reward_stuck",
    "every rollout of the last 5 steps was wrong, or every one right",
    "All wrong: read rollouts/ (has it the form asked for, is it cut?), `verify.extract: last`, easier problems, SFT "
    "first. All right: harder problems.",
)
def _reward_stuck(rows: Rows) -> str:
    reward = _mean(rows, "reward")
    for name, word in (("frac_groups_all_wrong", "wrong"), ("frac_groups_all_correct", "right")):
        if _mean(rows, name) == 1.0:
            return f"every rollout of the last {WINDOW} steps was {word}, with a mean reward of {reward:.3g}"
    return ""


@kind(
    "no_signal",
    "in 0.8 or more of the groups, in the mean of 5 steps, all rollouts have the same reward",
    "More `rollout.n`, `hooks.refill.rounds: 4`, problems nearer to what the model can do, or a method that learns "
    "from demonstrations.",
)
def _no_signal(rows: Rows) -> str:
    share, right = _mean(rows, "frac_reward_zero_std"), _mean(rows, "frac_groups_all_correct")
    if not share >= 0.8:
        return ""
    return f"{share:.0%} of the groups have rollouts of one reward, whose advantage is 0; {right:.0%} are all right"


@kind(
    "entropy_collapse",
    "the mean entropy of rollouts over 5 steps is below 0.01 nats, or below a tenth of the stage's first step",
    "Lower `optim.lr`, `method.clip_high: 0.28`, `method.entropy_bonus: 0.001` or a higher `rollout.temperature`; "
    "fewer epochs of SFT before it.",
)
def _entropy_collapse(rows: Rows) -> str:
    now, first = _mean(rows, "entropy"), _first(rows, "entropy")
    return f"entropy is {now:.4f} nats a token, at first {first:.4f}" if now < max(0.01, first / 10) else ""


@kind(
    "entropy_explosion",
    f"the mean entropy of rollouts over 5 steps is 3 times that of the stage's first step, and {FELL} (or entropy is "
    "above 3 nats)",
    "Lower `optim.lr`. For srft: `method.rollout_signal: advantage` or `method.wrong_floor: -5`; take back an "
    "`entropy_bonus`.",
)
def _entropy_explosion(rows: Rows) -> str:
    now, first, fall = _mean(rows, "entropy"), _first(rows, "entropy"), _fall(rows)
    if not now > 3 * first or not (fall or now > 3):
        return ""
    return f"entropy is {now:.3f} nats a token, at first {first:.3f}" + (f", and {fall}" if fall else "")


kind(
    "truncated",
    "0.25 or more of the rollouts, in the mean of 5 steps, are cut at the length limit",
    "Raise `rollout.max_response_length`, or teach shorter answers by SFT first; `dapo` punishes length.",
)(_above("completions/clipped_ratio", 0.25, "{:.0%} of the rollouts are cut at the length limit"))
kind(
    "demonstrations_cut",
    "0.1 or more of the demonstrations, in the mean of 5 steps, are cut at the length limit",
    "Raise `rollout.max_response_length`, or `data.long_demonstrations: drop`: a cut one teaches not to end.",
)(_above("demo/clipped_ratio", 0.1, "{:.0%} of the demonstrations are cut at the length limit"))
kind(
    "demonstrations_wrong",
    "half or more of the demonstrations of a method with rollouts, in the mean of 5 steps, are graded wrong",
    "`verify.extract: last`, another `verify.grader`, or correct them: a method pushes them down as wrong.",
)(_above("demo/wrong", 0.5, "{:.0%} of the demonstrations are graded wrong", beside="reward"))
kind(
    "grader_timeouts",
    "0.01 or more of the rollouts, in the mean of 5 steps, were not graded in time, and count as wrong",
    "Raise `verify.timeout` or `verify.workers`; `srft grade` tries an answer that takes long.",
)(_above("verdict/timeout", 0.01, "{:.1%} of the rollouts were not graded in time"))
