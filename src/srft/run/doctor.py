"""What works on this machine and what would not, and why: `srft doctor`."""

from __future__ import annotations

import importlib.util
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

import psutil
import torch
from packaging.requirements import Requirement

from srft.data.problem import Problem
from srft.data.template import TEMPLATES, render
from srft.errors import SrftError
from srft.policy.load import ModelSettings, load_model, load_tokenizer
from srft.rollout.samplers import pick_sampler, samplers
from srft.verify.grade import Verdict
from srft.verify.verifier import Verifier

PYTHON = (3, 11)
LEAST_DISK = 2**30  # bytes: a checkpoint of the smallest models of the hub
FOR_DEVELOPERS = "test"


@dataclass(frozen=True)
class Check:
    """One finding.

    Args:
        state: "ok"; "off" for what is optional and not there; "bad" for what keeps the package from working.
        subject: what was looked at.
        detail: what was seen, and where something is missing, what to do.
    """

    state: Literal["ok", "off", "bad"]
    subject: str
    detail: str


def checks(folder: Path = Path()) -> Iterator[Check]:
    """All findings, the quick ones first.

    Args:
        folder: where runs will be written.
    """
    yield from _machine(folder)
    yield from _packages()
    yield _gpus()
    yield from _engines()
    yield _grader()
    yield _model()


def _machine(folder: Path) -> Iterator[Check]:
    memory = psutil.virtual_memory()
    cores = psutil.cpu_count(logical=True)
    yield Check(
        "ok", "machine", f"{platform.platform()}, {cores} cores, {_gib(memory.available)} of {_gib(memory.total)} free"
    )
    version = platform.python_version()
    least = ".".join(map(str, PYTHON))
    yield Check("ok" if sys.version_info >= PYTHON else "bad", "python", f"{version} (needs {least} or later)")
    free = shutil.disk_usage(folder).free
    yield Check("ok" if free >= LEAST_DISK else "bad", "disk", f"{_gib(free)} free in {folder.resolve()}")


def _packages() -> Iterator[Check]:
    """The requirements of srft as it is installed, then those of its extras."""
    requirements = [Requirement(text) for text in metadata.requires("srft") or ()]
    extras = metadata.metadata("srft").get_all("Provides-Extra") or []
    for requirement in requirements:
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            yield _package(requirement, "bad", f"pip install '{requirement.name}{requirement.specifier}'")
    for extra in sorted(set(extras) - {FOR_DEVELOPERS}):
        for requirement in requirements:
            of_extra = requirement.marker is not None and not requirement.marker.evaluate({"extra": ""})
            if of_extra and requirement.marker.evaluate({"extra": extra}):  # type: ignore[union-attr]
                yield _package(requirement, "off", f"pip install 'srft[{extra}]'", f"extra {extra}: ")


def _package(requirement: Requirement, otherwise: Literal["off", "bad"], fix: str, label: str = "") -> Check:
    subject, wanted = label + requirement.name, f"needs {requirement.specifier or 'any version'}"
    try:
        version = metadata.version(requirement.name)
    except metadata.PackageNotFoundError:
        return Check(otherwise, subject, f"not installed, {wanted}: {fix}")
    if not requirement.specifier.contains(version, prereleases=True):
        return Check("bad", subject, f"{version}, {wanted}: {fix}")
    return Check("ok", subject, f"{version} ({wanted})")


def _gpus() -> Check:
    names = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
    if names:
        listed = ", ".join(f"{gpu.name} {_gib(gpu.total_memory)}" for gpu in names)
        return Check("ok", "GPU", f"{listed}; CUDA {torch.version.cuda}, driver {_driver() or 'unknown'}")
    if driver := _driver():
        built = f"CUDA {torch.version.cuda}" if torch.version.cuda else "the CPU alone"
        fix = "install a build of torch for this driver (pytorch.org)"
        return Check("bad", "GPU", f"driver {driver} is here, torch {torch.__version__} is built for {built}: {fix}")
    return Check("off", "GPU", "none: the CPU trains and samples")


def _driver() -> str:
    """The NVIDIA driver's version; empty where there is none."""
    if shutil.which("nvidia-smi") is None:
        return ""
    asked = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    answer = subprocess.run(asked, capture_output=True, text=True, timeout=20, check=False)
    return answer.stdout.split("\n")[0].strip() if answer.returncode == 0 else ""


def _engines() -> Iterator[Check]:
    chosen = pick_sampler("auto").name
    for name, sampler in samplers().items():
        try:
            sampler.check(sampler.Options() if sampler.Options else None, None)
            yield Check("ok", f"engine {name}", "samples" + " (rollout.engine: auto takes it)" * (name == chosen))
        except SrftError as error:
            yield Check("off", f"engine {name}", f"{error.what}: {error.fix}")
    has_verl = all(importlib.util.find_spec(package) for package in ("verl", "transfer_queue"))
    detail = "trains with --engine verl" if has_verl else "not installed: scripts/setup-verl makes its environment"
    yield Check("ok" if has_verl else "off", "engine verl", detail)


def _grader() -> Check:
    try:
        with Verifier(1, 30.0) as verifier:
            (grade,) = verifier.grade([(Problem("", "\\frac{1}{2}"), "It is \\boxed{0.5}.")])
    except Exception as error:
        return Check("bad", "grader", f"its worker does not start: {error}")
    right = grade.verdict is Verdict.RIGHT
    return Check("ok" if right else "bad", "grader", f"0.5 for 1/2 is {grade.verdict.value}, in a worker process")


def _model() -> Check:
    settings = ModelSettings(path="srft:model")
    start = time.perf_counter()
    try:
        tokenizer, model = load_tokenizer(settings), load_model(settings)
        text, _ = render(Problem("1 + 2"), TEMPLATES["chat"], tokenizer)
        ids = torch.tensor([tokenizer(text, add_special_tokens=False)["input_ids"]])
        with torch.no_grad():
            finite = bool(model(input_ids=ids).logits.isfinite().all())
    except Exception as error:
        return Check("bad", "embedded model", f"{type(error).__name__}: {error}")
    took = f"loaded and run in {time.perf_counter() - start:.1f} s"
    return Check("ok" if finite else "bad", "embedded model", took if finite else "its logits are not finite")


def _gib(size: float) -> str:
    return f"{size / 2**30:.1f} GiB"
