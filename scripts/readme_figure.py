"""Draw docs/assets/srft.svg, a prompt's group and how a run went: python scripts/readme_figure.py runs/RUN

The run is one of `srft train quickstart training.seed=0`. Colours are legible on light and on dark ground."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

FIGURE = Path(__file__).resolve().parents[1] / "docs" / "assets" / "srft.svg"
INK, DEMO, RIGHT, WRONG = "#7d8590", "#388bfd", "#2da44e", "#e5534b"
WIDTH, HEIGHT = 872, 250


def text(x: float, y: float, words: str, color: str = INK, anchor: str = "start", size: int = 12) -> str:
    return f'<text x="{x:g}" y="{y:g}" fill="{color}" text-anchor="{anchor}" font-size="{size}">{words}</text>'


def line(points: Sequence[tuple[float, float]], color: str, width: float = 1.0) -> str:
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return f'<polyline points="{path}" fill="none" stroke="{color}" stroke-width="{width}" stroke-linejoin="round"/>'


def group() -> list[str]:
    """A prompt, its rollouts and its demonstration, and the term of the loss that each kind has."""
    parts = [text(0, 16, "one prompt’s group, one step, one loss", size=13)]
    parts += [f'<rect x="1" y="104" width="62" height="30" rx="5" fill="none" stroke="{INK}"/>']
    parts += [text(32, 123, "prompt", anchor="middle")]
    kinds = [
        (DEMO, 1, "demonstration", "e⁻ᴴ · NLL  and  −π·A"),
        (RIGHT, 5, "right rollouts", "eᴴ · NLL"),
        (WRONG, 3, "wrong rollouts", "−NLL"),
    ]
    for (color, count, kind, term), y in zip(kinds, (52, 119, 186), strict=True):
        parts += [line([(64, 119), (92, y)], INK)]
        parts += [f'<circle cx="{102 + 15 * i}" cy="{y}" r="5.5" fill="{color}"/>' for i in range(count)]
        parts += [text(192, y - 4, kind, color), text(192, y + 13, term)]
    return [*parts, text(0, 238, "π: the policy, H: its entropy, A: the group’s advantage", size=11)]


def panel(x: float, title: str, top: float, curves: Sequence[tuple[str, str, Sequence[float]]]) -> list[str]:
    """Curves over the steps: (name, color, values), from 0 to `top`."""
    width, low, high = 200, 206, 34
    parts = [text(x, 16, title, size=13), line([(x, high), (x, low), (x + width, low)], INK)]
    parts += [text(x - 5, low, "0", anchor="end", size=11), text(x - 5, high + 8, f"{top:g}", anchor="end", size=11)]
    for row, (name, color, values) in enumerate(curves):
        places = [(x + width * i / (len(values) - 1), low - (low - high) * v / top) for i, v in enumerate(values)]
        parts += [line(places, color, 1.8)]
        parts += [text(x + width, high + 8 + 15 * row, name, color, "end", 11)] if name else []
    steps = len(curves[0][2])
    return [*parts, text(x, 222, "step 1", size=11), text(x + width, 222, f"{steps}", anchor="end", size=11)]


def main(run: Path) -> None:
    rows = [json.loads(row) for row in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    evaluations = [json.loads(row) for row in (run / "evaluations.jsonl").read_text(encoding="utf-8").splitlines()]
    before, after = (100 * row["avg"] for row in evaluations if row["benchmark"] == "test")
    entropies = {name: [row[f"entropy/{name}"] for row in rows] for name in ("demo", "wrong", "correct")}
    words = zip(("demonstrations", "wrong rollouts", "right rollouts"), (DEMO, WRONG, RIGHT), strict=True)
    curves = [(name, color, values) for (name, color), values in zip(words, entropies.values(), strict=True)]
    parts = [
        *group(),
        *panel(390, "share of rollouts that are right", 1, [("", RIGHT, [row["reward"] for row in rows])]),
        text(390, 238, f"held-out problems: {before:.1f} % → {after:.1f} % (avg@8)", size=11),
        *panel(660, "entropy of the policy (nats)", 2, curves),
        text(660, 238, f"1.6 M parameters, {len(rows)} steps on a CPU", size=11),
    ]
    FIGURE.parent.mkdir(exist_ok=True)
    FIGURE.write_text(
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="-2 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" '
        f'font-family="system-ui, sans-serif">\n' + "\n".join(parts) + "\n</svg>\n",
        encoding="utf-8",
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
