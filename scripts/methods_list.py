"""Write what `srft methods` shows from the code: python scripts/methods_list.py"""

from __future__ import annotations

from pathlib import Path

from srft.objective.registry import methods_list

LIST = Path(__file__).resolve().parents[1] / "src" / "srft" / "objective" / "methods.txt"

if __name__ == "__main__":
    LIST.write_text(methods_list(), encoding="utf-8")
