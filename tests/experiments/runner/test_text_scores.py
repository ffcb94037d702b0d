"""Loss and accuracy on given texts, against a plain loop over the tokens of each row."""

from __future__ import annotations

import pytest
import torch
from helpers.generation import composed, save_model

from experiments.config.validation import check
from experiments.runner.components import RunComponents
from experiments.runner.text_scores import text_scores


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    save_model(root)
    return root


def test_scores_are_means_over_the_tokens_of_the_first_references(models, tmp_path):
    components = RunComponents(check(composed(models, tmp_path, "method=lora")))
    model, tokenizer, task = components.model.eval(), components.tokenizer, components.data.task
    with torch.no_grad():
        found = text_scores(components)
        losses, hits = [], []
        for row in components.data.splits.evaluation["validation"]:
            prompt = [tokenizer.bos_token_id]
            prompt += tokenizer(task.prompt(row["source"]), add_special_tokens=False)["input_ids"]
            target = tokenizer(row["references"][0], add_special_tokens=False)["input_ids"]
            for token in [*target, tokenizer.eos_token_id]:
                logits = model(input_ids=torch.tensor([prompt])).logits[0, -1]
                losses.append(-float(logits.log_softmax(-1)[token]))
                hits.append(int(logits.argmax()) == token)
                prompt.append(token)
    assert found["loss"] == pytest.approx(sum(losses) / len(losses), rel=1e-4)
    assert found["score"] == pytest.approx(sum(hits) / len(hits))
