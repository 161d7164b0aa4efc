"""An estimate for a reader: memory and time as tables, and in a line or two what follows."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from srft.run.estimate import Estimate
from srft.run.sizing.advice import advise, holds_a_response, room
from srft.run.sizing.memory import main_memory
from srft.run.sizing.step_time import evaluation_seconds
from srft.training.disk import gib

ACCURACY = "a roofline with measured efficiencies: docs/planning.md says how near it comes"


def show_estimate(size: Estimate, console: Console, price: float | None = None) -> None:
    """Print what one stage takes, and what to change where it does not fit.

    Args:
        price: of one device for an hour, in the user's currency.
    """
    setup = size.setup
    shape = setup.shape
    console.print(
        f"{shape.parameters / 1e6:.1f} M parameters, {shape.trainable / 1e6:.1f} M of them trained, on "
        f"{setup.ranks} × {setup.device.name}; {_division(size)}"
    )
    console.print(f"lengths: {setup.lengths.origin}", highlight=False)
    console.print(_memory_table(size))
    if main_memory(setup):
        console.print(f"main memory for what is offloaded or asleep: {gib(main_memory(setup))} a process")
    console.print(f"checkpoints up to {gib(size.disk)}")
    if not holds_a_response(setup):
        share = gib(setup.gpu_memory * setup.device.memory)
        text = f": vLLM's {share} do not hold the model and its longest response."
        console.print(Text.assemble(("It does not fit", "red"), text))
        console.print(str(advise(setup)), highlight=False)
        return
    console.print(_time_table(size))
    console.print(_run_line(size, price), highlight=False)
    needed = f": {gib(size.total_memory)} of {gib(room(setup))} a process."
    if size.fits:
        console.print(Text.assemble(("It fits", "green"), needed))
    else:
        console.print(Text.assemble(("It does not fit", "red"), needed))
        console.print(str(advise(setup)), highlight=False)


def show_total(sizes: Sequence[Estimate], console: Console, price: float | None) -> None:
    """Print the sum of several stages."""
    if len(sizes) > 1 and all(size.setup.steps for size in sizes):
        hours, devices = sum(size.hours for size in sizes), sizes[0].setup.ranks
        console.print(f"all stages: {_duration(3600 * hours)}{_cost(hours * devices, price)}", highlight=False)


def _division(size: Estimate) -> str:
    setup = size.setup
    divided = (
        f"training state divided over {setup.ranks} processes (FSDP2)" if setup.shard else "each process holds all"
    )
    offloaded = ", offloaded to main memory" if setup.offload else ""
    sampler = {"vllm": "vLLM beside the trainer", "server": "a vLLM server", "transformers": "the policy itself"}
    return divided + offloaded + (f"; sampling by {sampler[setup.engine]}" if setup.samples else "")


def _memory_table(size: Estimate) -> Table:
    phases = size.memory
    table = Table("memory per process", *phases, title_justify="left")
    for column in table.columns[1:]:
        column.justify = "right"
    for part in dict.fromkeys(part for parts in phases.values() for part in parts):
        table.add_row(part, *(gib(parts[part]) if part in parts else "" for parts in phases.values()))
    table.add_section()
    table.add_row("sum", *(gib(sum(parts.values())) for parts in phases.values()))
    return table


def _time_table(size: Estimate) -> Table:
    table = Table("one step", "seconds", "share", title_justify="left")
    table.columns[1].justify = table.columns[2].justify = "right"
    total = sum(size.step.values())
    for part, seconds in size.step.items():
        table.add_row(part, _seconds(seconds), f"{seconds / total:.0%}")
    table.add_section()
    table.add_row("sum", _seconds(total), "")
    if evaluation := evaluation_seconds(size.setup):
        table.add_row("an evaluation", _seconds(evaluation), "")
    return table


def _run_line(size: Estimate, price: float | None) -> str:
    setup = size.setup
    if not setup.steps:
        return "The number of steps follows from the data: give --problems, or training.steps, for hours and cost."
    counted = f", {setup.evaluations_in_run} evaluations" if setup.evaluations else ""
    return f"{setup.steps} steps{counted}: {_duration(3600 * size.hours)}{_cost(size.gpu_hours, price)} ({ACCURACY})"


def _cost(device_hours: float, price: float | None) -> str:
    if price is None:
        return f", {device_hours:,.1f} device hours"
    return f", {device_hours:,.1f} device hours × {price:g} = {device_hours * price:,.0f}"


def _seconds(seconds: float) -> str:
    return f"{seconds:.1f}" if seconds < 100 else f"{seconds:,.0f}"


def _duration(seconds: float) -> str:
    if seconds < 5400:
        return f"about {seconds / 60:.1f} minutes"
    return f"about {seconds / 3600:,.1f} hours"
