"""Where results are stored, and how they are read and written. Does not import torch.

<outputs>/runs/<id>/     config.yaml, importance.json, adapter.safetensors and result.json of a run;
                         result.json is written last, atomically, and alone marks a run as finished
<outputs>/*.jsonl        an archive: finished results without weights, one per line
                         (experiments.results.archive)
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from experiments.common.files import atomic_write
from experiments.config.schema import UserError
from experiments.results import archive
from experiments.results.result import Failure, Result, from_plain, parse, to_plain
from loradrop.checksums import read_json, write_json

# besides finished and failed; changed: finished, but with other data or weights than those here now
RUNNING, CHANGED, DAMAGED, MISSING = "running", "changed", "damaged", "missing"
RESULT = "result.json"
ANALYSES = ("distribution", "removal")  # later measurements of the model, stored beside it
PREDICTIONS = "predictions.jsonl"  # of the best epoch: a line is a generated text, or logits


def run_folder(outputs: str | Path, id: str) -> Path:
    """The folder of a run's files."""
    return Path(outputs) / "runs" / id


def location(outputs: str | Path, id: str) -> Path:
    """The file that holds a run's result, or will hold it."""
    own = run_folder(outputs, id) / RESULT
    return own if own.exists() else archive.file_of(outputs, id) or own


def read(outputs: str | Path, id: str) -> Result | Failure | None:
    """Read the result of a run.

    Args:
        outputs: The folder of results.
        id: The run.

    Returns:
        The result; None if there is none.

    Raises:
        UserError: If the file is not a valid result, or is that of another run.
    """
    path = run_folder(outputs, id) / RESULT
    try:
        found = parse(path.read_bytes())
        if found.id != id:
            raise ValueError(f"it is the result of {found.id}")
        return found
    except (FileNotFoundError, NotADirectoryError):
        return archived(outputs, id)
    except (ValueError, KeyError, TypeError) as error:  # not JSON, or other JSON
        raise UserError(
            f"{path} is damaged ({type(error).__name__}: {error}); delete it and run again"
        ) from error


def archived(outputs: str | Path, id: str) -> Result | Failure | None:
    """Read the result of a run from the archive in a folder.

    Returns:
        The result; None if there is none.

    Raises:
        UserError: If its line is damaged.
    """
    line = archive.lines(outputs).get(id)
    if line is None:
        return None
    try:
        return from_plain({key: value for key, value in line.items() if key != archive.ANALYSES})
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{outputs}/*.jsonl: the line of {id} is damaged ({error})") from error


def finished_result(outputs: str | Path, id: str) -> Result | None:
    """Read the result of a run if it is finished.

    Returns:
        The result; None if the run is not finished.

    Raises:
        UserError: As `read`.
    """
    found = read(outputs, id)
    return found if isinstance(found, Result) else None


def ids(outputs: str | Path) -> Iterator[str]:
    """The ids of all runs that have a result, sorted."""
    own = {path.parent.name for path in Path(outputs, "runs").glob(f"*/{RESULT}")}
    yield from sorted({*own, *archive.lines(outputs)})


def write(outputs: str | Path, result: Result | Failure) -> None:
    """Store a result, atomically. Later measurements of the model of an earlier one are removed."""
    for name in ANALYSES:
        (run_folder(outputs, result.id) / f"{name}.json").unlink(missing_ok=True)
    with atomic_write(run_folder(outputs, result.id) / RESULT) as path:
        write_json(path, to_plain(result), indent=1, allow_nan=False)


def discard(outputs: str | Path, id: str) -> None:
    """Remove the result of a run: its other files are about to be those of another training."""
    (run_folder(outputs, id) / RESULT).unlink(missing_ok=True)


def read_analysis(outputs: str | Path, id: str, name: str) -> dict[str, Any] | None:
    """Read a later measurement of a finished run's model (experiments.runner.post_hoc).

    Args:
        outputs: The folder of results.
        id: The run.
        name: One of ANALYSES.

    Returns:
        The measurement; None if there is none.

    Raises:
        UserError: If the file is damaged.
    """
    path = run_folder(outputs, id) / f"{name}.json"
    if path.exists():
        try:
            return read_json(path)
        except ValueError as error:
            raise UserError(f"{error}; delete it and run again") from error
    if path.with_name(RESULT).exists():  # which may be newer than the archive's
        return None
    return archive.lines(outputs).get(id, {}).get(archive.ANALYSES, {}).get(name)


def write_analysis(outputs: str | Path, id: str, name: str, content: dict[str, Any]) -> None:
    """Store an analysis beside the run's result, atomically."""
    with atomic_write(run_folder(outputs, id) / f"{name}.json") as path:
        write_json(path, content, allow_nan=False)
