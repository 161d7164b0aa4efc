"""A manifest in a folder: size and SHA-256 of every other file in it when it was written, so that a folder of which a
file was torn, altered or lost since is not taken for whole."""

from __future__ import annotations

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path

from pydantic import Field, ValidationError

from srft.errors import SrftError
from srft.section import Section

MANIFEST = "srft-manifest.json"
THREADS = 4  # that hash; hashlib releases the GIL


class FileProof(Section):
    """What a file was."""

    bytes: int = Field(strict=True)
    sha256: str = Field(strict=True)


class Manifest(Section):
    """The files of a folder by their paths in it."""

    files: dict[str, FileProof]


def write_manifest(folder: Path) -> None:
    """Bring every file in a folder to the disk, then its manifest, then the folders themselves."""
    with ThreadPoolExecutor(THREADS) as pool:
        proofs = dict(zip(_files(folder), pool.map(_synced, _files(folder).values()), strict=True))
    file = folder / MANIFEST
    file.write_text(Manifest(files=proofs).model_dump_json(indent=2) + "\n", encoding="utf-8")
    sync(file)
    for path in (folder, *(path for path in folder.rglob("*") if path.is_dir())):
        sync(path)


def damage(folder: Path) -> str:
    """What differs in a folder from its manifest, of the first file that does; nothing ("") where all is as written."""
    if not (folder / MANIFEST).is_file():
        return f"{MANIFEST}: missing"
    try:
        stamps = [(path, path.stat()) for path in (folder / MANIFEST, *_files(folder).values())]
        return _damage(folder, tuple((path, stat.st_size, stat.st_mtime_ns, stat.st_ino) for path, stat in stamps))
    except OSError as error:
        return f"{Path(error.filename or folder).name}: cannot be read ({error.strerror})"


def check_manifest(folder: Path) -> None:
    """Return nothing where a folder is as its manifest says, or has none: not every model was saved with one.

    Raises:
        SrftError: naming the file and what differs.
    """
    if os.path.isfile(folder / MANIFEST) and (fault := damage(folder)):
        fix = f"Take another checkpoint or copy it anew; to use it as it is, delete its {MANIFEST}."
        raise SrftError(f"damaged: {fault}", where=str(folder), fix=fix)


def sync(path: Path) -> None:
    """Bring a file's content, or a folder's entries, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@lru_cache(maxsize=64)
def _damage(folder: Path, stamps: tuple[tuple[object, ...], ...]) -> str:
    """`damage`, computed once for files of the same sizes and times."""
    try:
        expected = Manifest.model_validate_json((folder / MANIFEST).read_bytes()).files
    except ValidationError as error:
        return f"{MANIFEST}: malformed ({error.errors()[0]['msg']})"
    files = _files(folder)
    for name, proof in sorted(expected.items()):
        if name not in files:
            return f"{name}: missing"
        if (size := files[name].stat().st_size) != proof.bytes:
            return f"{name}: {size} bytes, not {proof.bytes}"
    with ThreadPoolExecutor(THREADS) as pool:
        hashes = pool.map(lambda name: _sha256(files[name]), expected)
        differing = [name for name, found in zip(expected, hashes, strict=True) if found != expected[name].sha256]
    return f"{min(differing)}: checksum differs" if differing else ""


def _files(folder: Path) -> dict[str, Path]:
    """Every file but the manifest, by its path in the folder."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and path != folder / MANIFEST)
    return {path.relative_to(folder).as_posix(): path for path in paths}


def _synced(path: Path) -> FileProof:
    sync(path)
    return FileProof(bytes=path.stat().st_size, sha256=_sha256(path))


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
