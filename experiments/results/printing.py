"""What a run and a sweep print about their results."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from operator import itemgetter

import pandas as pd
from rich.markup import escape

from experiments.common import console
from experiments.config.identity import digest, identity
from experiments.results.fingerprints import HASH
from experiments.results.result import (
    AGGREGATES,
    EpochScores,
    Metrics,
    Parameters,
    Result,
    as_shown,
)
from experiments.results.store import CHANGED, location

SHARED = ("backbone", "task", "metric")  # a table can say them above
NAMED = 5  # ids in a line about several runs
REMEDY = "run them again where these are (rerun=changed), or keep them apart (paths.outputs)"
BLOCKS = " ▁▂▃▄▅▆▇█"


def run_line(result: Result, again: bool = False) -> None:
    """Print one line about a run of a sweep: score, adapter, time.

    Args:
        result: Of the run.
        again: Whether the run was finished before.
    """
    metrics, scores = result.metrics, "measured only"
    if metrics is not None:
        each = (
            f"{w} {100 * metrics.primary_at(w):.2f} (epoch {metrics.at(w).epoch})"
            for w in AGGREGATES
        )
        scores = f"{metrics.primary} {', '.join(each)}"
    time = "finished already" if again else f"{result.total_seconds:.0f} s"
    console.info(f"{result.id}: {scores}; {_percent_of_lora(result.parameters)}; {time}")


def summary(result: Result, outputs: str, again: bool = False) -> None:
    """Print score, parameters, which layers kept their own LoRA, and wall times.

    Args:
        result: Of the run.
        outputs: The folder that holds the result.
        again: Whether the run was finished before.
    """
    if again:
        console.info(f"{result.id}: finished already")
    grid = console.grid()
    for row in _rows(result):
        grid.add_row(*row)
    console.terminal.print(grid)
    console.info(f"result: {location(outputs, result.id)}")  # unwrapped, so it can be copied


def _rows(result: Result) -> Iterator[tuple[str, str]]:
    metrics = result.metrics
    if metrics:
        for which in AGGREGATES:
            yield (
                f"{which} epoch",
                _scores(metrics, metrics.at(which), result.config["recipe"]["epochs"]),
            )
    splits = " + ".join(f"{rows:,} rows of {split}" for split, rows in result.evaluated_on.items())
    yield "evaluated on", splits if metrics else "nothing: recipe.epochs=0, only measured"
    yield "adapter", _percent_of_lora(result.parameters)
    yield "head", f"{result.parameters.head:,} parameters"
    yield from pictures(result).items()
    cached = " (stage 1 was cached)" if result.stage1_cached else ""
    yield "seconds", ", ".join(f"{k} {v:.1f}" for k, v in result.seconds.items()) + cached
    for note in result.notes:
        yield "note", escape(note)


def _scores(metrics: Metrics, epoch: EpochScores, epochs: int) -> str:
    percent = 100 * epoch.scores[metrics.primary]
    score = f"{percent:.2f} {metrics.primary} (epoch {epoch.epoch} of {epochs})"
    others = (f"{as_shown(k, v):.2f} {k}" for k, v in epoch.scores.items() if k != metrics.primary)
    return ", ".join([score, *others])


def _percent_of_lora(parameters: Parameters) -> str:
    adapter, lora = parameters.adapter, parameters.lora_parameters
    percent = f", {100 * adapter / lora:.1f} % of LoRA's {lora:,}" if lora else ""
    return f"{adapter:,} trainable parameters{percent}"


def pictures(result: Result) -> dict[str, str]:
    """For each module type, a bar per layer: its importance, bold if it has its own LoRA."""
    if not (result.importance and result.plan):
        return {}
    drawn = {}
    for module_type, layers in result.importance.normalized.items():
        own, top = result.plan.kept[module_type], max(layers.values())
        bars = ""
        for layer, value in layers.items():
            block = BLOCKS[max(1, round(value / top * (len(BLOCKS) - 1)))]
            bars += f"[bold green]{block}[/]" if layer in own else f"[dim]{block}[/]"
        fate = "share one" if result.plan.share else "have none"
        text = f"own LoRA in layers {', '.join(map(str, own)) or '-'} (from 0); the others {fate}"
        drawn[module_type] = (
            f"{bars}  {text if len(own) < len(layers) else 'own LoRA in every layer'}"
        )
    return drawn


def changed(frame: pd.DataFrame) -> None:
    """Print which runs of `results.load` had other data or weights, if any had."""
    runs = frame[frame.status == CHANGED]
    if len(runs):
        others = f"; so are {len(runs) - 1} other runs" if len(runs) > 1 else ""
        console.error(f"{runs.id.iloc[0]}: {runs.error.iloc[0]}{others}")


def unfinished(frame: pd.DataFrame) -> None:
    """Print why runs of `results.load` are not finished, in one line for all with one reason."""
    reasons = ["see above" if pd.isna(one) else console.first_line(one) for one in frame.error]
    groups = frame.assign(reason=reasons).groupby(["status", "reason"], sort=False)
    for (status, reason), runs in groups:
        others = f" and {len(runs) - NAMED} others" if len(runs) > NAMED else ""
        console.error(f"{status}: {', '.join(runs.id[:NAMED])}{others}: {reason}")


def evaluated_on(finished: pd.DataFrame) -> str:
    """What was scored: "on 277 rows of validation"."""
    found = sorted({(n, split) for r in finished.result for split, n in r.evaluated_on.items()})
    texts = [f"{rows} rows of {split}" for rows, split in found]
    return f"on {' and '.join([', '.join(texts[:-1]), texts[-1]] if len(texts) > 1 else texts)}"


def mixes(frame: pd.DataFrame) -> str:
    """What differs between these finished runs although no setting says so; "" if nothing does.

    Versions of libraries, and the rows of one task or the weights of one backbone: `results.load`
    compares these with what is here now, which an archive or another machine may lack.
    """
    versions: dict[str, Counter[str]] = defaultdict(Counter)
    contents: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    for result in frame.result:
        for name, version in result.versions.items():
            versions[name][version] += 1
        counted = identity(result.config)
        for group, what, found in (
            ("task", f"rows of {result.task}", result.data_fingerprint),
            ("backbone", f"weights of {result.backbone}", result.weights_fingerprint),
        ):
            if HASH.fullmatch(found):
                contents[what, digest(counted[group])][found] += 1
    version = _several("versions", versions.items())
    content = _several("data or weights", ((what, each) for (what, _), each in contents.items()))
    return " ".join(
        [
            *([f"{version}."] if version else []),
            *([f"{content}; {REMEDY}."] if content else []),
        ]
    )


def _several(what: str, found: Iterable[tuple[str, Counter[str]]]) -> str:
    """The names that have several values, with the number of results of each."""
    texts = [
        f"{name} {', '.join(f'{value} ({runs})' for value, runs in sorted(counts.items()))}"
        for name, counts in sorted(found, key=itemgetter(0))
        if len(counts) > 1
    ]
    return f"Made with different {what} (results): {'; '.join(texts)}" if texts else ""


def overview(frame: pd.DataFrame, epoch: str = "best", aggregate: str = "mean") -> None:
    """Print a table of `results.over_seeds`. Values that all rows share move to the title.

    Args:
        frame: From `results.over_seeds`.
        epoch: The epoch that a narrow terminal shows; a wide one shows both.
        aggregate: How seeds were combined, for the title.
    """
    constant = shared(frame)
    narrow = console.terminal.width < console.NARROW  # the saved table has all columns
    epochs = f"the {epoch} epoch" if narrow else "the best and the last epoch"
    what = f"{aggregate} ± standard deviation over seeds, in percent, at {epochs}"
    title = ", ".join([what, *constant.values()])
    left_out = (
        ["kept", "last" if epoch == "best" else "best", "of LoRA's", "metric"] if narrow else []
    )
    frame = frame[[name for name in frame if name not in {*constant, *left_out}]]
    text = (*SHARED, "method", "setting")
    console.print_frame(frame, title, text=text, wrapped=text)


def shared(frame: pd.DataFrame) -> dict[str, str]:
    """The backbone, task and metric of `results.over_seeds`, as far as all rows share them."""
    return {name: str(frame[name].iloc[0]) for name in SHARED if frame[name].nunique() == 1}
