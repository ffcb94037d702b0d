"""The command line that all commands about an experiment share: its name, overrides, a format."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from experiments.config import sweep
from experiments.config.catalog import experiment, hint, names
from experiments.config.errors import TRACEBACKS, describe, is_mistake

OF_EXPERIMENT = "experiment="


@dataclass
class Options:
    """A parsed command line.

    Attributes:
        experiment: The name of the experiment.
        overrides: The overrides of `experiments.run` that make its runs.
        format: The output format; "" if the command has none.
        outputs: The folder of results.
        given: All arguments.
    """

    experiment: str
    overrides: list[str]
    format: str
    outputs: str
    given: argparse.Namespace

    @property
    def command(self) -> str:
        """The command that makes the runs."""
        return run_command(self.overrides)


def parse(
    text: str | None,
    arguments: list[str] | None,
    formats: Iterable[str] | None,
    default: str,
    others: Iterable[str] = (),
    more: Callable[[argparse.ArgumentParser], None] = lambda _: None,
) -> Options:
    """Parse `<experiment> [overrides] [--format F]`; exit with a message if that is not possible.

    Args:
        text: The description of the command.
        arguments: The arguments. None: those of this process.
        formats: The formats to choose from. None: the command has no `--format`.
        default: The default format.
        others: Names that are allowed besides those of experiments.
        more: Adds the command's own arguments.
    """
    known = [*names(), *others]
    parser = parser_of(text)
    parser.add_argument("experiment", help=f"one of {', '.join(known)} (catalog.yaml)")
    parser.add_argument(
        "overrides", nargs="*", help="limit it to some runs, as for experiments.run"
    )
    parser.add_argument("--mini", action="store_true", help="the mini form, on built-in models")
    if formats is not None:
        parser.add_argument("--format", choices=sorted(formats), default=default)
    more(parser)
    given = parser.parse_intermixed_args(arguments)  # allows overrides after --format
    given.experiment = checked(parser, given.experiment, known)
    wrong = [override for override in given.overrides if not is_override(override)]
    if wrong:
        parser.error(f"'{wrong[0]}' is not an override; write key=value")
    if given.experiment in others:
        overrides = [f"experiment={given.experiment}", *given.overrides]
        paths = sweep.paths_of(given.overrides)
    else:
        overrides = combined(experiment(given.experiment).overrides(given.mini), given.overrides)
        paths = sweep.paths_of(overrides)
    format = getattr(given, "format", "")
    return Options(given.experiment, overrides, format, str(paths["outputs"]), given)


def combined(own: Iterable[str], given: Iterable[str]) -> list[str]:
    """Add overrides to those of an experiment, of which they replace the ones with the same key.

    Without that, a key with several values that is given again would still make as many runs.
    """
    given = list(given)
    again = sweep.keys(given)
    return [*(each for each in own if not sweep.keys([each]) & again), *given]


def is_override(word: str) -> bool:
    """Whether a word of a command line is an override, and not a name."""
    return word.startswith("~") or ("=" in word and not word.startswith(OF_EXPERIMENT))


def run_command(overrides: Iterable[str]) -> str:
    """The command that makes the runs of these overrides, for a shell."""
    return shlex.join(["python", "-m", "experiments.run", *overrides])


def parser_of(text: str | None) -> argparse.ArgumentParser:
    """A parser of a command's arguments, with the docstring of its module as help."""
    return argparse.ArgumentParser(
        description=(text or "").strip(), formatter_class=argparse.RawDescriptionHelpFormatter
    )


def checked(parser: argparse.ArgumentParser, name: str, known: list[str]) -> str:
    """The name of an experiment, which may be written experiment=<name>; exit if it is unknown."""
    name = name.removeprefix(OF_EXPERIMENT)
    if name not in known:
        parser.error(f"there is no experiment '{name}'.{hint(name, known)}")
    return name


def add_run(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that name a run."""
    parser.add_argument("id", help="the run: the name of its folder, or <outputs>/runs/<id>")
    parser.add_argument(
        "--outputs", help="the folder of results, if only the name is given (default: outputs)"
    )


def run_of(given: argparse.Namespace) -> tuple[str, str]:
    """The id and the folder of results that the arguments of `add_run` name."""
    folder = Path(given.id)
    inside = folder.parent.name == "runs" and given.outputs is None
    return folder.name, str(folder.parents[1]) if inside else given.outputs or "outputs"


def guarded(main: Callable[[], int]) -> int:
    """Run a command and report a user's mistake in one line; with HYDRA_FULL_ERROR=1 raise it.

    Returns:
        The exit status.
    """
    try:
        return main()
    except Exception as error:
        if TRACEBACKS or not is_mistake(error):
            raise
        print(describe(error), file=sys.stderr)
        return 1
