"""The command that makes a built-in model: its options, its steps and its record."""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Callable, Iterable
from itertools import islice
from pathlib import Path
from typing import Any

import tokenizers
import torch
import transformers
from torch import nn
from transformers import PreTrainedTokenizerFast

from experiments.builtin_models.pretraining import Batches, Guesser, grow

ASSETS = Path(__file__).parents[2] / "loradrop" / "assets"
HELD_OUT_SEED = 10_000  # added to the seed
HELD_OUT_TEXTS = 3000
TOKENIZER_TEXTS = 50_000  # the tokenizer is trained on the first ones


def parser(doc: str | None, name: str, **defaults: Any) -> argparse.ArgumentParser:
    """Make the command line.

    Args:
        doc: The description.
        name: The name of the model.
        defaults: Defaults that differ between models.
    """
    made = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    made.add_argument("--seed", type=int, default=0)
    made.add_argument(
        "--texts", type=int, help="texts to generate; repeated if the steps need more"
    )
    made.add_argument("--vocabulary", type=int, default=2600)
    made.add_argument(
        "--layers", type=int, nargs="+", default=[3, 6, 12], help="layers of each stage"
    )
    made.add_argument("--steps", type=int, nargs="+", help="steps of each stage")
    made.add_argument("--lr", type=float, nargs="+", help="peak learning rate of each stage")
    made.add_argument("--batch-tokens", type=int, default=1024)
    made.add_argument(
        "--threads", type=int, default=1, help="CPU threads; more barely help such small models"
    )
    made.add_argument(
        "--bf16", action="store_true", help="autocast to bf16; no gain on a CPU without AMX"
    )
    made.add_argument("--output", type=Path, default=ASSETS / name)
    made.add_argument("--record", type=Path, default=Path(__file__).with_name(name) / "record.json")
    made.set_defaults(**defaults)
    return made


def pretrain(
    args: argparse.Namespace,
    corpus: Callable[[int], Iterable[Any]],
    train_tokenizer: Callable[[list[Any], int], PreTrainedTokenizerFast],
    make_batches: Callable[[PreTrainedTokenizerFast, list[Any]], Batches],
    build: Callable[[int, int, Any], Any],
    guess: Guesser,
) -> None:
    """Make a built-in model: tokenizer, weights and record.

    Args:
        args: The command line.
        corpus: A seed's endless texts.
        train_tokenizer: Trains a tokenizer on texts, given the size of the vocabulary.
        make_batches: Turns texts into batches.
        build: Builds a model of some layers, for some vocabulary, from a smaller one.
        guess: Predicts a batch.
    """
    torch.manual_seed(args.seed)
    torch.set_num_threads(args.threads)
    begin = time.time()
    texts = list(islice(corpus(args.seed), args.texts))
    tokenizer = train_tokenizer(texts[:TOKENIZER_TEXTS], args.vocabulary)
    tokenizer.save_pretrained(args.output)
    train = make_batches(tokenizer, texts)
    held_out_texts = islice(corpus(args.seed + HELD_OUT_SEED), HELD_OUT_TEXTS)
    held_out = make_batches(tokenizer, list(held_out_texts))
    tokens = sum(length * len(rows) for length, rows in train.by_length.items())
    print(
        f"{len(texts)} texts, {tokens} tokens, vocabulary {len(tokenizer)}, "
        f"{time.time() - begin:.0f} s",
        flush=True,
    )
    model, stages = grow(
        args, lambda layers, old: build(layers, len(tokenizer), old), train, held_out, guess
    )
    write_record(args, tokens, model, stages, begin)


def write_record(
    args: argparse.Namespace,
    tokens: int,
    model: nn.Module,
    stages: list[dict[str, Any]],
    begin: float,
) -> None:
    """Write settings, sizes, losses, seconds and versions as JSON."""
    versions = {module.__name__: module.__version__ for module in (torch, transformers, tokenizers)}
    record = {
        "settings": {
            name: value for name, value in vars(args).items() if not isinstance(value, Path)
        },
        "texts": args.texts,
        "tokens": tokens,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "megabytes": round((args.output / "model.safetensors").stat().st_size / 1e6, 2),
        "stages": stages,
        "held_out": stages[-1]["held_out"],
        "seconds": round(time.time() - begin),
        "versions": {"python": platform.python_version(), **versions},
        "hardware": f"CPU, {platform.machine()}, {args.threads} threads",
    }
    args.record.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
