"""Runs that generate text, on a Llama of a few thousand parameters: padding, scores, plans, what is
refused.
"""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from helpers.generation import composed
from hydra import compose, initialize_config_dir

from experiments.config.identity import run_id
from experiments.config.schema import CONF, UserError
from experiments.config.validation import check
from experiments.results import printing
from experiments.runner.components import RunComponents
from experiments.runner.execution import run
from experiments.runner.restore import restore
from experiments.score import scores
from loradrop.training import module
from loradrop.training.generation import GenerationModule, NoRepeatedNgrams


@pytest.mark.slow
@pytest.mark.parametrize("method", ["lora", "lora_drop", "full", "vera", "prilora"])
def test_a_run_is_scored_saved_and_restored(models, tmp_path, method):
    config = composed(models, tmp_path, f"method={method}")
    id = run_id(config)
    result = run(config).result
    assert [epoch.epoch for epoch in result.metrics.epochs] == [1, 2]
    if method == "lora_drop":
        assert set(result.plan.kept) == {"q_proj", "v_proj"}
    again, recorded = scores(id, str(tmp_path))
    assert again == {key: recorded[key] for key in again} and "bleu" in again
    lines = [
        json.loads(line)
        for line in (tmp_path / "runs" / id / "predictions.jsonl").read_text().splitlines()
    ]
    assert len(lines) == 12

    # each prompt alone, unpadded, by the restored model: the same texts in the same order
    model, tokenizer, _ = restore(id, tmp_path, models)
    data = RunComponents(check(config)).data
    assert [line["source"] for line in lines] == data.splits.evaluation["validation"]["source"][:]
    for line, ids in zip(lines, data.evaluation["validation"]["input_ids"], strict=True):
        text = tokenizer.decode(
            greedy(model, ids, tokenizer.eos_token_id), skip_special_tokens=True
        )
        assert data.task.decode(text) == line["prediction"]


def greedy(model, ids, eos, size=0, most=6):
    """The likeliest token at every step that ends no n-gram of this size that has been generated
    before.
    """
    made = []
    while len(made) < most and made[-1:] != [eos]:
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([ids + made])).logits[0, -1]
        grams = [made[i : i + size] for i in range(len(made) - size + 1)] if size else []
        logits[
            [gram[-1] for gram in grams if gram[:-1] == made[len(made) - size + 1 :]]
        ] = -torch.inf
        made.append(int(logits.argmax()))
    return made


@pytest.mark.slow
def test_no_n_gram_of_a_text_comes_twice(models, tmp_path):
    overrides = ["task.max_new_tokens=24", "decoding.no_repeat_ngram_size=2", "recipe.epochs=1"]
    config = composed(models, tmp_path, "method=lora", *overrides)
    id = run_id(config)
    result = run(config).result
    model, tokenizer, _ = restore(id, tmp_path, models)
    data, eos = RunComponents(check(config)).data, tokenizer.eos_token_id
    prompts = data.evaluation["validation"]["input_ids"]
    made = [greedy(model, ids, eos, size=2, most=24) for ids in prompts]
    lines = (tmp_path / "runs" / id / "predictions.jsonl").read_text().splitlines()
    texts = [data.task.decode(tokenizer.decode(ids, skip_special_tokens=True)) for ids in made]
    assert [json.loads(line)["prediction"] for line in lines] == texts
    # there was something to forbid
    assert made != [greedy(model, ids, eos, most=24) for ids in prompts]
    cut = sum(ids[-1] != eos for ids in made)
    assert cut > 0
    assert (
        f"mini_summary: {cut} of 12 texts for validation were cut off at task.max_new_tokens"
        in result.notes
    )


def test_a_text_may_copy_its_prompt():
    prompt, text = [7, 5, 6, 8], [5, 9, 5]
    scores = NoRepeatedNgrams(2, start=4)(torch.tensor([prompt + text]), torch.zeros(1, 12))
    assert scores.isinf().nonzero().tolist() == [[0, 9]]  # 5 6 stands in the prompt alone


