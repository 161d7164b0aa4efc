"""Write the table of docs/metrics.md from the code: python scripts/metrics_page.py"""

from __future__ import annotations

from pathlib import Path

from srft.training.hooks import hook_types
from srft.training.metrics import metrics_page

PAGE = Path(__file__).resolve().parents[1] / "docs" / "metrics.md"
START, END = "<!-- metrics -->\n", "<!-- /metrics -->\n"


def main() -> None:
    """Replace what stands between the two comments."""
    hook_types()  # a hook describes its own metrics
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(START)
    after = rest.partition(END)[2]
    PAGE.write_text(f"{before}{START}\n{metrics_page()}\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
