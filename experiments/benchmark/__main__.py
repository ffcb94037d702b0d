"""Measure speed and memory, in turns and as ratios: docs/performance.md.

python -m experiments.benchmark                     every benchmark
python -m experiments.benchmark training measuring  some
python -m experiments.benchmark methods --help      a training step of each method
python -m experiments.benchmark --publish           the last results into docs/performance.md

Each writes <outputs>/benchmark/<name>.json with command, hardware, versions and every timing.
"""

from __future__ import annotations

import argparse
import sys
import time
from importlib import import_module
from pathlib import Path

from experiments.cli import guarded
from experiments.common import console

BENCHMARKS = ("training", "measuring", "sweep", "demo", "startup", "limit", "growth")


def main(arguments: list[str] | None = None) -> int:
    given = sys.argv[1:] if arguments is None else arguments
    if given[:1] == ["methods"]:
        from experiments.benchmark import methods

        return methods.main(given[1:])
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="name", help=", ".join(BENCHMARKS))
    parser.add_argument("--rounds", type=int, default=2, help="turns of each contestant")
    parser.add_argument("--outputs", type=Path, default=Path("outputs"))
    parser.add_argument("--publish", action="store_true", help="only update docs/performance.md")
    options = parser.parse_args(given)
    if wrong := [name for name in options.names if name not in BENCHMARKS]:
        parser.error(f"there is no benchmark '{wrong[0]}'; they are {', '.join(BENCHMARKS)}")
    if options.rounds < 1:
        parser.error(f"--rounds must be at least 1, got {options.rounds}")
    if options.publish:
        from experiments.benchmark import page

        page.publish(options.outputs)
        return 0
    from experiments.benchmark.turns import save

    for name in options.names or BENCHMARKS:
        console.started(name)
        start = time.perf_counter()
        content = import_module(f"experiments.benchmark.{name}").run(options)
        content["rounds"] = options.rounds
        content["minutes"] = round((time.perf_counter() - start) / 60, 2)
        path = save(options.outputs / "benchmark", name, content)
        console.info(f"saved as {path}")
    return 0


if __name__ == "__main__":
    sys.exit(guarded(main))
