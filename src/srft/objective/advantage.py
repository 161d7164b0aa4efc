"""Advantages: how much better a response, or a token of it, is than what was to be expected; and their shaping."""

from __future__ import annotations

import torch
from torch import Tensor

from srft.objective.terms import response_mean
from srft.objective.tokens import Tokens


def group_advantage(t: Tokens, std: bool = True, eps: float = 1e-6, reward: Tensor | None = None) -> Tensor:
    """(S,) A = (r − mean) / std over the view's responses of each prompt (SRFT Eqs. 2, 7); 0 outside the view.

    On `t` the group holds demonstrations and rollouts together (Eq. 7), on `t.rollout` the rollouts alone (Eq. 2).
    The deviation is the unbiased one, as in verl and TRL; a group of one, or of equal rewards, has A = 0.
    `reward` (S,) takes the place of the verifier's score.
    """
    score = (t.responses.reward if reward is None else reward).double()
    group, n = _groups(t)
    mean = _sum(t, group, score, len(n)) / n.clamp(min=1)
    centred = torch.where(t.rows, score - mean[group], 0.0)
    if not std:
        return centred
    deviation = (_sum(t, group, centred**2, len(n)) / (n - 1).clamp(min=1)).sqrt()
    return centred / (deviation[group] + eps)


def leave_one_out(t: Tokens, x: Tensor) -> Tensor:
    """(S,) the mean of x (S,) over the other responses of the view to the same prompt; a lone one's own (RLOO)."""
    group, n = _groups(t)
    x = x.double()
    others = (_sum(t, group, x, len(n))[group] - x) / (n[group] - 1).clamp(min=1)
    return torch.where(n[group] > 1, others, x)


def right_rollouts(t: Tokens) -> Tensor:
    """(S,) how many rollouts of the same prompt are right, in the whole step."""
    rollout = t.rollout
    group, n = _groups(rollout)
    return _sum(rollout, group, t.responses.is_right.double(), len(n))[group]


def overlong_penalty(t: Tokens, buffer: float) -> Tensor:
    """(S,) 0 down to −1 over the last `buffer` share of the length limit (DAPO's soft overlong punishment)."""
    width = max(buffer * t.responses.limit, 1e-9)
    return ((t.responses.limit - width - t.responses.length.double()) / width).clamp(-1, 0)


def gae(t: Tokens, gamma: float = 1.0, lam: float = 1.0) -> Tensor:
    """(N,) Â_t = Σ_l (γλ)^l δ_{t+l}, δ_t = r_t + γV_{t+1} − V_t, V before the update, the reward at the last token."""
    assert t.value is not None, "the method must declare that it needs a critic"
    value = _padded(t, (t.value if t.old_value is None else t.old_value).detach())
    following = torch.cat([value[:, 1:], torch.zeros_like(value[:, :1])], 1)
    last = t.position == t.responses.length[t.row] - 1
    reward = _padded(t, torch.where(last, t.responses.reward.to(value.dtype)[t.row], 0.0))
    return _unpadded(t, discounted(reward + gamma * following - value, gamma * lam))


def process_advantage(t: Tokens, process: Tensor, gamma: float = 1.0) -> Tensor:
    """(N,) Σ_{s≥t} γ^{s−t} (r_φ(y_s) − mean of the others' r_φ) + r − mean of the others' r (PRIME), process rewards
    r_φ (N,); the others' mean is `responses.mean["process"]`'s."""
    others = leave_one_out(t, t.responses.mean["process"].detach()).to(process.dtype)[t.row]
    outcome = (t.responses.reward - leave_one_out(t, t.responses.reward)).to(process.dtype)[t.row]
    return _unpadded(t, discounted(_padded(t, process - others), gamma)) + outcome


def advantage_moments(t: Tokens, advantage: Tensor) -> dict[str, Tensor]:
    """(N,) float64 each: what `whitened` needs measured before the first update, the advantage (N,) and its squared
    deviation from its response's mean. E[a²] − E[a]² would cancel where the mean is large."""
    a = advantage.double()
    return {"advantage": a, "advantage_variance": (a - response_mean(t, a)) ** 2}


