"""Rows of data sets as they lie in files, folders and on the hub, each with the place that an error names."""

from __future__ import annotations

import csv
import difflib
import io
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from srft.data.files import COMPRESSIONS, parse_json, parse_jsonl, read_text
from srft.errors import SrftError, reason

FORMATS = (".jsonl", ".json", ".parquet", ".csv", ".tsv")
SPLITS = frozenset({"train", "test", "validation", "valid", "val", "dev", "eval"})
HUB_ID = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?")
Rows = Iterator[tuple[str, Any]]  # (`file, row`, the row)


def file_format(path: Path) -> str:
    """The format of a file by its name, e.g. ".jsonl" of a.jsonl and of a.jsonl.zst; "" of what is no file of rows."""
    name = path.with_suffix("") if path.suffix.lower() in COMPRESSIONS else path
    return name.suffix.lower() if name.suffix.lower() in FORMATS else ""


def read_rows(local: Path, name: str, split: str, options: Mapping[str, Any]) -> Rows:
    """The rows of a file, of a folder, or of a hub data set where nothing on this machine is meant.

    Args:
        local: the path on this machine.
        name: as the user wrote it.
        split: of a folder or a hub data set.
        options: of `datasets.load_dataset`, for the hub.

    Raises:
        SrftError: naming what was looked for and what is near, for what is missing, mixed, malformed or unknown.
    """
    try:
        if local.is_file():
            return read_file(local, name)
        if local.is_dir():
            return _folder(local, name, split)
        if not _is_hub_id(name):
            raise _missing(local, name)
    except OSError as error:  # too long a name, a folder that may not be read
        raise SrftError(f"cannot be read: {error.strerror or error}", where=name, fix="Check the path.") from None
    return _hub(name, split, options)


def read_file(path: Path, name: str = "") -> Rows:
    """The rows of one file; `name` is what errors call it.

    Raises:
        SrftError: it is of another format than its name says, or of none that is known.
    """
    name = name or str(path)
    kind = file_format(path)
    if not kind:
        raise SrftError(f"a file of unknown format '{path.suffix}'", where=name, fix=f"Known: {_known()}.")
    if kind == ".parquet":
        return _parquet(path, name)
    text = read_text(path, name)
    if kind in (".csv", ".tsv"):
        header = text.partition("\n")[0]
        semicolons = ";" in header and "," not in header  # as spreadsheets write it where the comma is for decimals
        return _table(text, name, "\t" if kind == ".tsv" else ";" if semicolons else ",")
    if kind == ".json" and text.lstrip().startswith("["):
        return ((f"{name}, row {i}", row) for i, row in enumerate(parse_json(text, name)))
    if kind == ".json" and not re.search(r"\}\s*\n\s*\{", text):  # not JSON lines under another name
        return iter([(name, parse_json(text, name))] if text.strip() else [])
    return parse_jsonl(text, name)


def _parquet(path: Path, name: str) -> Rows:
    from pyarrow.parquet import ParquetFile

    number = 0
    try:
        for batch in ParquetFile(path, page_checksum_verification=True).iter_batches():
            for row in batch.to_pylist():
                yield f"{name}, row {number}", row
                number += 1
    except Exception as error:  # pyarrow's own kinds, and those of values that Python cannot hold
        what = f"not a whole Parquet file: {reason(error)}"
        raise SrftError(
            what, where=f"{name}, row {number}" if number else name, fix="Fetch or write it anew."
        ) from None


def _table(text: str, name: str, delimiter: str) -> Rows:
    """Values stay text, as they stand: `datasets` would read 007 as 7 and the answer None as a missing one."""
    csv.field_size_limit(sys.maxsize)  # the default ends at 128 KiB, which a demonstration may exceed
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    where = f"{name}:1"
    try:
        header = reader.fieldnames or ()
        if twice := next((column for column in header if column and header.count(column) > 1), None):
            raise SrftError(f"two columns are called '{twice}'", where=where, fix="Give each its own name.")
        where = f"{name}:{reader.line_num + 1}"
        for row in reader:
            if None in row:
                what = f"more fields than the header's {len(header)}"
                raise SrftError(what, where=where, fix=f"Put quotes around fields that hold '{delimiter}'.")
            yield where, row
            where = f"{name}:{reader.line_num + 1}"
    except csv.Error as error:
        raise SrftError(f"malformed: {error}", where=where, fix="Correct the quotes of that line.") from None


