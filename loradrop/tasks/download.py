"""Download single files from their authors once, with pooch: a file is complete, or absent."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from huggingface_hub import constants
from huggingface_hub.utils import tqdm

from loradrop.hub import available, why_unavailable

STALLED = 30.0  # seconds without a byte


def cache_folder(name: str, url: str) -> Path:
    """Return the folder in HF_HOME for the files below `url`, one for each pinned address."""
    return (
        Path(constants.HF_HOME)
        / "loradrop"
        / f"{name}-{hashlib.sha256(url.encode()).hexdigest()[:8]}"
    )


def fetch_file(url: str, target: Path, sha256: str | None) -> Path:
    """Return `target`, downloaded from `url` if it does not exist yet or has another checksum.

    Args:
        url: The file's address.
        target: Its place on the disk. Only a complete file with the right checksum is put there.
        sha256: The checksum, None if it is not known.

    Raises:
        FileNotFoundError: The file cannot be downloaded; the message says why. Without a network
            this takes seconds.
    """
    import pooch  # late: its import takes a tenth of a second

    def download(url: str, output_file: str, _: Any) -> None:
        place = urlsplit(url)
        endpoint = f"{place.scheme}://{place.netloc}"
        if not available(endpoint):
            raise OSError(why_unavailable(endpoint))
        # pooch sets the total; disable=None shows no bar where there is no terminal
        with tqdm(total=1, unit="B", unit_scale=True, desc=target.name, disable=None) as bar:
            pooch.HTTPDownloader(bar, timeout=STALLED)(url, output_file, None)

    pooch.get_logger().setLevel(logging.WARNING)  # what it says of progress, the bar shows
    try:
        pooch.retrieve(url, sha256, target.name, target.parent, downloader=download)
    # no such file, no space left, a broken connection, the wrong file
    except (OSError, ValueError) as error:
        reason = str(error).partition("\n")[0].rstrip(".")
        state = "damaged" if target.is_file() else "not"
        raise FileNotFoundError(
            f"{url} is {state} in the local cache and cannot be fetched ({reason})"
        ) from error
    return target
