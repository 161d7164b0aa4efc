"""Results as a table on the terminal, JSON, CSV and Markdown."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table as RichTable

from srft.console import SafeConsole, safe_console
from srft.data.files import write_json, write_text
from srft.safe_text import printable

Cells = Sequence[str]


@dataclass(frozen=True)
class Table:
    """A table of text: a title, the names of columns, the cells of each row."""

    title: str
    head: Cells
    body: Sequence[Cells]


def write_results(folder: Path, results: Mapping[str, Any]) -> None:
    """results.json, results.csv (a line a benchmark) and results.md."""
    write_json(folder / "results.json", results)
    write_text(folder / "results.csv", _csv(results))
    write_text(folder / "results.md", markdown(results))


def show(console: Console, results: Mapping[str, Any]) -> None:
    """Print the tables."""
    # A log has no width that a table would have to fit.
    console = safe_console(console) if console.is_terminal else SafeConsole(file=console.file, width=250)
    for table in tables(results):
        console.print(table.title, style="bold", highlight=False)
        grid = RichTable(box=None, pad_edge=False)
        for i, name in enumerate(table.head):
            grid.add_column(name, justify="right" if i else "left")
        for row in table.body:
            grid.add_row(*row)
        console.print(grid)
        console.print()
    for note in notes(results):
        console.print(note, highlight=False)


def markdown(results: Mapping[str, Any]) -> str:
    """The same tables in Markdown, with the settings above them."""
    settings = results["settings"]
    lines = [
        f"{settings['model']}: {_how(settings)}. Scores in percent with 95 % intervals over problems (bootstrap).",
        "",
    ]
    for table in tables(results):
        rule = ["---", *["---:"] * (len(table.head) - 1)]
        title = " ".join(table.title.split())
        lines += [f"**{title}**", "", _pipe(table.head), _pipe(rule), *map(_pipe, table.body), ""]
    return printable("\n".join([*lines, *(f"- {note}" for note in notes(results)), ""]))


def tables(results: Mapping[str, Any]) -> list[Table]:
    """The scores, what the responses are like, then one table a comparison."""
    benchmarks = {name: b for name, b in results["benchmarks"].items() if "samples" in b}
    losses = {name: b for name, b in results["benchmarks"].items() if "demo_nll" in b}
    all_tables = [
        Table(
            f"{results['settings']['model']}, protocol {results['settings']['protocol']['name']}",
            ["benchmark", "problems", "n", "avg@n", "pass@n", "maj@n"],
            [_scores(name, b) for name, b in benchmarks.items()],
        ),
        Table(
            "responses",
            ["benchmark", "tokens", "cut", "no answer", "answers", "entropy", "RBF", "perplexity"],
            [_responses(name, b) for name, b in benchmarks.items()],
        ),
    ]
    if not benchmarks:
        all_tables.clear()
    if losses:
        head = ["set", "demonstrations", "nats a token", "perplexity"]
        all_tables.append(Table("loss of demonstrations", head, [_loss(name, b) for name, b in losses.items()]))
    for comparison in results.get("against", []):
        names = [n for n in benchmarks if any(n in cells for cells in comparison["rows"].values())]
        body: list[Cells] = [
            [row, *(_cell(cells.get(name)) for name in names), _mean(cells)]
            for row, cells in comparison["rows"].items()
        ]
        if body:
            title = f"against {comparison['title']} (ours less theirs)"
            all_tables.append(Table(title, ["", *names, "mean"], body))
    return all_tables


def notes(results: Mapping[str, Any]) -> list[str]:
    """What a reader must know to read the numbers."""
    lines = []
    for name, b in results["benchmarks"].items():
        if b["problems"] < b["source"]["rows"]:
            lines.append(f"{name}: the first {b['problems']} of {b['source']['rows']} problems.")
        if b.get("bad_gold"):
            lines.append(f"{name}: {b['bad_gold']} ground truths do not grade as equal to themselves.")
        if b.get("timeout"):
            lines.append(f"{name}: {b['timeout']:.1%} of the answers took too long to grade and count as wrong.")
        if overlap := b.get("contamination"):
            lines.append(
                f"{name}: {overlap['flagged']} of {b['problems']} problems share {overlap['n']}-grams with training "
                f"prompts, {overlap['exact']} are among them word for word."
            )
    for comparison in results.get("against", []):
        if comparison["note"] and comparison["rows"]:
            lines.append(f"{comparison['title']}: {comparison['note']}.")
        if not comparison["rows"]:
            lines.append(f"{comparison['title']}: nothing in common with this evaluation.")
    return lines


def _scores(name: str, b: Mapping[str, Any]) -> Cells:
    n = b["samples"]
    return [
        name, str(b["problems"]), str(n), _percent(b["avg"], b["avg_ci"]), _percent(b[f"pass@{n}"], b["pass_ci"]),
        _percent(b[f"maj@{n}"], b["maj_ci"]) if f"maj@{n}" in b else "–",
    ]  # fmt: skip


def _responses(name: str, b: Mapping[str, Any]) -> Cells:
    return [
        name, f"{b['response_length']:.0f}", f"{b['truncated']:.1%}", f"{b['no_answer']:.1%}",
        *(f"{b[key]:.{digits}f}" if key in b else "–"
          for key, digits in (("distinct_answers", 2), ("entropy", 3), ("rbf", 2), ("perplexity", 2))),
    ]  # fmt: skip


def _loss(name: str, b: Mapping[str, Any]) -> Cells:
    return [name, str(b["demonstrations"]), f"{b['demo_nll']:.4f}", f"{b['demo_perplexity']:.3f}"]


def _percent(value: float, interval: Sequence[float]) -> str:
    return f"{100 * value:.1f} [{100 * interval[0]:.1f}, {100 * interval[1]:.1f}]"


def _cell(cell: Mapping[str, Any] | None) -> str:
    if cell is None:
        return "–"
    interval = cell.get("difference_ci")
    return f"{cell['score']:.1f} ({cell['difference']:+.1f}" + (
        f" [{interval[0]:+.1f}, {interval[1]:+.1f}])" if interval else ")"
    )


def _mean(cells: Mapping[str, Mapping[str, Any]]) -> str:
    score, difference = (sum(c[key] for c in cells.values()) / len(cells) for key in ("score", "difference"))
    return f"{score:.1f} ({difference:+.1f})"


def _how(settings: Mapping[str, Any]) -> str:
    p = settings["protocol"]
    return (
        f"protocol {p['name']}, template {p['template']}, temperature {p['temperature']:g}, top-p {p['top_p']:g}, "
        f"at most {p['max_response_length']} tokens, answers {p['extract']}, grader {p['grader']}, "
        f"seed {settings['seed']}, {settings['precision']}"
    )


def _pipe(cells: Cells) -> str:
    return "| " + " | ".join(" ".join(cell.split()).replace("|", "\\|") for cell in cells) + " |"


def _csv(results: Mapping[str, Any]) -> str:
    rows = [{"benchmark": name, **_plain(b)} for name, b in results["benchmarks"].items()]
    columns = list(dict.fromkeys(key for row in rows for key in row))
    out = io.StringIO()
    writer = csv.DictWriter(out, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def _plain(b: Mapping[str, Any]) -> dict[str, Any]:
    """Numbers alone, intervals as two columns, and where the problems came from."""
    plain: dict[str, Any] = {}
    for key, value in b.items():
        if key.endswith("_ci"):
            plain |= {f"{key}_low": value[0], f"{key}_high": value[1]}
        elif isinstance(value, int | float):
            plain[key] = value
    return plain | {
        "unsolved": len(b.get("unsolved", ())),
        "source": b["source"]["place"],
        "sha256": b["source"]["sha256"],
    }
