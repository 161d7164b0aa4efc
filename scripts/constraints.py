"""Write constraints.txt, the versions of all that is installed beside srft, from the environment in which the tests
passed: .venv/bin/python scripts/constraints.py"""

from __future__ import annotations

from importlib.metadata import distributions
from pathlib import Path

from packaging.utils import canonicalize_name
from packaging.version import Version

FILE = Path(__file__).resolve().parents[1] / "constraints.txt"
OURS = {"srft", "pip", "setuptools", "wheel"}


def main() -> None:
    """One line a package. A local version (2.13.0+cpu) is written without its label, which no index knows."""
    versions = {canonicalize_name(d.name): Version(d.version).public for d in distributions()}
    lines = [f"{name}=={version}" for name, version in sorted(versions.items()) if name not in OURS]
    FILE.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
