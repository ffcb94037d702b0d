"""What a run and a sweep print: messages, a summary, a table. Reads results, decides nothing."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any, TypeVar

import pandas as pd
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.progress import track
from rich.table import Table

terminal = Console(highlight=False)
Item = TypeVar("Item")
BLOCKS = " ▁▂▃▄▅▆▇█"
NARROW = 100  # characters


def started(id: str) -> None:
    terminal.rule(f"[bold]{id}", align="left")


def info(message: str) -> None:
    """One line, whatever brackets stand in it."""
    terminal.print(message, soft_wrap=True, markup=False)


def error(message: str) -> None:
    terminal.print(message, style="red", soft_wrap=True, markup=False)


def first_line(error: str) -> str:
    """Of what an error says, without its traceback: the type and the first line of the message."""
    lines = error.strip().splitlines()
    traceback = max((i for i, line in enumerate(lines) if line.startswith("Traceback ")), default=-1)
    return next((line for line in lines[traceback + 1 :] if not line.startswith(" ")), lines[-1])


def run_line(result: dict[str, Any], again: bool = False) -> None:
    """A run of a sweep: score, adapter, time; `again`: it was finished before."""
    metrics, seconds = result["metrics"], sum(result["seconds"].values())
    scores = "measured only"
    if metrics is not None:
        scores = ", ".join(
            f"{which} {100 * metrics[which][metrics['primary']]:.2f} (epoch {metrics[which]['epoch']})"
            for which in ("best", "last")
        )
        scores = f"{metrics['primary']} {scores}"
    time = "finished already" if again else f"{seconds:.0f} s"
    info(f"{result['id']}: {scores}; {_share(result['parameters'])}; {time}")


def summary(result: dict[str, Any], folder: Path, again: bool = False) -> None:
    """Score, parameters, which layers kept their own LoRA, wall times; `again`: it was finished before."""
    if again:
        info(f"{result['id']}: finished already")
    grid = _grid()
    metrics, parameters = result["metrics"], result["parameters"]
    splits = " + ".join(f"{rows:,} rows of {split}" for split, rows in result["evaluated_on"].items())
    for which in ("best", "last") if metrics else ():
        scores = metrics[which]
        others = {k: v for k, v in scores.items() if k not in ("epoch", "train_loss", metrics["primary"])}
        score = f"{100 * scores[metrics['primary']]:.2f} {metrics['primary']}"
        text = f"{score} (epoch {scores['epoch']} of {result['config']['recipe']['epochs']})"
        grid.add_row(f"{which} epoch", ", ".join([text, *(f"{100 * v:.2f} {k}" for k, v in others.items())]))
    grid.add_row("evaluated on", splits if metrics else "nothing: recipe.epochs=0, only measured")
    grid.add_row("adapter", _share(parameters))
    grid.add_row("head", f"{parameters['head']:,} parameters")
    for kind, picture in pictures(result).items():
        grid.add_row(kind, picture)
    cached = " (stage 1 was cached)" if result.get("stage1_cached") else ""
    grid.add_row("seconds", ", ".join(f"{k} {v:.1f}" for k, v in result["seconds"].items()) + cached)
    for note in result["notes"]:
        grid.add_row("note", escape(note))
    terminal.print(grid)
    info(f"result: {folder / 'result.json'}")  # in one piece, to be copied


def key_values(lines: list[tuple[str, str]]) -> None:
    """Names and what is to be said of them."""
    grid = _grid()
    for name, text in lines:
        grid.add_row(name, escape(text))
    terminal.print(grid)


def _grid() -> Table:
    """Two columns; a long word of the second is folded, not cut."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column()
    grid.add_column(overflow="fold")
    return grid


def progress(items: Collection[Item], text: str) -> Iterable[Item]:
    """The items, with a bar on the standard error that goes away when they are done."""
    return track(items, text, total=len(items), console=Console(stderr=True), transient=True)


def _share(parameters: dict[str, Any]) -> str:
    adapter, lora = parameters["adapter"], parameters["lora_parameters"]
    percent = f", {100 * adapter / lora:.1f} % of LoRA's {lora:,}" if lora else ""
    return f"{adapter:,} trainable parameters{percent}"


def pictures(result: dict[str, Any]) -> dict[str, str]:
    """One bar for each layer, as high as its importance; bold where the layer keeps its own LoRA."""
    if not (result["importance"] and result["plan"]):
        return {}
    drawn = {}
    for kind, layers in result["importance"]["normalized"].items():
        own, top = result["plan"]["kept"][kind], max(layers.values())
        bars = ""
        for layer, value in layers.items():
            block = BLOCKS[max(1, round(value / top * (len(BLOCKS) - 1)))]
            bars += f"[bold green]{block}[/]" if int(layer) in own else f"[dim]{block}[/]"
        fate = "share one" if result["plan"]["share"] else "have none"
        text = f"own LoRA in layers {', '.join(map(str, own)) or '-'} (from 0); the others {fate}"
        drawn[kind] = f"{bars}  {text if len(own) < len(layers) else 'own LoRA in every layer'}"
    return drawn


def overview(frame: pd.DataFrame, epoch: str = "best", over: str = "mean") -> None:
    """A table of results.over_seeds; what is the same in every row stands in the title. A narrow one has one epoch."""
    names = ["backbone", "task", "metric"]
    same = [name for name in names if frame[name].nunique() == 1]
    narrow = terminal.width < NARROW  # the saved table has all columns
    epochs = f"the {epoch} epoch" if narrow else "the best and the last epoch"
    constants = [str(frame[name].iloc[0]) for name in same]
    title = ", ".join([f"{over} ± standard deviation over seeds, in percent, at {epochs}", *constants])
    left_out = ["kept", "last" if epoch == "best" else "best", "of LoRA's", "metric"] if narrow else []
    frame = frame[[name for name in frame if name not in {*same, *left_out}]]
    print_frame(frame, title, text=(*names, "method", "setting"), wrapped=(*names, "method", "setting"))


def print_frame(frame: pd.DataFrame, title: str, text: tuple[str, ...], wrapped: tuple[str, ...] = ()) -> None:
    """A table of text cells; columns of `text` stand to the left, those of numbers to the right."""
    tight = {"box": SIMPLE_HEAD, "padding": 0} if terminal.width < NARROW else {}
    if title:
        info(title)
    table = Table(**tight)
    for column in frame.columns:
        # a long name is folded, a number never cut
        options = {"overflow": "fold"} if column in wrapped else {"no_wrap": True, "min_width": len(column)}
        table.add_column(column, justify="left" if column in text else "right", **options)
    for row in frame.itertuples(index=False):
        table.add_row(*(escape(str(cell)) for cell in row))
    terminal.print(table)
