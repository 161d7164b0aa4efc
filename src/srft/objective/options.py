"""What the options of the package's methods mean, one line a name: an option of one name means the same everywhere, and
where it does not, the line stands under `method.option`."""

from __future__ import annotations

from collections.abc import Mapping

OPTIONS: Mapping[str, str] = {
    "advantage_std": "A is divided by the group's standard deviation (GRPO), or is r − mean alone (Dr. GRPO)",
    "aggregation": "what the sum over tokens is divided by: the tokens, each response's tokens and then the responses "
    "(SRFT Eq. 3), the responses, or responses times the length limit (Dr. GRPO)",
    "clip": "ε of the clipped ratio, on both sides (PPO: 0.2)",
    "clip_low": "ε below 1 of the clipped ratio (SRFT Eq. 3: 0.2)",
    "clip_high": "ε above 1 of the clipped ratio (SRFT Eq. 3: 0.2; DAPO: 0.28)",
    "psft.clip_low": "ε below 1 of the clipped ratio π/π_old on demonstrations (PSFT Tables 6, 8: 0.28)",
    "psft.clip_high": "ε above 1 of the clipped ratio π/π_old on demonstrations (PSFT Tables 6, 8: 0.28)",
    "dual_clip": "bound on the ratio where A is negative (10)",
    "entropy_bonus": "weight of the mean entropy, which is maximised; 0 leaves it out (LUFFY's code: 0.001)",
    "max_prob": "no gradient on tokens whose π exceeds it (SRFT App. A.2: 0.5, 0.8, 0.9); null: on all",
    "sft_aggregation": "as `aggregation`, of the supervised term",
    "srft.sft_aggregation": "as `aggregation`, of Eq. 8 alone; null: as the others",
    "rl_aggregation": "as `aggregation`, of the RL term",
    # SRFT
    "scale_sft": "constant before exp(−H) of the supervised term (Eq. 8: 0.5; the Chinese paper: 1)",
    "scale_rl": "constant before exp(+H) of right rollouts (Eq. 12: 0.1; the Chinese paper: 1)",
    "weight_sft": "one: the ablation of Table 3, the supervised term unweighted",
    "weight_rl": "one: the ablation of Table 3, right rollouts unweighted",
    "entropy_scope": "what H is the mean of: a response, the whole batch, or the token alone (left open by the paper)",
    "entropy_cap": "bound on H inside exp (nats); null: none (ours)",
    "rollout_signal": "binary: Eq. 12 as printed; advantage: the group's A and the clipped ratio in its place",
    "rollout_count": "what Eq. 12 is divided by: each of its terms' own count, the joint one of all rollouts, or all "
    "responses (the preset hpt)",
    "demo_shaping": "ratio of Eq. 9: π, or luffy: π/(π + shaping_gamma)",
    "shaping_gamma": "γ of that shaping (LUFFY: 0.1)",
    "srft.clip": "ε of the clipped ratio with rollout_signal: advantage (Eq. 3: 0.2)",
    "wrong_floor": "no gradient on wrong tokens whose log π is below it (nats); null: on all (ours)",
    # others
    "gem.beta": "temperature of q = softmax(logits/β) (GEM: 0.7)",
    "dpo.beta": "strength of the KL constraint (PSFT Table 9: 0.01)",
    "prime.beta": "scale of the implicit reward β·log(π_φ/π_ref) (PRIME: 0.05)",
    "kl_weight": "weight of the KL to the base model; 0 leaves it out",
    "sft-kl.kl_weight": "λ (SRFT App. B: 0.2; 0.1 in the Chinese paper, 0.5 in PSFT's)",
    "uft.kl_weight": "weight of the KL to the base model (UFT: 0.001)",
    "max_weight": "bound on a response's weight (iw-SFT: 16)",
    "luffy.gamma": "γ of f(x) = x/(x + γ) (LUFFY: 0.1)",
    "ppo.gamma": "discount of GAE (Open-Reasoner-Zero: 1)",
    "prime.gamma": "discount of the process rewards (1)",
    "sasr.gamma": "γ in the probability of an SFT step (ours, as none could be read)",
    "lam": "λ of GAE (Open-Reasoner-Zero: 1)",
    "value_clip": "range in which the value may change in an update (0.2, as `clip`)",
    "whiten": "A is whitened over the batch (Open-Reasoner-Zero)",
    "overlong_buffer": "share of the length limit in which the reward falls by up to 1 (4096 of 20480 in the paper)",
    "sft_weight": "weight of the supervised term",
    "rl_weight": "weight of the RL term",
    "gate": "SFT where at most so many rollouts are right (HPT: 0 for Qwen, 2 for Llama)",
    "hint_weight": "weight of the cross-entropy on the hint (UFT: 0.001)",
    "warmup_steps": "SFT steps at first (ours, as none could be read)",
    "mu": "constant μ in place of the schedule (0.1 with φ); null: the schedule",
    "mu_peak": "μ at the schedule's beginning (CHORD: 0.9)",
    "mu_low": "μ at its end (CHORD: 0.05)",
    "mu_warmup": "steps in which μ rises to mu_peak",
    "mu_steps": "steps in which μ falls to mu_low as a cosine (CHORD: 200)",
    "phi": "SFT is weighted by sg(p(1−p)) (CHORD-φ)",
}


def option_meaning(method: str, option: str) -> str:
    """What an option of a method means; empty for one that is not the package's."""
    return OPTIONS.get(f"{method}.{option}", OPTIONS.get(option, ""))
