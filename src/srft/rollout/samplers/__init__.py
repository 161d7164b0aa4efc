"""The samplers by name. A backend is one file of this folder."""

from __future__ import annotations

from srft.discover import discover
from srft.rollout.sampler import Sampler


def samplers() -> dict[str, type[Sampler]]:
    """The backends by name."""
    return {cls.name: cls for cls in discover(__name__, Sampler)}  # type: ignore[type-abstract]


def pick_sampler(engine: str) -> type[Sampler]:
    """The backend of that name; for `auto` the preferred one, else transformers."""
    known = samplers()
    if engine == "auto":
        return next((cls for cls in known.values() if cls.is_preferred()), known["transformers"])
    return known[engine]
