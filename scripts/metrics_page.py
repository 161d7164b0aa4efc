"""Write the tables of docs/metrics.md and docs/reliability.md from the code: python scripts/metrics_page.py"""

from __future__ import annotations

from pathlib import Path

from srft.training.hooks import hook_types
from srft.training.metrics import metrics_page
from srft.training.warnings import warnings_page

DOCS = Path(__file__).resolve().parents[1] / "docs"


def write(page: str, name: str, table: str) -> None:
    """Replace what stands between the two comments of that name in a page."""
    start, end = f"<!-- {name} -->\n", f"<!-- /{name} -->\n"
    before, _, rest = (DOCS / page).read_text(encoding="utf-8").partition(start)
    after = rest.partition(end)[2]
    (DOCS / page).write_text(f"{before}{start}\n{table}\n{end}{after}", encoding="utf-8")


def main() -> None:
    """Both tables."""
    hook_types()  # a hook describes its own metrics
    write("metrics.md", "metrics", metrics_page())
    write("reliability.md", "warnings", warnings_page())


if __name__ == "__main__":
    main()
