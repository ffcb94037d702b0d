"""Whether the Hub is available, and which local folder replaces it. Free of torch and transformers.

Libraries retry an unreachable Hub for about 20 seconds. This module asks once, with a hard time
limit, so a run fails at once or continues with the files on the disk.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Collection
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import huggingface_hub  # loads its functions when they are first used, which takes 0.2 s
from huggingface_hub import constants

TIMEOUT = 3.0  # seconds
ASSETS = Path(__file__).parent / "assets"
OWN = "loradrop/"  # ids of the package's own models
BLOCK, BLOCKS = 1 << 16, 256  # a large file's sample: bytes of a block, number of blocks


def hub_available() -> bool:
    """Whether the Hub answers. False at once if HF_HUB_OFFLINE is set.

    The Hub is asked once per process, for at most 3 seconds.
    """
    return available(constants.ENDPOINT)


def available(endpoint: str) -> bool:
    """Whether another server answers, e.g. https://raw.githubusercontent.com.

    HF_HUB_OFFLINE switches off all of the network.
    """
    return not _offline() and _answers(endpoint)


def why_unavailable(endpoint: str | None = None) -> str:
    """Return, as a clause for an error message, why the Hub or `endpoint` is not available."""
    return (
        "HF_HUB_OFFLINE is set"
        if _offline()
        else f"{endpoint or constants.ENDPOINT} does not answer"
    )


def find_local(root: Path | None, *names: str) -> Path | None:
    """Return the first root/name that is a folder, or None. Names are case-sensitive."""
    if root is None:
        return None
    return next((folder for name in names if (folder := Path(root) / name).is_dir()), None)


def model_folder(hub_id: str, models: Path | None) -> Path | None:
    """Return the folder that replaces a model of the Hub: in `models` or in this package."""
    name = hub_id.removeprefix(OWN)
    own = find_local(ASSETS, name) if hub_id.startswith(OWN) else None
    return find_local(models, hub_id) or own


def files_fingerprint(folder: Path) -> str:
    """Hash a model's files. Large files are sampled."""
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*.json")) + sorted(folder.glob("*.safetensors")):
        size = path.stat().st_size
        digest.update(f"{path.name} {size}".encode())
        with path.open("rb") as file:
            for block in range(0, size, max(BLOCK, size // BLOCKS)):
                file.seek(block)
                digest.update(file.read(BLOCK))
    return digest.hexdigest()[:16]


def has_one_of(repo_id: str, revision: str | None, names: Collection[str]) -> bool:
    """Whether a model's repository has one of these files, in the cache or on the Hub.

    Nothing is downloaded.
    """
    if any(
        isinstance(huggingface_hub.try_to_load_from_cache(repo_id, name, revision=revision), str)
        for name in names
    ):
        return True
    try:
        return hub_available() and any(
            huggingface_hub.file_exists(repo_id, name, revision=revision) for name in names
        )
    except Exception:  # the download that follows reports what is wrong
        return True


def fetch_dataset(repo_id: str, revision: str | None, patterns: list[str]) -> Path:
    """Return the folder in the Hub's cache with a data set's files, downloaded if necessary.

    Args:
        repo_id: The data set's repository.
        revision: The commit or branch. None takes the newest commit.
        patterns: Glob patterns of the wanted files. Each must match a file.

    Raises:
        FileNotFoundError: The files are not in the cache and cannot be downloaded. The message
            says why.
    """
    wanted: dict[str, Any] = {
        "repo_type": "dataset",
        "revision": revision,
        "allow_patterns": patterns,
    }
    with suppress(FileNotFoundError):  # absent from the cache or incomplete
        folder = Path(huggingface_hub.snapshot_download(repo_id, local_files_only=True, **wanted))
        # the folder may hold another task of the same repository only
        if all(any(folder.glob(pattern)) for pattern in patterns):
            return folder
    name = f"{repo_id} at revision {revision or 'main'}"
    if not hub_available():
        raise FileNotFoundError(
            f"{name} is not in the local cache and cannot be fetched ({why_unavailable()})"
        )
    try:
        return Path(huggingface_hub.snapshot_download(repo_id, **wanted))
    except Exception as error:  # a missing revision, a proxy, a full disk: the remedy is the same
        reason = f"{type(error).__name__}: {error}".partition("\n")[0].rstrip(".")
        raise FileNotFoundError(f"fetching {name} failed ({reason})") from error


def _offline() -> bool:
    # the library reads the variable at import; a script may set it later
    return constants.is_offline_mode() or os.environ.get("HF_HUB_OFFLINE", "").upper() in {
        "1",
        "ON",
        "YES",
        "TRUE",
    }


@cache
def _answers(endpoint: str) -> bool:
    answer: list[int] = []

    def ask() -> None:
        from huggingface_hub.utils import get_session

        try:
            answer.append(get_session().head(endpoint, timeout=TIMEOUT).status_code)
        except Exception:  # whatever fails here, the Hub cannot be used
            return

    # a thread, as the client's timeout excludes the name look-up and a host's second address
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(TIMEOUT)
    return bool(answer) and answer[0] < 500  # a mirror may answer 404 for its root
