"""Who carries out a run: it is finished, another process has it, or it is yours."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from experiments import results
from experiments.common import console
from experiments.common.files import LOCK, check_writable, run_lock
from experiments.results import Result


class Owner(Enum):
    """The answers of `claim_run`."""

    NOBODY = "finished"  # the run has its result
    OTHER = "taken"  # another process carries it out
    YOU = "yours"  # to carry out, for as long as the block lasts


@dataclass(frozen=True)
class Claim:
    """The answer of `claim_run`, with the result of a finished run."""

    owner: Owner
    result: Result | None = None


@contextmanager
def claim_run(outputs: str, id: str, wait: bool = True) -> Iterator[Claim]:
    """Ask for a run, and hold its folder's lock inside the block if it is yours.

    A block that raises before it has written anything leaves no folder behind.

    Args:
        outputs: The folder of results.
        id: The run's id.
        wait: Whether to wait for a process that carries the run out. Otherwise it is OTHER's.

    Raises:
        OSError: The result could not be written.
        UserError: The result file is damaged.
    """
    if (result := results.finished_result(outputs, id)) is not None:
        yield Claim(Owner.NOBODY, result)
        return
    folder = results.run_folder(outputs, id)
    check_writable(folder)
    made = [parent for parent in (folder, *folder.parents) if not parent.exists()]
    with ExitStack() as stack:
        own = stack.enter_context(run_lock(folder, wait=False))
        if not own and wait:
            console.info(f"{id} is being run by another process: waiting for it")
            own = stack.enter_context(run_lock(folder))
        if not own:
            yield Claim(Owner.OTHER)
        elif (result := results.finished_result(outputs, id)) is not None:  # by the process waited for
            yield Claim(Owner.NOBODY, result)
        else:
            try:
                yield Claim(Owner.YOU)
            except BaseException:
                _remove_unused(folder, made)
                raise


def _remove_unused(folder: Path, made: list[Path]) -> None:
    """Remove the lock and the folders made for it where nothing else is in them."""
    if [path.name for path in folder.iterdir()] == [LOCK] and folder in made:
        (folder / LOCK).unlink()
    for parent in made:
        with suppress(OSError):  # not empty, or in use by another run
            parent.rmdir()
