"""Decide who carries out a run: nobody (it is finished), another process, or this one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from experiments import results
from experiments.common import console
from experiments.common.files import HOLDER, LOCK, check_writable, holder_of, run_lock
from experiments.results import Result


class Owner(Enum):
    """The answers of `claim_run`."""

    NOBODY = "finished"  # the run is finished
    OTHER = "taken"  # another process is carrying it out
    YOU = "yours"  # this process, during the block


@dataclass(frozen=True)
class Claim:
    """The answer of `claim_run`, with the result if the run is finished."""

    owner: Owner
    result: Result | None = None


@contextmanager
def claim_run(
    outputs: str, id: str, wait: bool = True, redo: Callable[[Result], bool] = lambda result: False
) -> Iterator[Claim]:
    """Claim a run, and hold the lock of its folder during the block if it is yours.

    If the block raises before it has written anything, the folder is removed again.

    Args:
        outputs: The folder of results.
        id: The run's id.
        wait: Whether to wait for another process that is carrying the run out.
        redo: Whether to carry a run with this result out again.

    Yields:
        The claim; its owner is OTHER only without `wait`.

    Raises:
        OSError: If the result could not be written.
        UserError: If the result file is damaged.
    """
    result = results.finished_result(outputs, id)
    if result is not None and not redo(result):
        yield Claim(Owner.NOBODY, result)
        return
    folder = results.run_folder(outputs, id)
    check_writable(folder)
    made = [parent for parent in (folder, *folder.parents) if not parent.exists()]
    with ExitStack() as stack:
        own = stack.enter_context(run_lock(folder, wait=False))
        if not own and wait:
            console.info(f"{id} is being run by {holder_of(folder)}: waiting for it")
            own = stack.enter_context(run_lock(folder))
        if not own:
            yield Claim(Owner.OTHER)
            return
        result = results.finished_result(outputs, id)
        if result is not None and not redo(result):  # finished meanwhile
            yield Claim(Owner.NOBODY, result)
        else:
            try:
                yield Claim(Owner.YOU)
            except BaseException:
                _remove_unused(folder, made)
                raise


def _remove_unused(folder: Path, made: list[Path]) -> None:
    """Remove the lock, and the folders made for it that hold nothing else."""
    if folder in made and {path.name for path in folder.iterdir()} <= {LOCK, HOLDER}:
        for path in folder.iterdir():
            path.unlink(missing_ok=True)
    for parent in made:
        with suppress(OSError):  # not empty, or in use by another run
            parent.rmdir()
