"""The command line that the tools over result files share: an experiment, overrides that narrow it, a format."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from experiments.config.catalog import experiment, hint, names
from experiments.config.errors import TRACEBACKS, describe
from experiments.config.schema import UserError
from experiments.config.sweep import outputs_of


@dataclass
class Options:
    experiment: str
    overrides: list[str]  # of experiments.run
    format: str
    outputs: str
    given: argparse.Namespace  # all arguments

    @property
    def command(self) -> str:
        """What makes the runs."""
        return " ".join(["python -m experiments.run", *self.overrides])


def parse(
    text: str,
    arguments: list[str] | None,
    formats: Iterable[str] | None,
    default: str,
    others: Iterable[str] = (),
    more: Callable[[argparse.ArgumentParser], None] = lambda _: None,
) -> Options:
    """Parse `<experiment> [overrides] [--format F]`; an experiment that is not there ends with a message.

    `others`: names that are no experiment's, of what needs no runs. `more` adds a tool's own arguments.
    """
    text = text.strip()
    known = [*names(), *others]
    parser = argparse.ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiment", help=f"one of {', '.join(known)} (catalog.yaml); experiment=<name> does as well")
    parser.add_argument("overrides", nargs="*", help="narrow it, as on the command line of experiments.run")
    parser.add_argument("--mini", action="store_true", help="its form on built-in models, as make ... SCALE=mini runs it")
    if formats is not None:
        parser.add_argument("--format", choices=sorted(formats), default=default)
    more(parser)
    given = parser.parse_intermixed_args(arguments)  # overrides behind --format too
    given.experiment = given.experiment.removeprefix("experiment=")
    if given.experiment not in known:
        parser.error(f"there is no experiment '{given.experiment}'.{hint(given.experiment, known)}")
    wrong = [override for override in given.overrides if "=" not in override]
    if wrong:
        parser.error(f"'{wrong[0]}' is no override; write key=value")
    own = [f"experiment={given.experiment}"]
    if given.experiment not in others:
        own = experiment(given.experiment).overrides(given.mini)
    overrides = [*own, *given.overrides]
    return Options(given.experiment, overrides, getattr(given, "format", ""), outputs_of(overrides), given)


def add_run(parser: argparse.ArgumentParser) -> None:
    """Arguments that name a run."""
    parser.add_argument("id", help="of the run: the name of its folder, or <outputs>/runs/<id>")
    parser.add_argument("--outputs", help="where its folder's name alone is given (default: outputs)")


def run_of(given: argparse.Namespace) -> tuple[str, str]:
    """The id and the outputs folder that such arguments name."""
    folder = Path(given.id)
    inside = folder.parent.name == "runs" and given.outputs is None
    return folder.name, str(folder.parents[1]) if inside else given.outputs or "outputs"


def guarded(main: Callable[[], int]) -> int:
    """The exit status of a command; a mistake of the user's is one line, HYDRA_FULL_ERROR=1 a traceback."""
    try:
        return main()
    except (HydraException, OmegaConfBaseException, UserError, OSError) as error:
        if TRACEBACKS:
            raise
        print(describe(error), file=sys.stderr)
        return 1
