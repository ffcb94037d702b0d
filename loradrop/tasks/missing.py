"""What to say where a task's files are missing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path


def no_split(name: str, folder: Path, missing: Sequence[str], expected: str) -> FileNotFoundError:
    """The error of a folder that lacks splits.

    Args:
        name: The task.
        folder: Its local folder.
        missing: The splits that it lacks.
        expected: What the folder should hold.
    """
    held = ", ".join(sorted(path.name for path in folder.iterdir())[:20]) or "nothing"
    return FileNotFoundError(
        f"{name}: {folder} has no {' and no '.join(missing)} split. It needs {expected}; "
        f"it holds {held}."
    )


def no_data(
    name: str, official: str, data: Path | None, expected: str, error: FileNotFoundError
) -> FileNotFoundError:
    """The error of a task with neither a local folder nor a download.

    Args:
        name: The task.
        official: The name of its local folder.
        data: The folder of local data sets, None if there is none.
        expected: What the local folder should hold.
        error: Why nothing was downloaded.
    """
    folder = (Path(data) / official).absolute() if data else Path("<paths.data>") / official
    return FileNotFoundError(
        f"{name}: there is no folder {folder}, and {error}. To use local data, put {expected} "
        f"there, or set paths.data to the folder that has {official}/ in it."
    )
