"""Files: JSON lines, and writing a file whole or not at all. Every room reads and writes by these functions."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from srft.errors import SrftError

COMPRESSIONS = (".gz", ".zst", ".bz2")


def read_text(path: Path, name: str = "", errors: str = "strict") -> str:
    """The text of a UTF-8 file, with or without a byte-order mark; one that ends in .gz, .zst or .bz2 is unpacked.

    Args:
        name: the file's name in error messages; its path if left out.
        errors: "strict", or "replace" for U+FFFD in place of bytes that are not UTF-8.

    Raises:
        SrftError: it cannot be read, or is not UTF-8.
    """
    where = name or str(path)
    try:
        data = _unpacked(path) if path.suffix.lower() in COMPRESSIONS else path.read_bytes()
        return data.decode("utf-8-sig", errors).replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        raise SrftError(f"not UTF-8: {error}", where=where, fix="Save it as UTF-8.") from None
    except OSError as error:
        raise SrftError(f"cannot be read: {error.strerror or error}", where=where, fix="Check the path.") from None


def _unpacked(path: Path) -> bytes:
    import pyarrow

    with pyarrow.input_stream(str(path), compression="detect") as stream:
        return bytes(stream.read())


def parse_json(text: str, where: str) -> Any:
    """The value of a JSON text.

    Raises:
        SrftError: it is malformed; `where` names the file and line.
    """
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise SrftError(f"malformed JSON: {error}", where=where, fix="Correct or remove that line.") from None


def read_jsonl(path: Path, name: str = "", errors: str = "strict") -> Iterator[tuple[str, Any]]:
    """(`file:line`, value) of every line that is not blank. Lines end at a newline alone, not at U+2028.

    `name` and `errors` are those of `read_text`.

    Raises:
        SrftError: the file cannot be read; a line is not JSON.
    """
    yield from parse_jsonl(read_text(path, name, errors), name or str(path))


def parse_jsonl(text: str, name: str) -> Iterator[tuple[str, Any]]:
    """`read_jsonl` of a text; `name` is what errors call its file."""
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            where = f"{name}:{number}"
            yield where, parse_json(line, where)


def read_whole_rows(path: Path) -> list[dict[str, Any]]:
    """The rows (JSON objects) of a file that grows line by line, without a line that a kill cut; none of no file."""
    rows = []
    for line in path.read_text(encoding="utf-8").split("\n") if path.exists() else ():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict):
            rows.append(row)
    return rows


def json_lines(rows: Iterable[Mapping[str, Any]]) -> str:
    """Rows as JSON lines."""
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def append_rows(path: Path, rows: Iterable[Mapping[str, Any]], *, sync: bool = False) -> None:
    """Add rows to a JSON-lines file; with `sync` they are on disk when this returns."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json_lines(rows))
        if sync:
            file.flush()
            os.fsync(file.fileno())


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all: under another name first, and to the disk before it has its own."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    with partial.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)


def write_json(path: Path, value: Any) -> None:
    """A value as an indented JSON file, whole or not at all."""
    write_text(path, json_text(value))


def json_text(value: Any) -> str:
    """A value as indented JSON."""
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Rows as a JSON-lines file, whole or not at all."""
    write_text(path, json_lines(rows))
