"""Give stored results their ids of today, from the configs that they record.

python -m experiments.rekey                            of the runs in outputs/
python -m experiments.rekey elsewhere                  of those in another folder

Needed once after an update that renames a key, a method or a backbone, or changes what is in an
id; until then runs under an old id count as missing. Results of an older schema are carried over,
too. Nothing is overwritten or deleted, and the command may be interrupted and repeated.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from experiments.cli import guarded
from experiments.common import console
from experiments.config.schema import UserError
from experiments.results.rekeying import rekey


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("outputs", nargs="?", default="outputs", type=Path, help="a folder of results")
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
