"""Draw the figure of an experiment from its result files.

    python -m experiments.figure figure9        save outputs/figures/figure9.png and figure9.csv
    python -m experiments.figure demo --format pdf

catalog.yaml names the figure of each experiment. If it names none, the figure shows the importance
y_i = g_i / sum_j g_j of every layer: mean and standard deviation over seeds, with a row of panels
per backbone and task and a panel per module type. Figures about trained models (distributions of
outputs, removed layers) measure each model once and store the measurement with the run.
"""

from __future__ import annotations

import sys
from pathlib import Path

from experiments import results
from experiments.cli import guarded, parse
from experiments.common import console
from experiments.common.files import atomic_write
from experiments.config.catalog import experiment
from experiments.config.schema import UserError
from experiments.results import printing

FORMATS = ("png", "pdf", "svg")


def main(arguments: list[str] | None = None) -> int:
    options = parse(__doc__, arguments, FORMATS, "png")
    # imported late: matplotlib takes half a second
    from experiments.reporting.figures import IMPORTANCES, figure_kind

    figure = experiment(options.experiment).figure or IMPORTANCES
    kind = figure_kind(figure)
    frame = results.load(options.overrides)
    printing.changed(frame)
    if mix := printing.mixes(frame[frame.status == results.FINISHED]):
        console.error(mix)
    missing = int((frame.status != results.FINISHED).sum())
    try:
        data = kind.data(frame, options.outputs, **figure.arguments)
    except (ValueError, FileNotFoundError) as error:
        raise UserError(f"{options.experiment}: {error}") from error
    if data.empty:
        console.error(
            f"{options.experiment}: no finished run has what the figure shows; "
            f"start with: {options.command}"
        )
        return 1
    drawn = kind.plot(data, **figure.arguments)
    path = Path(options.outputs) / "figures" / f"{options.experiment}.{options.format}"
    with atomic_write(path.with_suffix(".csv")) as file:
        data.to_csv(file, index=False)
    with atomic_write(path) as file:
        drawn.savefig(file, format=options.format, dpi=160, bbox_inches="tight")
    if missing:
        console.error(
            f"{missing} of {len(frame)} runs are missing and not in the figure; "
            f"to make them: {options.command}"
        )
    console.info(f"saved as {path}, its data as {path.with_suffix('.csv')}")
    return 0


if __name__ == "__main__":
    sys.exit(guarded(main))
