"""A method of one's own: SFT on demonstrations and clipped RL on rollouts, mixed by a schedule."""

from srft import Tokens, group_advantage, method
from srft.objective import Terms, clipped, nll


@method("half-half", needs={"demonstrations", "rollouts", "old_logp"}, source="docs/your-own-method.md")
def half_half(t: Tokens, *, mix: float = 0.5, fade: int = 0) -> Terms:
    """mix · SFT on demonstrations + (1 − mix) · clipped RL on rollouts; mix falls to 0 in `fade` steps."""
    if fade:
        mix *= max(1 - t.responses.step / fade, 0.0)
    t.observe("mix", t.logp.new_full(t.logp.shape, mix))
    rollout = t.rollout.with_advantage(group_advantage(t.rollout))
    return {"sft": mix * nll(t.demo), "rl": (1 - mix) * clipped(rollout)}
