"""The tables of docs/performance.md, from the JSON files of the benchmarks."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pandas as pd

from experiments.benchmark import aims
from experiments.benchmark.stand_ins import SHAPES
from experiments.config.schema import CONF
from experiments.reporting import tables

PAGE = Path(CONF).parent / "docs" / "performance.md"
RESULTS = PAGE.with_suffix("")  # the folder of the committed JSON files
BLOCK = re.compile(r"(<!-- (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def rendered(text: str, results: Path = RESULTS) -> str:
    """Return the page with every block made anew from the JSON files.

    Args:
        text: The page. A block begins with `<!-- name -->` and ends with `<!-- end -->`; its name
            is that of a benchmark, or `aims`.
        results: The folder of the JSON files.
    """
    found = {
        path.stem: json.loads(path.read_text(encoding="utf-8")) for path in results.glob("*.json")
    }

    def block(match: re.Match[str]) -> str:
        name = match[2]
        if name == "aims":
            parts = [_table(aims.lines(found))]
        elif name not in found:
            parts = [f"Not measured yet: `python -m experiments.benchmark {name}`."]
        else:
            sentence = SENTENCES[name](found[name]) if name in SENTENCES else ""
            parts = [_table(TABLES[name](found[name])), sentence, _facts(name, found[name])]
        return match[1] + "\n\n".join(filter(None, parts)) + f"\n{match[3]}"

    return BLOCK.sub(block, text)


def _table(rows: Iterable[dict[str, str]]) -> str:
    return tables.frame(pd.DataFrame(list(rows)), "markdown").strip()


def publish(outputs: Path) -> None:
    """Copy the results of the last benchmarks beside the page, and make its tables anew."""
    for name in TABLES:
        source = outputs / "benchmark" / f"{name}.json"
        if source.exists():
            (RESULTS / source.name).write_bytes(source.read_bytes())
    PAGE.write_text(rendered(PAGE.read_text(encoding="utf-8")), encoding="utf-8")


def _facts(name: str, found: dict[str, Any]) -> str:
    versions, machine = found["versions"], found["hardware"]
    libraries = ", ".join(f"{key} {versions[key]}" for key in ("torch", "transformers", "peft"))
    return (
        f"`{found['command']}`; {machine['machine']}, {machine['cores']} cores; {libraries};"
        f" every timing in [{name}.json](performance/{name}.json)."
    )


def _training(found: dict[str, Any]) -> list[dict[str, str]]:
    return [
        {
            "model": SHAPES[row["shape"]].title,
            "lengths of": row["task"],
            "rows of a batch": str(row["batch_size"]),
            "tokens per second": f"{row['tokens_per_second']['loradrop']:.0f}",
            **{f"x {name}": f"{ratio:.2f}" for name, ratio in row["ratios"].items()},
            "peak GiB": " / ".join(f"{p / 2**30:.2f}" for p in row["peak_bytes"].values()),
        }
        for row in found["rows"]
    ]


def _measuring(found: dict[str, Any]) -> list[dict[str, str]]:
    return [
        {
            "model": SHAPES[row["shape"]].title,
            "lengths of": row["task"],
            "batches": str(row["batches"]),
            "measure": f"{row['ratios']['measure']:.3f}",
            "hook that forms B A x": f"{row['ratios']['hook with B A x']:.3f}",
        }
        for row in found["rows"]
    ]


def _sweep(found: dict[str, Any]) -> list[dict[str, str]]:
    seconds = found["wall_seconds"]
    return [
        {
            "runs": str(found["runs"]),
            "loradrop, seconds": f"{seconds['loradrop']:.0f}",
            "naive, seconds": f"{seconds['naive']:.0f}",
            "ratio": f"{found['ratio']:.2f}",
        }
    ]


def _demo(found: dict[str, Any]) -> list[dict[str, str]]:
    return [
        {
            "runs": str(found["runs"]),
            "every core, s": f"{found['first_seconds']:.0f}",
            "again, s": f"{found['second_seconds']:.0f}",
            "in one process, s": f"{found['one_process_seconds']:.0f}",
            "of it outside training, evaluation and measuring": f"{found['share_outside']:.1%}",
            "of it loading": f"{found['share_loading']:.1%}",
        }
    ]


def _startup(found: dict[str, Any]) -> list[dict[str, str]]:
    return [
        {
            "what": row["what"],
            "command": f"`{row['command']}`",
            "cold, CPU s": f"{row['cold']['cpu_seconds']:.1f}",
            "warm, CPU s": f"{row['warm']['cpu_seconds']:.1f}",
            "warm, wall s": f"{row['warm']['wall_seconds']:.1f}",
        }
        for row in found["rows"]
    ]


def _limit(found: dict[str, Any]) -> list[dict[str, str]]:
    kinds = list(dict.fromkeys(kind for row in found["rows"] for kind in row["time"]))
    return [
        {
            "model": SHAPES[row["shape"]].title,
            "tokens of a row": str(row["length"]),
            "GFLOP/s of a step": f"{row['gflops']:.0f}",
            "of a product": f"{row['product_gflops']:.0f}",
            "share": f"{100 * row['share']:.0f} %",
            **{kind: f"{100 * row['time'].get(kind, 0):.0f} %" for kind in kinds},
        }
        for row in found["rows"]
    ]


def _growth(found: dict[str, Any]) -> list[dict[str, str]]:
    return [
        {
            "size": row["size"],
            "ms of a step": ", ".join(f"{k}: {1000 * s:.0f}" for k, s in row["seconds"].items()),
            "peak GiB": ", ".join(f"{b / 2**30:.2f}" for b in row["peak_bytes"].values()),
            "exponent": f"{row['exponent']:.2f}",
        }
        for row in found["rows"]
    ]


def _equal_losses(found: dict[str, Any]) -> str:
    pairs = [tuple(losses.values()) for losses in found["losses_after_equal_steps"].values()]
    largest = max(abs(ours / theirs - 1) for ours, theirs in pairs)
    return (
        "After equal steps from the same weights on the same batches, without dropout, the losses "
        f"of ours and of PEFT differ by at most {largest:.0e} of their value."
    )


def _headroom(found: dict[str, Any]) -> str:
    least, most = (pick(row["share"] for row in found["rows"]) for pick in (min, max))
    return (
        f"A step reaches {100 * least:.0f} to {100 * most:.0f} % of the rate of the model's "
        "largest product, so another implementation of the same step can be faster by a factor of "
        f"{1 / most:.2f} to {1 / least:.2f} at the very most."
    )


TABLES: dict[str, Callable[[dict[str, Any]], list[dict[str, str]]]] = {
    "training": _training,
    "measuring": _measuring,
    "sweep": _sweep,
    "demo": _demo,
    "startup": _startup,
    "limit": _limit,
    "growth": _growth,
}
SENTENCES: dict[str, Callable[[dict[str, Any]], str]] = {
    "training": _equal_losses,
    "limit": _headroom,
}