def whitened(t: Tokens, advantage: Tensor, eps: float = 1e-8) -> Tensor:
    """(N,) advantage less its mean over the step's tokens of the view, over its deviation: by `advantage_moments`, the
    variance within responses and between them, n/(n − 1) times their sum."""
    mean, n = t.step_mean("advantage"), t.token_count
    between = (t.responses.mean["advantage"].detach().double() - mean) ** 2
    variance = (t.step_mean("advantage_variance") + t.token_weighted_mean(between)) * n / (n - 1).clamp(min=1)
    return ((advantage.double() - mean) / (variance + eps).sqrt()).to(advantage.dtype)


def discounted(x: Tensor, discount: float) -> Tensor:
    """(R, L) Σ_{s≥t} discount^{s−t} x_s along each row."""
    total, sums = torch.zeros_like(x[:, 0]) if x.shape[1] else x.sum(1), []
    for column in reversed(x.unbind(1)):
        total = column + discount * total
        sums.append(total)
    return torch.stack(sums[::-1], 1) if sums else x


def ppl_shaping(t: Tokens, alpha: float = 0.01) -> Tensor:
    """(N,) A · clamp(1 − α·w, 0.8, 1.2) on rollouts, w the standardised −mean_t log π_old within a prompt's rollouts:
    confident responses count for more. Outliers past 1.5 interquartile ranges are left out of mean and deviation
    (exploration study, §4.3)."""
    table = t.responses
    w, surprise = torch.zeros_like(table.mean["logp"]), -table.mean["logp"].detach()
    for group in table.group[~table.is_demo].unique():
        rows = (table.group == group) & ~table.is_demo
        x = surprise[rows]
        low, high = x.quantile(0.25), x.quantile(0.75)
        inliers = x[(x >= low - 1.5 * (high - low)) & (x <= high + 1.5 * (high - low))]
        deviation = inliers.std(unbiased=False)
        w[rows] = (x - inliers.mean()) / torch.where(deviation > 1e-6, deviation, 1.0)
    return _required_advantage(t) * (1 - alpha * w).clamp(0.8, 1.2).to(t.logp.dtype)[t.row]


def position_shaping(t: Tokens, alpha: float = 0.1, steps: tuple[int, int] | None = None) -> Tensor:
    """(N,) A + sign(A)·min(α·σ(15(p − ½)), ½|A|) on rollouts, p = place/length: the end of a response
    counts for more (exploration study, §4.3). `steps`: only after the first and before the second (the released code's
    200 and 300 shape 201 to 299)."""
    a = _required_advantage(t)
    if steps is not None and not steps[0] < t.responses.step < steps[1]:
        return a
    p = t.position / t.responses.length[t.row]
    bonus = torch.minimum(alpha * torch.sigmoid(15 * (p - 0.5)).to(a.dtype), 0.5 * a.abs())
    return torch.where(t.responses.is_demo[t.row], a, a + a.sign() * bonus)


def _required_advantage(t: Tokens) -> Tensor:
    assert t.advantage is not None, "give the tokens an advantage first"
    return t.advantage


def _groups(t: Tokens) -> tuple[Tensor, Tensor]:
    """(S,) the prompt of each response as 0, 1, …, and (prompts,) how many of the view's responses each has."""
    _, group = torch.unique(t.responses.group, return_inverse=True)
    size = int(group.max()) + 1 if group.numel() else 0
    return group, _sum(t, group, torch.ones_like(group, dtype=torch.double), size)


def _sum(t: Tokens, group: Tensor, x: Tensor, size: int) -> Tensor:
    zeros = torch.zeros(size, dtype=torch.double, device=x.device)
    return zeros.index_add(0, group, torch.where(t.rows, x, 0.0))


def _padded(t: Tokens, x: Tensor) -> Tensor:
    """x (N,) as (R, L): a row for each response of the micro-batch, zeros after its end."""
    rows, inverse = t.row.unique(return_inverse=True)
    width = int(t.position.max()) + 1 if len(x) else 0
    return torch.zeros(len(rows), width, dtype=x.dtype, device=x.device).index_put((inverse, t.position), x)


def _unpadded(t: Tokens, padded: Tensor) -> Tensor:
    return padded[t.row.unique(return_inverse=True)[1], t.position]
