"""Give stored results the ids of this version, computed from their recorded configs.

    python -m experiments.rekey               runs in outputs/
    python -m experiments.rekey elsewhere     runs in another folder

Run this once after an update that renames a key, a method or a backbone, or changes what an id
covers; until then runs with an old id count as missing. Results of an older schema are converted
too. Nothing is overwritten or deleted, and the command can be interrupted and repeated.
"""

from __future__ import annotations

import sys
from pathlib import Path

from experiments.cli import guarded, parser_of
from experiments.common import console
from experiments.config.schema import UserError
from experiments.results.rekeying import rekey


def main(arguments: list[str] | None = None) -> int:
    parser = parser_of(__doc__)
    parser.add_argument(
        "outputs", nargs="?", default="outputs", type=Path, help="the folder of results"
    )
    given = parser.parse_args(arguments)
    if not given.outputs.is_dir():
        raise UserError(f"there is no folder {given.outputs}")
    renamed = left = runs = 0
    for change in rekey(given.outputs):
        runs += 1
        if change.problem:
            left += 1
            console.error(f"{change.old}: left as it is: {change.problem}")
        elif change.is_renamed:
            renamed += 1
            console.info(f"{change.old} -> {change.new}")
    console.info(f"{given.outputs}: {runs} runs, {renamed} with a new id, {left} left as they are")
    return 1 if left else 0


if __name__ == "__main__":
    sys.exit(guarded(main))
