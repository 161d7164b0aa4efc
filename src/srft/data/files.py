"""Files: JSON lines, and writing a file whole or not at all. Every room reads and writes by these functions."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from srft.errors import SrftError

COMPRESSIONS = (".gz", ".zst", ".bz2")
CODECS = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd", b"BZh": "bz2"}  # by how a compressed file begins
NOT_TEXT = {  # by how a file begins: what it is, and what to do
    b"\xff\xfe": ("UTF-16 or UTF-32, not UTF-8", "Save it as UTF-8."),
    b"\xfe\xff": ("UTF-16 or UTF-32, not UTF-8", "Save it as UTF-8."),
    b"PAR1": ("a Parquet file, and its name does not say so", "Let its name end in .parquet."),
    b"PK\x03\x04": ("a zip archive or a spreadsheet, not text", "Unpack it, or save the spreadsheet as CSV."),
}
LARGEST_EXPANSION = 200  # times a compressed file's size, and
ALWAYS_UNPACKED = 1 << 30  # bytes that any may unpack to
MOST_BITS = 13_000  # of a number: Python writes none of more than 4,300 digits
DEEPEST = 100  # lists and objects within one another


def read_text(path: Path, name: str = "", errors: str = "strict") -> str:
    """The text of a UTF-8 file, with or without a byte-order mark; a compressed one (gzip, zstd, bz2) is unpacked,
    whatever it is called.

    Args:
        name: the file's name in error messages; its path if left out.
        errors: "strict", or "replace" for U+FFFD in place of bytes that are not UTF-8.

    Raises:
        SrftError: it cannot be read or unpacked, unpacks to more than `LARGEST_EXPANSION` times its size, or is not
            UTF-8.
    """
    where = name or str(path)
    try:
        data = _unpacked(path.read_bytes(), where)
    except OSError as error:
        raise SrftError(f"cannot be read: {error.strerror or error}", where=where, fix="Check the path.") from None
    for start, (what, fix) in NOT_TEXT.items():
        if data.startswith(start):
            raise SrftError(what, where=where, fix=fix)
    try:
        return data.decode("utf-8-sig", errors).replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        raise SrftError(f"not UTF-8: {error}", where=where, fix="Save it as UTF-8.") from None


def _unpacked(data: bytes, where: str) -> bytes:
    codec = next((codec for start, codec in CODECS.items() if data.startswith(start)), None)
    if codec is None:
        return data
    import pyarrow

    limit, parts, size = max(LARGEST_EXPANSION * len(data), ALWAYS_UNPACKED), [], 0
    try:
        with pyarrow.input_stream(pyarrow.py_buffer(data), compression=codec) as stream:
            while part := stream.read(1 << 24):
                parts.append(part)
                if (size := size + len(part)) > limit:
                    fix = "Unpack it yourself if that is what it should be."
                    raise SrftError(f"it unpacks to more than {limit / 1e9:.1f} GB", where=where, fix=fix)
    except (pyarrow.ArrowException, OSError) as error:
        raise SrftError(f"not a whole {codec} file: {error}", where=where, fix="Fetch or pack it anew.") from None
    return b"".join(parts)


def parse_json(text: str, where: str, errors: str = "strict") -> Any:
    """The value of a JSON text; `errors` is that of `check_value`.

    Raises:
        SrftError: it is malformed, or as `check_value`; `where` names the file and line.
    """
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise SrftError(f"malformed JSON: {error}", where=where, fix="Correct or remove that line.") from None
    if isinstance(value, list):
        for i, row in enumerate(value):
            check_value(row, f"{where}, row {i}", errors)
    else:
        check_value(value, where, errors)
    return value


def check_value(value: Any, where: str, errors: str = "strict") -> None:
    """Return nothing where a value of plain types can be handed on to other processes, to files and to a tokenizer.

    Args:
        errors: "strict", or "replace" where text with half a surrogate pair is let pass, for a reader that bears it.

    Raises:
        SrftError: it is nested deeper than `DEEPEST`; a text in it holds one half of a surrogate pair, which is no
            character; a number in it is too long to be written.
    """
    level, depth = [value], 0
    while level:
        for item in level:
            if isinstance(item, str) and errors == "strict":
                _check_text(item, where)
            elif isinstance(item, int) and item.bit_length() > MOST_BITS:
                raise SrftError("a number of more than 4,000 digits", where=where, fix="Give it as text.")
        if depth > DEEPEST:
            raise SrftError(f"nested more than {DEEPEST} deep", where=where, fix="Make it flatter, or remove it.")
        level, depth = [inner for outer in level for inner in _items(outer)], depth + 1


def _check_text(text: str, where: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        what = f"text with half a surrogate pair, \\u{ord(text[error.start]):04x}, which is no character"
        raise SrftError(what, where=where, fix="Correct or remove it.") from None


def _items(value: Any) -> Iterable[Any]:
    if isinstance(value, Mapping):
        return (*value, *value.values())
    return value if isinstance(value, list | tuple) else ()


def read_jsonl(path: Path, name: str = "", errors: str = "strict") -> Iterator[tuple[str, Any]]:
    """(`file:line`, value) of every line that is not blank. Lines end at a newline alone, not at U+2028.

    `name` and `errors` are those of `read_text` and `check_value`.

    Raises:
        SrftError: the file cannot be read; a line is not JSON.
    """
    yield from parse_jsonl(read_text(path, name, errors), name or str(path), errors)


def parse_jsonl(text: str, name: str, errors: str = "strict") -> Iterator[tuple[str, Any]]:
    """`read_jsonl` of a text; `name` is what errors call its file."""
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            where = f"{name}:{number}"
            yield where, parse_json(line, where, errors)


def read_whole_rows(path: Path) -> list[dict[str, Any]]:
    """The rows (JSON objects) of a file that grows line by line, without a line that a kill cut; none of no file."""
    rows = []
    for line in read_text(path, errors="replace").split("\n") if path.exists() else ():
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(row, dict):
            rows.append(row)
    return rows


def json_lines(rows: Iterable[Mapping[str, Any]]) -> str:
    """Rows as JSON lines."""
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def append_rows(path: Path, rows: Iterable[Mapping[str, Any]], *, sync: bool = False) -> None:
    """Add rows to a JSON-lines file, all or none; with `sync` they are on disk when this returns."""
    size = path.stat().st_size if path.exists() else 0
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(json_lines(rows))
            if sync:
                file.flush()
                os.fsync(file.fileno())
    except OSError:  # the disk is full
        if path.exists():
            os.truncate(path, size)
        raise


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
