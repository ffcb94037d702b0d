"""Write docs/evidence.md: the paper's claims, and what our results say of them.

    python -m experiments.claims

The text is docs/evidence.md.in. Its placeholders, such as ${own_q}, are filled from the results in
experiments/evidence, so a number cannot differ from its runs. The figures are redrawn as well.
"""

from __future__ import annotations

import sys
from pathlib import Path
from string import Template

from experiments.cli import guarded
from experiments.common import console
from experiments.common.files import atomic_write
from experiments.config.catalog import experiment
from experiments.config.schema import CONF, UserError

DOCS = Path(CONF).parent / "docs"
TEMPLATE, PAGE, FIGURES = DOCS / "evidence.md.in", DOCS / "evidence.md", DOCS / "evidence"
EVIDENCE = Path(__file__).with_name("evidence")
MAP = "mpnet_importance"  # shown as a map of layers, not as its figure in the catalogue
SHOWN = (MAP, "mpnet_stage1")  # the experiments whose figures the page shows


def rendered() -> str:
    """Fill in the page.

    Raises:
        UserError: If the template has a placeholder without a number.
    """
    from experiments.reporting.claims import facts

    try:
        return Template(TEMPLATE.read_text(encoding="utf-8")).substitute(facts(EVIDENCE))
    except KeyError as error:
        raise UserError(f"{TEMPLATE.name}: there is no number {error}") from error


def draw(name: str) -> Path:
    """Draw the figure of an experiment from the committed results."""
    from experiments import results
    from experiments.plotting.runs import importance_map
    from experiments.reporting.figures import IMPORTANCES, figure_kind
    from experiments.reporting.run_data import importance_rows, labelled

    frame = results.load(name, outputs=EVIDENCE)
    if name == MAP:
        finished = frame[frame.status == results.FINISHED]
        drawn = importance_map(importance_rows(labelled(finished)))
    else:
        figure = experiment(name).figure or IMPORTANCES
        kind = figure_kind(figure)
        data = kind.data(frame, str(EVIDENCE), **figure.arguments)
        drawn = kind.plot(data, **figure.arguments)
    path = FIGURES / f"{name}.png"
    with atomic_write(path) as file:
        drawn.savefig(file, format="png", dpi=160, bbox_inches="tight")
    return path


def main() -> int:
    page = rendered()
    for name in SHOWN:
        draw(name)
    with atomic_write(PAGE) as path:
        path.write_text(page, encoding="utf-8")
    console.info(f"saved as {PAGE}")
    return 0


if __name__ == "__main__":
    sys.exit(guarded(main))
