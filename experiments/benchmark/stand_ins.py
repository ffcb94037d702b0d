"""Models of a real shape with random weights, and rows of a real length with random words.

Speed depends on shapes and lengths alone, so a benchmark needs neither the Hub nor GLUE's files.
Both are written as the files that a run reads, so that every contestant goes through its own
whole path: tokenizer, padding, batches.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import AutoConfig, AutoModel, PreTrainedTokenizerFast

# Tokens of a training row with special tokens, all-mpnet-base-v2's tokenizer: the quantiles 0, 5,
# ..., 100 % of GLUE's official training sets (of the first 20,000 rows).
LENGTHS = {
    "cola": (4, 6, 7, 8, 8, 9, 9, 9, 10, 10, 10, 11, 11, 12, 12, 13, 14, 15, 17, 20, 47),
    "sst2": (3, 4, 4, 5, 6, 6, 7, 8, 8, 9, 10, 11, 13, 14, 16, 18, 20, 23, 27, 33, 63),
    "rte": (
        14,
        30,
        34,
        38,
        41,
        44,
        46,
        48,
        51,
        54,
        57,
        60,
        63,
        68,
        73,
        86,
        104,
        121,
        136,
        158,
        290,
    ),
    "qnli": (14, 28, 31, 34, 36, 38, 40, 42, 44, 46, 47, 49, 51, 54, 56, 59, 62, 66, 72, 82, 308),
}
MAX_LENGTH = 256
VOCABULARY = 8_000  # words; embeddings are frozen and looked up, so their number costs nothing
SPECIAL = ("<pad>", "<s>", "</s>", "<unk>", "<mask>")


@dataclass(frozen=True)
class Shape:
    """A model's shape.

    Args:
        model_type: The architecture, as transformers names it.
        layers, hidden, heads, intermediate: Its sizes.
        target_modules: The names of the query and value projections.
        title: How tables name it.
    """

    model_type: str
    layers: int
    hidden: int
    heads: int
    intermediate: int
    target_modules: tuple[str, ...]
    title: str


SHAPES = {
    "minilm": Shape("bert", 6, 384, 12, 1536, ("query", "value"), "MiniLM-L6 (BERT, 6 x 384)"),
    "mpnet": Shape("mpnet", 12, 768, 12, 3072, ("q", "v"), "MPNet-base (12 x 768)"),
    "llama": Shape("llama", 6, 512, 8, 1376, ("q_proj", "v_proj"), "Llama (6 x 512)"),
}


def hub_id(name: str) -> str:
    """Return the id below the folder of models under which `write_model` stores a shape."""
    return f"stand-ins/{name}"


def write_model(models_folder: Path, name: str) -> Path:
    """Write a model with random weights and a tokenizer of whole words.

    Args:
        models_folder: The folder of models, as in `paths.models`.
        name: A key of SHAPES.

    Returns:
        The model's folder.
    """
    shape, folder = SHAPES[name], models_folder / hub_id(name)
    vocabulary = {token: i for i, token in enumerate([*SPECIAL, *map(word, range(VOCABULARY))])}
    plain = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    plain.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    plain.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>",
        pair="<s> $A </s> $B </s>",
        special_tokens=[("<s>", 1), ("</s>", 2)],
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=plain,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        model_max_length=MAX_LENGTH,
    )
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        shape.model_type,
        num_hidden_layers=shape.layers,
        hidden_size=shape.hidden,
        num_attention_heads=shape.heads,
        intermediate_size=shape.intermediate,
        vocab_size=len(vocabulary),
        max_position_embeddings=MAX_LENGTH + 4,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    AutoModel.from_config(config).save_pretrained(folder)
    return folder


def row_lengths(task: str, rows: int) -> list[int]:
    """Return `rows` lengths in tokens with the distribution of a GLUE task, in random order."""
    quantiles = np.linspace(0, 1, len(LENGTHS[task]))
    places = (np.arange(rows) + 0.5) / rows
    lengths = np.interp(places, quantiles, LENGTHS[task]).round().astype(int)
    random.Random(0).shuffle(order := lengths.tolist())
    return [min(length, MAX_LENGTH) for length in order]


def write_data(folder: Path, task: str, rows: int, evaluation_rows: int = 32) -> None:
    """Write random rows with the lengths of a GLUE task as the files of SST-2."""
    target = folder / "SST-2"
    target.mkdir(parents=True)
    draw = random.Random(0)
    for name, count in (("train", rows), ("dev", evaluation_rows)):
        lines = ["sentence\tlabel"]
        for i, length in enumerate(row_lengths(task, count)):
            words = " ".join(word(draw.randrange(VOCABULARY)) for _ in range(max(1, length - 2)))
            lines.append(f"{words}\t{i % 2}")
        (target / f"{name}.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")


def word(number: int) -> str:
    """Return the name of a word of the vocabulary."""
    return f"w{number}"
