"""Print and save the table of an experiment, beside the paper's numbers if it has any.

python -m experiments.table table1              print and save outputs/tables/table1.md
python -m experiments.table table1 --epoch last --aggregate median --format latex
python -m experiments.table demo seed=0 --format csv    part of an experiment, as CSV
python -m experiments.table parameters          trainable parameters of the paper's tables

By default scores are aggregated as in the paper: the mean over seeds of each seed's best epoch.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import pandas as pd

from experiments import results
from experiments.cli import Options, guarded, parse
from experiments.common import console
from experiments.common.files import atomic_write
from experiments.config.catalog import experiment
from experiments.config.schema import UserError
from experiments.reporting import parameter_table, tables
from experiments.reporting.comparison import SEED_AGGREGATES, compare
from experiments.reporting.published import published
from experiments.reporting.statistics import paired_tests
from experiments.results import printing

PARAMETERS = "parameters"  # a table without runs


def main(arguments: list[str] | None = None) -> int:
    options = parse(__doc__, arguments, tables.SUFFIXES, "markdown", (PARAMETERS,), _add_aggregate)
    if options.experiment == PARAMETERS:
        if any(not override.startswith("paths.outputs=") for override in options.overrides[1:]):
            raise UserError(f"{PARAMETERS} uses no runs; its only override is paths.outputs")
        counts = parameter_table.table(_counted, options.outputs)
        parameter_table.show(counts)
        _save(tables.frame(counts, options.format), parameter_table.CAPTION, options)
        return 0
    frame = results.load(options.overrides)
    finished = frame[frame.status == results.FINISHED]
    missing = len(frame) - len(finished)
    printing.changed(frame)
    if finished.empty:
        console.error(f"{options.experiment}: no finished run; start with: {options.command}")
        return 1
    heading, text = (
        _compared(frame, options)
        if options.experiment in published()
        else _plain(finished, options)
    )
    if missing:
        console.error(
            f"{missing} of {len(frame)} runs are missing and not in the table; "
            f"to make them: {options.command}"
        )
    mix = printing.version_mix(finished)
    if mix:
        console.error(mix)
    _save(text, f"{heading}, {_source(finished, options)} {mix}".rstrip(), options)
    return 0


def _counted() -> pd.DataFrame:
    from experiments import parameters  # torch and transformers

    return parameters.table()


def _add_aggregate(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--epoch",
        choices=results.AGGREGATES,
        default="best",
        help="the epoch of each run that counts",
    )
    parser.add_argument(
        "--aggregate", choices=SEED_AGGREGATES, default="mean", help="how to combine seeds"
    )


def _compared(frame: pd.DataFrame, options: Options) -> tuple[str, str]:
    """Print a comparison; return its heading and its text in the chosen format."""
    epoch, aggregate = options.given.epoch, options.given.aggregate
    table = compare(options.experiment, frame, epoch, aggregate)
    ours = f"{aggregate} over seeds ± std at the {epoch} epoch of each, in percent"
    heading = f"{options.experiment}: {table.caption}. Ours: {ours}"
    console.terminal.print(heading)
    for part in tables.for_terminal(table, console.terminal.width):
        console.terminal.print(part, soft_wrap=isinstance(part, str))
    return heading, tables.comparison(table, options.format)


def _plain(finished: pd.DataFrame, options: Options) -> tuple[str, str]:
    epoch, aggregate = options.given.epoch, options.given.aggregate
    printing.overview(results.over_seeds(finished, aggregate), epoch, aggregate)
    heading = (
        "Kept: layers with their own LoRA. "
        f"{aggregate.capitalize()} ± std over seeds, in percent, at best and last epoch"
    )
    text = tables.frame(
        results.over_seeds(finished, aggregate, ids=options.format == "csv"), options.format
    )
    return heading, text + _paired(finished, options)


def _paired(finished: pd.DataFrame, options: Options) -> str:
    """Print the paired tests of a study that has them; return them as text, "" for CSV."""
    paired = experiment(options.experiment).paired
    if paired is None:
        return ""
    lines = paired_tests(finished, options.given.epoch, paired.key, paired.against)
    for line in lines:
        console.terminal.print(line, soft_wrap=True)
    style = tables.STYLES.get(options.format)
    return "".join(f"\n{style.plain(line)}\n" for line in lines) if style else ""


def _save(text: str, caption: str, options: Options) -> None:
    head = {"csv": "", "latex": f"% {caption}\n"}.get(options.format, f"{caption}\n\n")
    path = (
        Path(options.outputs) / "tables" / f"{options.experiment}.{tables.SUFFIXES[options.format]}"
    )
    with atomic_write(path) as file:
        file.write_text(head + text, encoding="utf-8")
    console.info(f"saved as {path}")


def _source(finished: pd.DataFrame, options: Options) -> str:
    """What was scored, by which command, and where the results are."""
    rows = sorted(
        {
            f"{rows} rows of {split}"
            for r in finished.result
            for split, rows in r.evaluated_on.items()
        }
    )
    return (
        f"on {' and '.join(rows)}. Heads are trained but not counted. "
        f"Made by `{options.command}` from {len(finished)} results in {options.outputs}."
    )


if __name__ == "__main__":
    sys.exit(guarded(main))
