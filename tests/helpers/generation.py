"""Small decoders saved as models, and configs of runs on them."""

from __future__ import annotations

import pytest
import torch
from hydra import compose, initialize_config_dir
from transformers import LlamaConfig, LlamaForCausalLM, LlamaTokenizer

from experiments.config.schema import CONF
from helpers.letters import LETTERS

SMALL = [
    *(
        "backbone=llama2_7b",
        "task=mini_summary",
        "task.train_size=48",
        "task.validation_size=12",
        "task.max_new_tokens=6",
    ),
    *("backbone.dtype=float32", "recipe.max_length=500", "recipe.batch_size=8", "recipe.epochs=2"),
    *("trainer.num_threads=1", "trainer.progress_bar=false", "decoding.batch_size=5"),
]


def save_model(root):
    """A small Llama in a folder of models, its tokenizer one of letters and bytes."""
    folder = root / "meta-llama" / "Llama-2-7b-hf"
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", *LETTERS]
    LlamaTokenizer(
        vocab={piece: i for i, piece in enumerate(pieces)}, merges=[], add_bos_token=True
    ).save_pretrained(folder)
    torch.manual_seed(0)
    shape = {
        "hidden_size": 32,
        "num_attention_heads": 4,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
    }
    config = LlamaConfig(
        vocab_size=len(pieces), max_position_embeddings=512, initializer_range=0.3, **shape
    )
    model = LlamaForCausalLM(config)
    model.generation_config.repetition_penalty = 3.0  # no setting of a run's
    model.save_pretrained(folder)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    save_model(root)
    return root


def composed(models, outputs, *overrides):
    with initialize_config_dir(CONF, version_base="1.3"):
        places = [f"paths.models={models}", f"paths.outputs={outputs}", "paths.data=null"]
        return compose("run", [*SMALL, *places, *overrides])
