"""A step's prompts and the graded responses to them, on every rank its share."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from functools import partial

from accelerate import Accelerator

from srft.objective.registry import Need
from srft.processes import gather
from srft.rollout.collector import Collector
from srft.rollout.response import Group, Response
from srft.rollout.sampler import SamplingParams
from srft.training.prompt_stream import PromptStream

Draw = Callable[[int], "CollectedStep"]


@dataclass(frozen=True)
class CollectedStep:
    """This rank's groups of a step and the responses in them, those of one group together.

    Args:
        needs: what was collected.
    """

    groups: Sequence[Group]
    responses: Sequence[Response]
    needs: frozenset[Need]

    @property
    def rollouts(self) -> list[Response]:
        """The policy's own that a reward applies to."""
        return [r for r in self.responses if not r.is_demo and r.is_learnt]

    def only(self, group_ids: Collection[int]) -> CollectedStep:
        """Those groups alone."""
        return replace(
            self,
            groups=[g for g in self.groups if g.group_id in group_ids],
            responses=[r for r in self.responses if r.group_id in group_ids],
        )

    def __add__(self, other: CollectedStep) -> CollectedStep:
        return replace(self, groups=[*self.groups, *other.groups], responses=[*self.responses, *other.responses])


class StepCollector:
    """Draws a step's prompts and collects this rank's share of their responses.

    Args:
        stream: the prompts.
        sampling: of rollouts; `demonstrations` of each prompt at most.
        prompts_per_step: over all ranks.
        first_step: steps of the run before this stage.
        wrap: functions around the drawing, of hooks: they get it and the number of groups wanted.
    """

    def __init__(
        self,
        stream: PromptStream,
        collector: Collector,
        accelerator: Accelerator,
        *,
        sampling: SamplingParams,
        demonstrations: int,
        prompts_per_step: int,
        first_step: int,
        wrap: Sequence[Callable[[Draw, int, frozenset[Need]], CollectedStep]] = (),
    ) -> None:
        self.stream, self.collector, self.accelerator, self.wrap = stream, collector, accelerator, wrap
        self.sampling, self.demonstrations = sampling, demonstrations
        self.prompts_per_step, self.first_step = prompts_per_step, first_step

    @property
    def rollouts(self) -> int:
        """What this rank samples in a step of rollouts, unless a hook draws again."""
        return self.prompts_per_step // self.accelerator.num_processes * self.sampling.n

    def __call__(self, step: int, needs: frozenset[Need]) -> CollectedStep:
        """The groups of this step of the stage, numbered from 0 over all ranks."""
        rank, ranks, drawn = self.accelerator.process_index, self.accelerator.num_processes, 0

        def draw(count: int) -> CollectedStep:
            nonlocal drawn
            groups = [Group(drawn + i, prompt) for i, prompt in enumerate(self.stream.draw(count))][rank::ranks]
            drawn += count
            with self.accelerator.autocast():
                responses = self.collector.collect(
                    groups, needs, self.sampling, self.demonstrations, self.first_step + step, step
                )
            return CollectedStep(groups, responses, needs)

        collect: Draw = draw
        for wrapper in self.wrap:
            collect = partial(_wrapped, wrapper, collect, needs)
        return self._renumbered(collect(self.prompts_per_step))

    def _renumbered(self, collected: CollectedStep) -> CollectedStep:
        """Group ids without gaps, in the order of drawing."""
        kept = sorted(gather(self.accelerator, [g.group_id for g in collected.groups]))
        place = {group_id: i for i, group_id in enumerate(kept)}
        return replace(
            collected,
            groups=[replace(g, group_id=place[g.group_id]) for g in collected.groups],
            responses=[replace(r, group_id=place[r.group_id]) for r in collected.responses],
        )


def _wrapped(
    wrapper: Callable[[Draw, int, frozenset[Need]], CollectedStep], draw: Draw, needs: frozenset[Need], count: int
) -> CollectedStep:
    return wrapper(draw, count, needs)
