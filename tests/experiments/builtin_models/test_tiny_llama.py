"""The built-in decoder: its files, what it has and has not seen, and runs on it from end to end."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from itertools import islice
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from experiments.builtin_models.command import ASSETS, HELD_OUT_SEED
from experiments.builtin_models.pretraining import Batches, evaluate
from experiments.builtin_models.tiny_llama.corpus import Corpus
from experiments.builtin_models.tiny_llama.pretrain import guess
from experiments.config.schema import CONF
from experiments.config.validation import instantiate_group
from experiments.runner.execution import run
from experiments.score import export, predictions

pytestmark = pytest.mark.slow

MODEL = ASSETS / "tiny_llama"
RECORD = json.loads(
    (Path(CONF).parent / "experiments/builtin_models/tiny_llama/record.json").read_text()
)
TASKS = ("mini_table2text", "mini_summary")


@pytest.fixture(scope="module")
def model():
    return AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(MODEL)


def composed(*overrides):
    with initialize_config_dir(CONF, version_base="1.3"):
        places = [
            "paths.models=null",
            "paths.data=null",
            "trainer.num_threads=1",
            "trainer.progress_bar=false",
        ]
        return compose("run", ["backbone=tiny_llama", *overrides, *places])


def test_the_files_are_small_and_those_of_the_record(model, tokenizer):
    assert sum(path.stat().st_size for path in MODEL.iterdir()) < 5_000_000
    config, settings = model.config, RECORD["settings"]
    assert (
        config.num_hidden_layers == settings["layers"][-1] == RECORD["stages"][-1]["layers"] == 12
    )
    assert config.vocab_size == len(tokenizer) == settings["vocabulary"]
    assert (config.num_attention_heads, config.num_key_value_heads, config.tie_word_embeddings) == (
        4,
        2,
        True,
    )
    assert sum(parameter.numel() for parameter in model.parameters()) == RECORD["parameters"]
    assert round((MODEL / "model.safetensors").stat().st_size / 1e6, 2) == RECORD["megabytes"]
    special = [tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id]
    assert special == [config.pad_token_id, config.bos_token_id, config.eos_token_id]


def test_a_word_is_the_same_token_at_the_start_of_a_line(tokenizer):
    text = "doctor: where is my harp?\ndoctor: it is near the doctor."
    ids = tokenizer(text)["input_ids"]
    assert (
        ids[0] == tokenizer.bos_token_id
        and ids.count(tokenizer("doctor", add_special_tokens=False)["input_ids"][0]) == 3
    )
    assert [line.strip() for line in tokenizer.decode(ids[1:]).split("\n")] == text.split("\n")


def test_it_has_learnt_its_language(model, tokenizer):
    texts = islice(Corpus(RECORD["settings"]["seed"] + HELD_OUT_SEED), 300)
    rows = [[*tokenizer(text)["input_ids"], tokenizer.eos_token_id] for text in texts]
    scores = evaluate(model, Batches(rows, 1024, 0), guess)
    assert scores["loss"] < 0.5 * scores["unigram_loss"]
    # of 3000 texts, before rounding to float16
    assert scores["loss"] == pytest.approx(RECORD["held_out"]["loss"], rel=0.1)


def test_it_has_seen_no_prompt_and_no_answer_of_the_tasks():
    tasks = [instantiate_group("task", composed(f"task={name}").task) for name in TASKS]
    splits = [task.load(None) for task in tasks]
    answers = {
        text
        for part in splits
        for texts in part.evaluation["validation"]["references"]
        for text in texts
    }
    answers |= {text for part in splits for text in part.train["target"]}
    instruction = tasks[0].template.split("\n")[1]
    for text in islice(Corpus(RECORD["settings"]["seed"]), RECORD["texts"]):
        assert instruction not in text
        assert answers.isdisjoint(f"{sentence.strip()}." for sentence in re.split(r"[.?\n]", text))


def test_the_tasks_stay_to_be_learned(model, tokenizer):
    task = instantiate_group(
        "task", composed("task=mini_table2text", "task.validation_size=24").task
    )
    rows = task.load(None).evaluation["validation"]
    greedy = GenerationConfig(
        max_new_tokens=task.max_new_tokens, do_sample=False, pad_token_id=0, eos_token_id=2
    )
    texts = []
    for ids in task.encode(rows[:], tokenizer, 160)["input_ids"]:
        made = model.generate(torch.tensor([ids]), generation_config=greedy)[0, len(ids) :]
        texts.append(task.decode(tokenizer.decode(made, skip_special_tokens=True)))
    assert task.score_texts(texts, rows["references"][:])["bleu"] < 0.7


@pytest.mark.parametrize(
    ("task", "method"), [*((task, "lora_drop") for task in TASKS), ("mini_table2text", "lora")]
)
def test_a_run_from_end_to_end(tmp_path, task, method):
    sizes = ["task.train_size=100", "task.validation_size=12", "recipe.epochs=1"]
    config = composed(f"task={task}", f"method={method}", *sizes, f"paths.outputs={tmp_path}")
    result = run(config).result
    # query, and value with half as many heads, at rank 8
    lora = 12 * 8 * ((128 + 128) + (128 + 64))
    assert result.parameters.lora_parameters == lora and 0 < result.parameters.adapter <= lora
    assert result.parameters.head == 0 and result.metrics.last.train_loss < 4
    # sacrebleu's own command on the saved texts
    command = shlex.split(export(predictions(result.id, tmp_path)[1], tmp_path / "text"))
    printed = subprocess.run(
        [sys.executable, "-m", *command, "-b"], capture_output=True, encoding="utf-8", check=True
    ).stdout
    assert (
        100 * result.metrics.best.scores["bleu"] == pytest.approx(float(printed), abs=1e-4)
        and float(printed) > 1
    )
    if method == "lora_drop":
        assert all(1 <= len(result.plan.kept[kind]) <= 12 for kind in ("q_proj", "v_proj"))
