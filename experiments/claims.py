"""Write docs/evidence.md, the paper's claims, and docs/questions.md, the reviews' questions.

    python -m experiments.claims

The texts are docs/evidence.md.in and docs/questions.md.in. Their placeholders, such as ${own_q},
are filled from the results in experiments/evidence, so a number cannot differ from its runs;
${cost_gsm8k} is what the runs of gsm8k cost. The figures are redrawn as well.
"""

from __future__ import annotations

import sys
from pathlib import Path
from string import Template

from experiments.catalog import cost
from experiments.cli import guarded, parser_of
from experiments.common import console
from experiments.common.files import atomic_write
from experiments.config.catalog import experiment
from experiments.config.schema import CONF, UserError
from experiments.config.sweep import run_configs

DOCS = Path(CONF).parent / "docs"
PAGES = (DOCS / "evidence.md", DOCS / "questions.md")
FIGURES = DOCS / "evidence"
EVIDENCE = Path(__file__).with_name("evidence")
COST = "cost_"  # begins a placeholder
MAP = "mpnet_importance"  # shown as a map of layers, not as its figure in the catalogue
REMOVAL = "mpnet_removal"  # of the runs that have been measured
SHOWN = (MAP, "mpnet_stage1", REMOVAL)  # the experiments whose figures the page shows


def template(page: Path) -> Path:
    """The text of a page, with placeholders in place of numbers."""
    return page.with_suffix(".md.in")


def rendered() -> dict[Path, str]:
    """Fill in the pages.

    Returns:
        The text of each page.

    Raises:
        UserError: If a template has a placeholder without a number.
    """
    from experiments.reporting import answers, claims

    numbers: dict[str, str] = {}
    for part in (*claims.PARTS, *answers.PARTS):
        found = part(EVIDENCE)
        if twice := sorted(numbers.keys() & found.keys()):
            raise UserError(f"two numbers for the pages have one name: {', '.join(twice)}")
        numbers |= found
    texts = {page: Template(template(page).read_text(encoding="utf-8")) for page in PAGES}
    for name in {name for text in texts.values() for name in text.get_identifiers()}:
        if name.startswith(COST):
            entry = experiment(name.removeprefix(COST))
            numbers[name] = cost(entry, run_configs(entry.overrides()))
    try:
        return {page: text.substitute(numbers) for page, text in texts.items()}
    except KeyError as error:
        raise UserError(f"there is no number {error} for a page") from error


def draw(name: str) -> Path:
    """Draw the figure of an experiment from the committed results."""
    from experiments import results
    from experiments.plotting.runs import importance_map
    from experiments.reporting.claims import removal_runs
    from experiments.reporting.figures import IMPORTANCES, figure_kind
    from experiments.reporting.run_data import importance_rows, labelled

    frame = removal_runs(EVIDENCE) if name == REMOVAL else results.load(name, outputs=EVIDENCE)
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


def main(arguments: list[str] | None = None) -> int:
    parser_of(__doc__).parse_args(arguments)
    pages = rendered()
    for name in SHOWN:
        draw(name)
    for page, text in pages.items():
        with atomic_write(page) as path:
            path.write_text(text, encoding="utf-8")
        console.info(f"saved as {page}")
    return 0


if __name__ == "__main__":
    sys.exit(guarded(main))