def _folder(folder: Path, name: str, split: str) -> Rows:
    """A data set as `save_to_disk` leaves it, or the files of one split and format that lie in the folder."""
    if (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file():
        return _saved(folder, name, split)
    files = [file for file in sorted(folder.iterdir()) if file.is_file() and file_format(file)]
    if not files:
        held = ", ".join(sorted(f.name + "/" * f.is_dir() for f in folder.iterdir())[:8]) or "nothing"
        raise SrftError(f"a folder without a file of rows; it holds {held}", where=name, fix=f"Known: {_known()}.")
    splits = {file: SPLITS & set(re.split(r"[\W_]", file.name)) for file in files}
    if any(splits.values()):
        files = [file for file in files if split in splits[file]]
    listed = ", ".join(file.name for file in splits)
    if not files:
        raise SrftError(f"no file of the split '{split}' among {listed}", where=name, fix="Give `split`, or one file.")
    if len({file_format(file) for file in files}) > 1:
        raise SrftError(f"a folder of several formats: {listed}", where=name, fix="Name one of these files.")
    return (placed for file in files for placed in read_file(file, f"{name}/{file.name}"))


def _saved(folder: Path, name: str, split: str) -> Rows:
    import datasets

    try:
        saved = datasets.load_from_disk(str(folder))
    except Exception as error:  # datasets raises many kinds
        raise _damaged(name, error) from error
    if isinstance(saved, datasets.DatasetDict):
        if split not in saved:
            known = ", ".join(map(str, saved))
            raise SrftError(f"no split '{split}'", where=name, fix=f"It has {known}: give one as `split`.")
        saved, name = saved[split], f"{name}[{split}]"
    try:
        saved.data.table.validate(full=True)  # to read rows of offsets that lead elsewhere would end the process
    except Exception as error:
        raise _damaged(name, error) from error
    return _saved_rows(saved, name)


def _saved_rows(saved: Iterable[Any], name: str) -> Rows:
    number = 0
    try:
        for row in saved:
            yield f"{name}, row {number}", row
            number += 1
    except Exception as error:  # a damaged file shows when it is read
        raise _damaged(f"{name}, row {number}", error) from error


def _damaged(where: str, error: Exception) -> SrftError:
    return SrftError(f"not a whole data set: {reason(error)}", where=where, fix="Fetch or save it anew.")


def _hub(name: str, split: str, options: Mapping[str, Any]) -> Rows:
    from datasets import load_dataset

    try:
        rows = load_dataset(name, split=split, **options)
    except Exception as error:  # datasets and the hub raise many kinds
        raise SrftError(
            f"nothing of that name is here, and the hub gave no split '{split}': {reason(error)}",
            where=name,
            fix=f"Check id, split and connection; a local file of the same columns does as well ({_known()}).",
        ) from error
    return ((f"{name}[{split}], row {i}", row) for i, row in enumerate(rows))


def _is_hub_id(name: str) -> bool:
    """OWNER/NAME or NAME, unless it means this machine: by a file's ending, a folder that is here, or a near name."""
    owner, _, last = name.rpartition("/")
    ending = re.search(r"\.[A-Za-z]+\Z", last) or Path(last).suffix in COMPRESSIONS
    is_near = not owner and _near(Path(name))
    return HUB_ID.fullmatch(name) is not None and not ending and not is_near and not (owner and Path(owner).is_dir())


def _missing(local: Path, name: str) -> SrftError:
    looked = "" if local.is_absolute() and str(local) == name else f"; looked for {local.absolute()}"
    parent = local.parent
    while not parent.is_dir():
        parent = parent.parent
    if near := _near(local):
        fix = f"Did you mean {' or '.join(repr(other) for other in near)}?"
    elif parent != local.parent:
        fix = f"There is no folder '{local.parent}'."
    else:
        held = sorted(f.name + "/" * f.is_dir() for f in parent.iterdir() if f.is_dir() or file_format(f))
        fix = f"That folder holds {', '.join(held[:8]) or 'no file of rows'}."
    if "/" not in name and not local.suffix:
        fix += " A data set of the hub is OWNER/NAME."
    return SrftError(f"no such file or folder{looked}", where=name, fix=fix)


def _near(local: Path) -> list[str]:
    """Names in its folder that are much like it, with or without their endings."""
    if not local.parent.is_dir():
        return []
    names = {file.name: file.name for file in local.parent.iterdir() if file.is_dir() or file_format(file)}
    names |= {name.partition(".")[0]: name for name in names}
    words = (local.name, local.name.partition(".")[0])
    close = [near for word in words for near in difflib.get_close_matches(word, names, n=2, cutoff=0.75)]
    return list(dict.fromkeys(names[near] for near in close))[:2]


def _known() -> str:
    return f"{', '.join(FORMATS)}, the text ones also with {', '.join(COMPRESSIONS)}"
