"""Add the finished results of an experiment to an archive for version control.

    python -m experiments.archive table7 --mini --to experiments/evidence
    python -m experiments.archive demo seed=0 paths.outputs=elsewhere --to experiments/evidence

An archive has a JSON-lines file per backbone and a line per run, which includes later measurements
of its model but no weights or predictions. It is read like any folder of results:
`paths.outputs=experiments/evidence`. Existing lines are never replaced; those whose run has other
numbers here are named. Later measurements that a line lacks are added to it if the run has the same
scores.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from experiments import results
from experiments.cli import guarded, parse
from experiments.common import console
from experiments.results import archive, printing, store


def main(arguments: list[str] | None = None) -> int:
    options = parse(__doc__, arguments, None, "", (), _add_target)
    target: Path = options.given.to
    lines = dict(archive.lines(target))
    before, others = len(lines), []
    frame = results.load(options.overrides, finished=True)
    if mix := printing.mixes(frame):
        console.error(mix)
    for result in frame.result:
        found = {
            name: store.read_analysis(options.outputs, result.id, name) for name in store.ANALYSES
        }
        line = archive.line(result, {name: value for name, value in found.items() if value})
        if not archive.same_numbers(lines.get(result.id, line), line):
            others.append(result.id)
        lines[result.id] = archive.merged(lines.get(result.id, line), line)
    files = archive.write(target, lines.values())
    if others:
        console.error(f"{len(others)} lines stay, with other numbers: {', '.join(others)}")
    console.info(
        f"{len(lines) - before} results added to {target}, now {len(lines)} in {len(files)} files"
    )
    return 0


def _add_target(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--to", metavar="FOLDER", type=Path, required=True, help="the folder of the archive"
    )


if __name__ == "__main__":
    sys.exit(guarded(main))