def test_beams_find_likelier_texts(models, tmp_path, monkeypatch):
    overrides = [
        "decoding.num_beams=4",
        "decoding.no_repeat_ngram_size=2",
        "decoding.length_penalty=0.0",
    ]
    components = RunComponents(check(composed(models, tmp_path, "method=lora", *overrides)))
    model, eos, made = components.model.eval(), components.tokenizer.eos_token_id, []
    generate = model.generate
    monkeypatch.setattr(
        type(model), "generate", lambda self, **given: made.append(generate(**given)) or made[-1]
    )
    settings = {"tokenizer": components.tokenizer, "decoding": components.decoding}
    module = GenerationModule(model, components.data, components.recipe, None, **settings)
    batch = next(iter(components.data.evaluation_loaders()[0]))
    module.validation_step(batch, 0)

    def likelihood(ids, text):
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([ids + text])).logits[0, len(ids) - 1 : -1]
        return float(logits.log_softmax(-1).gather(1, torch.tensor(text)[:, None]).sum())

    gained = []
    for ids, mask, sequence in zip(
        batch["input_ids"], batch["attention_mask"], made[0], strict=True
    ):
        prompt, text = ids[mask.bool()].tolist(), sequence[len(ids) :].tolist()
        text = text[: text.index(eos) + 1] if eos in text else text
        pairs = list(pairwise(text))
        assert len(set(pairs)) == len(pairs)
        gained.append(
            likelihood(prompt, text) - likelihood(prompt, greedy(model, prompt, eos, size=2))
        )
    assert min(gained) > -1e-4 and max(gained) > 0.01


def test_prompts_are_padded_on_the_left_and_targets_alone_are_learned(models, tmp_path):
    data = RunComponents(check(composed(models, tmp_path, "method=lora"))).data
    batch = next(iter(data.train_loader()))
    for ids, mask, labels in zip(
        *(batch[key] for key in ("input_ids", "attention_mask", "labels")), strict=True
    ):
        real = int(mask.sum())
        assert mask[:real].all() and not mask[real:].any() and (labels[real:] == -100).all()
        learned = (labels != -100).nonzero().flatten()
        assert learned[0] > 0 and learned.tolist() == list(range(int(learned[0]), real))
        assert torch.equal(labels[learned], ids[learned]) and labels[real - 1] == 2  # eos
    prompts = next(iter(data.evaluation_loaders()[0]))
    assert set(prompts) == {"input_ids", "attention_mask"} and len(prompts["input_ids"]) == 5
    assert all(mask.tolist() == sorted(mask.tolist()) for mask in prompts["attention_mask"])


@pytest.mark.slow
def test_the_last_epoch_alone_may_be_scored(models, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(module, "time", Clock)
    step = module.RunModule.training_step
    monkeypatch.setattr(
        module.RunModule, "training_step", lambda self, *given: Clock.tick() or step(self, *given)
    )
    results = []
    for each in ("true", "false"):
        config = composed(models, tmp_path, "method=lora", f"decoding.every_epoch={each}")
        results.append(run(config).result)
    (_, last), (alone,) = (result.metrics.epochs for result in results)
    assert alone == last and alone.epoch == 2  # its training loss is that of the last epoch, too
    assert results[1].metrics.best == last
    # 12 steps each, one a second
    assert results[0].tokens_per_second == results[1].tokens_per_second
    printing.summary(results[1], str(tmp_path))
    assert "(epoch 2 of 2)" in capsys.readouterr().out


class Clock:
    """A second passes with each training step."""

    seconds = 0.0

    @classmethod
    def tick(cls):
        cls.seconds += 1

    @classmethod
    def perf_counter(cls):
        return cls.seconds


@pytest.mark.slow
@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["method=linear_probe"],
            "method linear_probe has nothing to train: task mini_summary has no new head",
        ),
        (["method=lora", "decoding.num_beams=0"], "decoding.num_beams must be at least 1, got 0"),
        (["method=lora", "recipe.max_length=40"], "are longer than recipe.max_length = 40; "),
        (["method=lora", "recipe.max_length=600"], "takes at most 512 tokens"),
        (
            ["method=prompt_tuning", "recipe.max_length=480"],
            "is for tasks with labels; LlamaForCausalLM generates text",
        ),
        (
            ["method=lora", "task=mini_sentiment", "decoding=greedy"],
            "generates nothing: leave decoding out",
        ),
    ],
)
def test_what_makes_no_sense_is_refused(models, tmp_path, overrides, message):
    if "task=mini_sentiment" in overrides:
        with initialize_config_dir(CONF, version_base="1.3"):
            config = compose(
                "run", [*overrides, "decoding.batch_size=4", f"paths.outputs={tmp_path}"]
            )
    else:
        config = composed(models, tmp_path, *overrides)
    with pytest.raises(UserError) as caught:
        run(config)
    assert message in str(caught.value)
    assert not list(Path(tmp_path).glob("runs/*"))


def test_an_encoder_does_not_generate(tmp_path):
    with initialize_config_dir(CONF, version_base="1.3"):
        config = compose("run", ["task=mini_summary", "method=lora", f"paths.outputs={tmp_path}"])
    with pytest.raises(
        UserError, match=r"backbone tiny_roberta \(roberta\) does not generate text"
    ):
        run(config)
