"""What one algorithm alone needs of a step: the buffer, refilling, the choice, and a hook of the user's own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
from accelerate import Accelerator

from srft import Run, get_method, load_recipe, methods, train
from srft.data import Demonstration, Problem, Prompt
from srft.objective.registry import Method, Need
from srft.rollout.response import Group, Response
from srft.training.collect import CollectedStep, Draw
from srft.training.hooks import Hook, HookContext, hook_types, make_hooks
from srft.training.hooks.buffer import Buffer
from srft.training.hooks.choice import Choice
from srft.training.hooks.refill import Refill
from srft.verify.grade import Verdict

SMALL = [
    "training.steps=3", "training.prompts_per_step=2", "training.tokens_per_micro_batch=1500", "training.device=cpu",
    "rollout.n=2", "rollout.max_response_length=160", "evaluation.sets={}", "data.limit=32",
]  # fmt: skip
PROMPTS = [Prompt(Problem(f"prompt {i}", str(i)), (i,), demonstrations=(Demonstration((i, 2)),)) for i in range(40)]
ROLLOUTS: frozenset[Need] = frozenset({"rollouts"})


def context(**values: Any) -> HookContext:
    defaults = {
        "method": get_method("grpo"), "method_options": {}, "make_updater": lambda method, lr: None, "collector": None,
        "batcher": None, "accelerator": Accelerator(cpu=True), "prompts": PROMPTS, "demonstrations": 1, "seed": 0,
        "first_step": 0,
    }  # fmt: skip
    return HookContext(**defaults | values)


def responses(group: Group, rewards: Sequence[float]) -> list[Response]:
    return [
        Response(
            group.group_id,
            group.prompt,
            [7, 2],
            is_demo=False,
            truncated=False,
            text="",
            reward=reward,
            verdict=Verdict.RIGHT if reward >= 1 else Verdict.WRONG,
        )
        for reward in rewards
    ]


def step(first: int, *rewards: Sequence[float]) -> CollectedStep:
    """Groups of these rewards, of the prompts from `first` on."""
    groups = [Group(i, PROMPTS[first + i]) for i in range(len(rewards))]
    return CollectedStep(groups, [r for g, x in zip(groups, rewards, strict=True) for r in responses(g, x)], ROLLOUTS)


class Source:
    """Draws groups of which every `every`-th has a right and a wrong rollout, the others two equal ones."""

    def __init__(self, every: int) -> None:
        self.every, self.drawn, self.asked = every, 0, []

    def __call__(self, count: int) -> CollectedStep:
        self.asked.append(count)
        groups = [Group(self.drawn + i, PROMPTS[(self.drawn + i) % 40]) for i in range(count)]
        self.drawn += count
        rewards = {g.group_id: (1, 0) if g.group_id % self.every == 0 else (g.group_id % 2,) * 2 for g in groups}
        return CollectedStep(groups, [r for g in groups for r in responses(g, rewards[g.group_id])], ROLLOUTS)


def test_refill_replaces_groups_without_signal() -> None:
    refill, source = Refill(Refill.Options(rounds=10), context()), Source(every=3)
    collected = refill.collect(source, 4, ROLLOUTS)
    assert [g.group_id for g in collected.groups] == [0, 3, 6, 9]
    assert source.asked == [4, 2, 2, 1, 1]  # as many as are missing
    by_group = Counter(r.group_id for r in collected.responses)
    assert by_group == {0: 2, 3: 2, 6: 2, 9: 2}
    assert refill.after_update(1, collected, {}) == {"groups": 4, "groups_drawn": 10}


def test_refill_gives_up_after_its_rounds() -> None:
    refill, source = Refill(Refill.Options(rounds=2), context()), Source(every=4)
    collected = refill.collect(source, 4, ROLLOUTS)
    assert source.asked == [4, 3, 2]
    assert [g.group_id for g in collected.groups] == [0, 4, 8]
    assert refill.after_update(1, collected, {}) == {"groups": 3, "groups_drawn": 9}


def test_refill_leaves_steps_without_rollouts_alone() -> None:
    refill, source = Refill(Refill.Options(rounds=2), context()), Source(every=4)
    collected = refill.collect(source, 4, frozenset({"demonstrations"}))
    assert len(collected.groups) == 4
    assert source.asked == [4]
    assert refill.after_update(1, collected, {}) == {"groups": 4, "groups_drawn": 4}


class Learner:
    """In place of collector, batcher and updater: notes which prompts an update is made of."""

    policy = "the policy"

    def __init__(self) -> None:
        self.updates: list[list[int]] = []

    def demonstrations(self, groups: Sequence[Group], per_group: int) -> list[int]:
        return [PROMPTS.index(g.prompt) for g in groups]

    def make(self, demonstrations: list[int], step: int) -> list[int]:
        return demonstrations

    def update(self, batch: list[int]) -> dict[str, float]:
        self.updates.append(batch)
        return {"loss": 0.5, "grad_norm": 2.0}


def test_the_buffer_learns_the_newest_failed_prompts() -> None:
    learner = Learner()
    asked: list[Any] = []

    def make_updater(method: str, lr: float | None) -> Any:
        asked.append((method, lr))
        return learner

    options = Buffer.Options(size=3, lr=0.25)
    buffer = Buffer(options, context(make_updater=make_updater, collector=learner, batcher=learner))
    assert asked == [("sft", 0.25)]
    assert buffer.networks() == {"buffer": "the policy"}
    assert buffer.after_update(1, step(0, (0, 0), (1, 0), (0, 0.5), (1, 1)), {}) == {"buffer/size": 2}
    assert learner.updates == []
    assert buffer.after_update(2, step(10, (0, 0), (0, 0)), {}) == {
        "buffer/size": 1,
        "buffer/loss": 0.5,
        "buffer/grad_norm": 2.0,
    }
    assert learner.updates == [[10, 11, 0]]
    assert buffer.after_update(3, step(20, (1, 1)), {}) == {"buffer/size": 1}
    again = Buffer(options, context(make_updater=make_updater, collector=learner, batcher=learner))
    again.load_state(buffer.state())
    assert again.after_update(4, step(30, (0, 0), (0, 0)), {})["buffer/size"] == 0
    assert learner.updates[-1] == [30, 31, 2]


def test_the_buffers_optimizer_has_a_rate_of_its_own(tmp_path: Path) -> None:
    """With a rate of 0 in effect the buffer's updates change nothing; with its own rate they do."""
    words = ["method.name=relift", "hooks.buffer.size=1", "rollout.n=1", "optim.lr=1e-9"]
    runs = [
        train(load_recipe("quickstart", [*SMALL, *words, *own]), tmp_path / str(i))
        for i, own in enumerate(([], ["hooks.buffer.lr=1e-2"]))
    ]
    first, second = ([row["buffer/loss"] for row in run.metrics if "buffer/loss" in row] for run in runs)
    assert first[0] == second[0]
    assert len(second) > 1
    assert second[-1] < first[-1] - 0.05


