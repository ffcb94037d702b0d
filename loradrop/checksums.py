"""Checksums of files that are read back, so that a changed bit is noticed. Free of torch.

JSON         a key `checksum`: SHA-256 of all other keys and values, however they are laid out
safetensors  an entry `checksum` in the metadata: SHA-256 of the tensors and the other entries
other files  <name>.sha256 beside the file, as `sha256sum` writes and checks it

A file without a checksum was written before there were any, and is accepted.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from io import BufferedRandom, BufferedReader
from pathlib import Path
from typing import Any

CHECKSUM = "checksum"
METADATA = "__metadata__"  # of a safetensors header
SUFFIX = ".sha256"
MISMATCH = "its content does not match its checksum"


def seal(content: Mapping[str, Any]) -> dict[str, Any]:
    """Add the checksum to a JSON object."""
    as_read = json.loads(json.dumps(content))  # number keys become texts, tuples lists
    return {**content, CHECKSUM: _digest(as_read)}


def unseal(plain: dict[str, Any]) -> dict[str, Any]:
    """Check a JSON object against its checksum, if it has one.

    Returns:
        The object without the checksum.

    Raises:
        ValueError: They do not match.
    """
    content = {key: value for key, value in plain.items() if key != CHECKSUM}
    if CHECKSUM in plain and plain[CHECKSUM] != _digest(content):
        raise ValueError(MISMATCH)
    return content


def loads(text: str | bytes) -> dict[str, Any]:
    """Decode a JSON object and check it.

    Raises:
        ValueError: It is no JSON object, or does not match its checksum.
    """
    try:
        plain = json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if not isinstance(plain, dict):
        raise ValueError("it is not a JSON object")
    return unseal(plain)


def write_json(path: Path, content: Mapping[str, Any], **options: Any) -> None:
    """Write a JSON object with its checksum; `options` are those of json.dumps."""
    path.write_text(json.dumps(seal(content), **options), encoding="utf-8")


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object and check it.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is damaged. The message names it.
    """
    try:
        return loads(path.read_bytes())
    except ValueError as error:  # of JSON, of UTF-8, or ours
        raise ValueError(f"{path} is damaged ({error})") from error


def seal_tensors(path: Path) -> None:
    """Complete a safetensors file: add the checksum, and sort the metadata.

    safetensors writes several entries of metadata in random order; sorted, the same tensors make
    the same file.

    Args:
        path: A file whose metadata has an entry `checksum` of 64 characters to fill in.
    """
    with path.open("r+b") as file:
        size, header = _header(file)
        metadata = header.pop(METADATA)
        metadata[CHECKSUM] = _tensors_digest(file, metadata, header)
        whole = {METADATA: dict(sorted(metadata.items())), **header}
        text = json.dumps(whole, ensure_ascii=False, separators=(",", ":")).encode()
        if len(text) > size:
            raise ValueError(f"{path}: safetensors writes its header in another way than we do")
        file.seek(8)
        file.write(text.ljust(size))


def check_tensors(path: Path) -> None:
    """Raise ValueError if a safetensors file does not match its checksum."""
    try:
        with path.open("rb") as file:
            _, header = _header(file)
            metadata = header.pop(METADATA, {})
            known = metadata.get(CHECKSUM)
            if known is not None and known != _tensors_digest(file, metadata, header):
                raise ValueError(MISMATCH)
    except (ValueError, AttributeError, OverflowError, MemoryError, RecursionError) as error:
        raise ValueError(f"{path} is damaged ({error})") from error


def write_beside(path: Path) -> None:
    """Write the checksum of a file beside it."""
    beside = path.with_name(path.name + SUFFIX)
    beside.write_text(f"{_file_digest(path)}  {path.name}\n", encoding="utf-8")


def matches(path: Path) -> bool | None:
    """Whether a file matches the checksum beside it; None if there is none."""
    beside = path.with_name(path.name + SUFFIX)
    if not beside.exists():
        return None
    return beside.read_bytes().split(b" ")[0] == _file_digest(path).encode()


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _header(file: BufferedReader | BufferedRandom) -> tuple[int, dict[str, Any]]:
    """The length of a safetensors header, and the header; the file then stands at the data."""
    size = int.from_bytes(file.read(8), "little")
    return size, json.loads(file.read(size))


def _tensors_digest(
    file: BufferedReader | BufferedRandom, metadata: Mapping[str, str], tensors: Any
) -> str:
    digest = hashlib.sha256()
    others = {key: text for key, text in metadata.items() if key != CHECKSUM}
    digest.update(json.dumps([others, tensors], sort_keys=True).encode())
    return hashlib.file_digest(file, lambda: digest).hexdigest()
