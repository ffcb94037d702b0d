"""Print and save the table of an experiment, beside the paper's numbers if it has any.

    python -m experiments.table table1              print and save outputs/tables/table1.md
    python -m experiments.table table1 --epoch last --aggregate median --format latex
    python -m experiments.table demo seed=0 --format csv    part of an experiment, as CSV
    python -m experiments.table parameters          trainable parameters of the paper's tables

By default scores are aggregated as in the paper: the mean over seeds of each seed's best epoch.
"""

from __future__ import annotations

import argparse
import html
import sys
from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from experiments import results
from experiments.cli import Options, guarded, parse
from experiments.common import console
from experiments.common.files import atomic_write
from experiments.config import sweep
from experiments.config.catalog import experiment
from experiments.config.schema import UserError
from experiments.reporting import parameter_table, tables
from experiments.reporting.comparison import SEED_AGGREGATES, Comparison, compare
from experiments.reporting.published import published
from experiments.reporting.statistics import paired_tests
from experiments.results import printing

PARAMETERS = "parameters"  # a table without runs


def main(arguments: list[str] | None = None) -> int:
    options = parse(__doc__, arguments, tables.SUFFIXES, "markdown", (PARAMETERS,), _add_aggregate)
    if options.experiment == PARAMETERS:
        if sweep.keys(options.given.overrides) - {"paths.outputs"}:
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
    mix = printing.mixes(finished)
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
    heading = f"{options.experiment}: {comparison_heading(table, epoch, aggregate)}"
    console.terminal.print(heading)
    for part in tables.for_terminal(table, console.terminal.width):
        console.terminal.print(part, soft_wrap=isinstance(part, str))
    return heading, tables.comparison(table, options.format)


def _plain(finished: pd.DataFrame, options: Options) -> tuple[str, str]:
    """Print a table over seeds; return its heading and its text in the chosen format."""
    epoch, aggregate, format = options.given.epoch, options.given.aggregate, options.format
    printing.overview(results.over_seeds(finished, aggregate), epoch, aggregate)
    paired = paired_lines(options.experiment, finished, epoch)
    for line in paired:
        console.terminal.print(line, soft_wrap=True)
    rows = results.over_seeds(finished, aggregate, ids=format == "csv")
    return plain_heading(aggregate), plain(rows, paired, format)


def comparison_heading(table: Comparison, epoch: str = "best", aggregate: str = "mean") -> str:
    """What a comparison with the paper shows."""
    ours = f"{aggregate} over seeds ± std at the {epoch} epoch of each, in percent"
    return f"{table.caption}. Ours: {ours}"


def plain_heading(aggregate: str = "mean") -> str:
    """What a table over seeds shows."""
    return (
        "Kept: layers with their own LoRA. "
        f"{aggregate.capitalize()} ± std over seeds, in percent, at best and last epoch"
    )


def plain(rows: pd.DataFrame, paired: Iterable[str], format: str) -> str:
    """Format a table over seeds, with the paired tests below it.

    Args:
        rows: From `results.over_seeds`.
        paired: From `paired_lines`. CSV leaves them out.
        format: A key of tables.SUFFIXES.
    """
    style = tables.STYLES.get(format)
    below = [style.below.format(style.plain(line)) for line in paired if style]
    return tables.frame(rows, format) + "".join(below)


def paired_lines(name: str, finished: pd.DataFrame, epoch: str = "best") -> list[str]:
    """The paired tests of a study that has them, one sentence each."""
    paired = experiment(name).paired
    return paired_tests(finished, epoch, paired.key, paired.against) if paired else []


def _save(text: str, caption: str, options: Options) -> None:
    heads = {"csv": "", "latex": f"% {caption}\n", "html": f"<p>{html.escape(caption)}</p>\n"}
    head = heads.get(options.format, f"{caption}\n\n")
    path = (
        Path(options.outputs) / "tables" / f"{options.experiment}.{tables.SUFFIXES[options.format]}"
    )
    with atomic_write(path) as file:
        file.write_text(head + text, encoding="utf-8")
    console.info(f"saved as {path}")


def _source(finished: pd.DataFrame, options: Options) -> str:
    """What was scored, by which command, and where the results are."""
    return (
        f"{printing.evaluated_on(finished)}. Heads are trained but not counted. "
        f"Made by `{options.command}` from {len(finished)} results in {options.outputs}."
    )


if __name__ == "__main__":
    sys.exit(guarded(main))