def test_choice_asks_the_method(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []

    def chooses(options: Mapping[str, Any], step: int, history: Any, draw: float) -> frozenset[Need]:
        calls.append((options, step, history, draw))
        return frozenset({"demonstrations"} if draw < 0.5 else {"rollouts"})

    both = frozenset({"demonstrations", "rollouts"})
    method = SimpleNamespace(
        chooses=chooses, defaults=lambda options: {"option": 1} | dict(options), needs=lambda options: both
    )
    assert Choice.declared_by(method)
    assert not Choice.declared_by(get_method("grpo"))
    history = [{"loss": 1.0}]
    early, late = (Choice(None, context(method=method, method_options={"other": 2}, first_step=n)) for n in (0, 5))
    chosen = [early.needs(step, ROLLOUTS, history) for step in range(1, 41)]
    assert set(chosen) == {frozenset({"demonstrations"}), frozenset({"rollouts"})}
    assert {"means", "rollouts"} in [early.needs(n, both | {"means"}, history) for n in range(1, 9)]  # the recipe's own
    assert calls[0][:3] == ({"option": 1, "other": 2}, 1, history)
    assert all(0 <= draw < 1 for *_, draw in calls)
    assert [late.needs(step, ROLLOUTS, history) for step in range(1, 36)] == chosen[5:]  # the run's step decides


NEEDS_THE_HOOK = "hooked-for-test"


class CountingHook(Hook):
    """Stands in a test alone: draws one group fewer, counts its steps, and is asked for by one method."""

    name: ClassVar[str] = "counting-for-test"

    def __init__(self, options: Any, context: HookContext) -> None:
        self.steps = 0

    @staticmethod
    def declared_by(method: Method) -> bool:
        return method.name == NEEDS_THE_HOOK

    def collect(self, draw: Draw, count: int, needs: frozenset[Need]) -> CollectedStep:
        return draw(count - 1)

    def after_update(self, step: int, collected: CollectedStep, metrics: Mapping[str, float]) -> dict[str, float]:
        self.steps += 1
        return {"counted": self.steps, "groups_seen": len(collected.groups)}

    def state(self) -> dict[str, Any]:
        return {"steps": self.steps}

    def load_state(self, state: Mapping[str, Any]) -> None:
        self.steps = state["steps"]


def test_hooks_come_from_the_recipe_or_the_method() -> None:
    assert {"buffer", "choice", "refill", CountingHook.name} <= set(hook_types())

    def names(recipe_hooks: dict[str, Any], method: str) -> list[str]:
        settings = load_recipe("quickstart", [f"method.name={method}"]).hooks.model_copy(update=recipe_hooks)
        return [hook.name for hook in make_hooks(settings, context(method=get_method(method)))]

    assert names({}, "grpo") == []
    assert names({"refill": Refill.Options()}, "grpo") == ["refill"]
    assert names({}, "dapo") == ["refill"]
    assert names({"refill": None}, "dapo") == []
    assert names({}, "sasr") == ["choice"]
    assert names({"refill": Refill.Options()}, "sasr") == ["choice", "refill"]


def test_a_hook_of_the_users_own_takes_part_and_resumes(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(
        "from srft import method\n"
        "from srft.objective import nll\n"
        f"@method('{NEEDS_THE_HOOK}', needs={{'demonstrations'}})\n"
        "def hooked(t):\n"
        "    return {'sft': nll(t.demo)}\n"
    )

    def run(out: str, steps: int, resume: bool = False) -> Run:
        words = [*SMALL, f"method.name={NEEDS_THE_HOOK}", f"method.file={file}", f"training.steps={steps}"]
        return train(load_recipe("quickstart", words), tmp_path / out, resume=resume)

    whole = run("whole", 3)
    assert [(row["counted"], row["groups_seen"]) for row in whole.metrics] == [(1, 1), (2, 1), (3, 1)]
    run("parts", 2)
    parts = run("parts", 3, resume=True)
    assert [row["counted"] for row in parts.metrics] == [1, 2, 3]
    assert parts.metrics[-1]["loss"] == pytest.approx(whole.metrics[-1]["loss"], rel=1e-4)


def test_a_hook_does_nothing_by_itself() -> None:
    hook, source = Hook(None, context()), Source(every=2)
    assert hook.needs(1, ROLLOUTS, []) == ROLLOUTS
    collected = hook.collect(source, 3, ROLLOUTS)
    assert source.asked == [3]
    assert [g.group_id for g in collected.groups] == [0, 1, 2]  # those without signal too
    hook.load_state({"steps": 3})  # of a checkpoint in which it kept something
    assert (hook.after_update(1, collected, {}), hook.networks(), hook.state()) == ({}, {}, {})
    assert not any(Hook.declared_by(method) for method in methods().values())
