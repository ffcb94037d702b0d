"""Runs that generate text, on a Llama of a few thousand parameters: padding, scores, plans, what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from test_llama_deberta import LETTERS
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, LlamaTokenizer

from experiments.config import CONF, UserError, run_id
from experiments.restore import restore
from experiments.run import run
from experiments.score import scores
from experiments.setup import Setup

SMALL = [
    *("backbone=llama2_7b", "task=mini_summary", "task.train_size=48", "task.validation_size=12", "task.max_new_tokens=6"),
    *("backbone.dtype=float32", "recipe.max_length=500", "recipe.batch_size=8", "recipe.epochs=2"),
    *("trainer.num_threads=1", "trainer.progress_bar=false", "decoding.batch_size=5"),
]


def save_model(root):
    """A small Llama in a folder of models, its tokenizer one of letters and bytes."""
    folder = root / "meta-llama" / "Llama-2-7b-hf"
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", *LETTERS]
    LlamaTokenizer(vocab={piece: i for i, piece in enumerate(pieces)}, merges=[], add_bos_token=True).save_pretrained(folder)
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 48, "num_hidden_layers": 2}
    config = LlamaConfig(vocab_size=len(pieces), max_position_embeddings=512, initializer_range=0.3, **shape)
    LlamaForCausalLM(config).save_pretrained(folder)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    save_model(root)
    return root


def composed(models, outputs, *overrides):
    with initialize_config_dir(CONF, version_base="1.3"):
        places = [f"paths.models={models}", f"paths.outputs={outputs}", "paths.data=null"]
        return compose("run", [*SMALL, *places, *overrides])


@pytest.mark.parametrize("method", ["lora", "lora_drop", "full", "vera", "prilora"])
def test_a_run_is_scored_saved_and_restored(models, tmp_path, method):
    config = composed(models, tmp_path, f"method={method}")
    id = run_id(config)
    result = run(config, id)
    assert [epoch["epoch"] for epoch in result["metrics"]["epochs"]] == [1, 2]
    if method == "lora_drop":
        assert set(result["plan"]["kept"]) == {"q_proj", "v_proj"}
    again, recorded = scores(id, str(tmp_path))
    assert again == {key: recorded[key] for key in again} and "bleu" in again
    lines = [json.loads(line) for line in (tmp_path / "runs" / id / "predictions.jsonl").read_text().splitlines()]
    assert len(lines) == 12

    # each prompt alone, unpadded, by the restored model: the same texts in the same order
    model, tokenizer, _ = restore(id, tmp_path, models)
    data = Setup(config).data
    assert [line["source"] for line in lines] == data.splits.evaluation["validation"]["source"][:]
    greedy = GenerationConfig(max_new_tokens=6, do_sample=False, pad_token_id=0, eos_token_id=tokenizer.eos_token_id)
    for line, ids in zip(lines, data.evaluation["validation"]["input_ids"], strict=True):
        sequence = model.generate(torch.tensor([ids]), generation_config=greedy)
        text = tokenizer.decode(sequence[0, len(ids) :], skip_special_tokens=True)
        assert data.task.decode(text) == line["prediction"]


def test_prompts_are_padded_on_the_left_and_targets_alone_are_learned(models, tmp_path):
    data = Setup(composed(models, tmp_path, "method=lora")).data
    batch = next(iter(data.train_loader()))
    for ids, mask, labels in zip(*(batch[key] for key in ("input_ids", "attention_mask", "labels")), strict=True):
        real = int(mask.sum())
        assert mask[:real].all() and not mask[real:].any() and (labels[real:] == -100).all()
        learned = (labels != -100).nonzero().flatten()
        assert learned[0] > 0 and learned.tolist() == list(range(int(learned[0]), real))
        assert torch.equal(labels[learned], ids[learned]) and labels[real - 1] == 2  # eos
    prompts = next(iter(data.evaluation_loaders()[0]))
    assert set(prompts) == {"input_ids", "attention_mask"} and len(prompts["input_ids"]) == 5
    assert all(mask.tolist() == sorted(mask.tolist()) for mask in prompts["attention_mask"])


def test_the_last_epoch_alone_may_be_scored(models, tmp_path):
    config = composed(models, tmp_path, "method=lora", "decoding.every_epoch=false")
    result = run(config, run_id(config))
    assert [epoch["epoch"] for epoch in result["metrics"]["epochs"]] == [2] and result["metrics"]["best"]["epoch"] == 2


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["method=head"], "method head has nothing to train: task mini_summary has no new head"),
        (["method=lora", "decoding.num_beams=0"], "decoding.num_beams must be at least 1, got 0"),
        (["method=lora", "recipe.max_length=40"], "recipe.max_length is 40"),
        (["method=lora", "recipe.max_length=600"], "takes at most 512 tokens"),
        (["method=prompt_tuning", "recipe.max_length=480"], "is for tasks with labels; LlamaForCausalLM generates text"),
        (["method=lora", "task=mini_sentiment", "decoding=greedy"], "generates nothing: decoding must be null"),
    ],
)
def test_what_makes_no_sense_is_refused(models, tmp_path, overrides, message):
    if "task=mini_sentiment" in overrides:
        with initialize_config_dir(CONF, version_base="1.3"):
            config = compose("run", [*overrides, "decoding.batch_size=4", f"paths.outputs={tmp_path}"])
    else:
        config = composed(models, tmp_path, *overrides)
    with pytest.raises(UserError) as caught:
        run(config, run_id(config))
    assert message in str(caught.value)
    assert not list(Path(tmp_path).glob("runs/*"))


def test_an_encoder_does_not_generate(tmp_path):
    with initialize_config_dir(CONF, version_base="1.3"):
        config = compose("run", ["task=mini_summary", "method=lora", f"paths.outputs={tmp_path}"])
    with pytest.raises(UserError, match=r"backbone tiny_roberta \(roberta\) does not generate text"):
        run(config, run_id(config))
