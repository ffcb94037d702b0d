"""Download single files from their authors once; a file is complete and verified, or absent."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO
from urllib.parse import urlsplit
from urllib.request import urlopen

from huggingface_hub import constants
from huggingface_hub.utils import tqdm

from loradrop.hub import available, why_unavailable

STALLED = 30.0  # seconds without a byte
BLOCK = 1 << 18  # bytes


def cache_folder(name: str, url: str) -> Path:
    """Return the folder in HF_HOME for the files below `url`, one for each pinned address."""
    return (
        Path(constants.HF_HOME)
        / "loradrop"
        / f"{name}-{hashlib.sha256(url.encode()).hexdigest()[:8]}"
    )


def fetch_file(url: str, target: Path, check: Callable[[Path], None]) -> Path:
    """Return `target`, downloaded from `url` if it does not exist yet.

    Args:
        url: The file's address.
        target: Its place on the disk. Only a complete and checked file is put there.
        check: Gets the path of the downloaded file and raises ValueError if it is the wrong one.

    Raises:
        FileNotFoundError: The file cannot be downloaded; the message says why. Without a network
            this takes seconds.
    """
    if target.is_file():
        return target
    place = urlsplit(url)
    endpoint = f"{place.scheme}://{place.netloc}"
    if place.scheme != "file" and not available(endpoint):
        raise FileNotFoundError(
            f"{url} is not in the local cache and cannot be fetched ({why_unavailable(endpoint)})"
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    # keep the suffix, which may tell a reader the format
    descriptor, name = tempfile.mkstemp(
        prefix=".part-", suffix=f"-{target.name}", dir=target.parent
    )
    try:
        with os.fdopen(descriptor, "wb") as file:
            _copy(url, file, target.name)
        check(Path(name))
        Path(name).replace(target)
    # no such file, no space left, a broken connection, the wrong file
    except (OSError, ValueError) as error:
        reason = str(error).partition("\n")[0].rstrip(".").replace(name, target.name)
        raise FileNotFoundError(
            f"fetching {url} failed ({reason or type(error).__name__})"
        ) from error
    finally:
        Path(name).unlink(missing_ok=True)
    return target


def check_sha256(path: Path, expected: str) -> None:
    """Raise ValueError if the file has another checksum."""
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != expected:
        raise ValueError(f"its sha256 is {found} instead of {expected}")


def _copy(url: str, file: BinaryIO, name: str) -> None:
    with urlopen(url, timeout=STALLED) as answer:
        size = int(answer.headers.get("Content-Length") or 0)
        with tqdm(total=size or None, unit="B", unit_scale=True, desc=name) as bar:
            while block := answer.read(BLOCK):
                file.write(block)
                bar.update(len(block))
        if size and file.tell() != size:
            raise OSError(f"the connection broke after {file.tell()} of {size} bytes")
