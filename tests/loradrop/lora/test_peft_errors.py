"""What of PEFT's models and of batches is refused, each by one clear message, and the forms that
batches may have.
"""

from __future__ import annotations

import pytest
import torch
from conftest import tiny_model
from helpers.peft_models import measured, plan_for, wrapped
from peft import AdaLoraConfig, LoraConfig, get_peft_model

from loradrop.importance.measurement import measure
from loradrop.io.merging import merge
from loradrop.lora.inject import add_lora
from loradrop.plan import SharingPlan
from loradrop.sharing import plan_of, share


def test_what_is_no_plain_lora_is_refused(batch):
    dora = get_peft_model(tiny_model(), LoraConfig(target_modules=["query"], use_dora=True))
    with pytest.raises(ValueError, match="DoRA rescales W \\+ B A by a trained magnitude"):
        measure(dora, [batch])
    bias = get_peft_model(tiny_model(), LoraConfig(target_modules=["query"], lora_bias=True))
    with pytest.raises(ValueError, match="its update has a bias"):
        measure(bias, [batch])
    embedding = get_peft_model(tiny_model(), LoraConfig(target_modules=["word_embeddings"]))
    with pytest.raises(ValueError, match="LoRA of a Embedding cannot be measured"):
        measure(embedding, [batch])
    for initial in ("pissa", "pissa_niter_4", "olora"):
        changed = get_peft_model(
            tiny_model(), LoraConfig(target_modules=["query"], init_lora_weights=initial)
        )
        with pytest.raises(
            ValueError,
            match=f"init_lora_weights='{initial}' moves a part of the base weights into B A",
        ):
            measure(changed, [batch])
    adalora = get_peft_model(
        tiny_model(), AdaLoraConfig(target_modules=["query"], total_step=10, tinit=1, tfinal=1)
    )
    with pytest.raises(ValueError, match=r"adapter 'default': LoRA of a Linear cannot be measured"):
        measure(adalora, [batch])


def test_errors_are_single_messages(batch):
    model = wrapped()
    with pytest.raises(TypeError, match=r"a torch\.nn\.Module or a PeftModel is needed, got str"):
        measure("roberta-base", [batch])
    with pytest.raises(TypeError, match="batches must be an iterable of batches, got a single one"):
        measure(model, batch)
    with pytest.raises(
        TypeError, match="a batch must be a dictionary, tensor, list or tuple, got str"
    ):
        measure(model, ["a text"])
    with pytest.raises(ValueError, match="the model has no LoRA adapter 'mine'; it has default"):
        measure(model, [batch], adapter="mine")
    with pytest.raises(
        ValueError, match="the model holds no LoRA: call add_lora first, or give a PeftModel"
    ):
        measure(tiny_model(), [batch])
    with pytest.raises(ValueError, match="target_tokens needs labels of"):
        measure(model, [{k: v for k, v in batch.items() if k != "labels"}], "target_tokens")
    with pytest.raises(
        ValueError, match="the plan does not fit the model: only in the plan: query 3"
    ):
        share(model, SharingPlan({"query": (0,)}, {"query": (1, 2, 3)}, True, 1, 1))
    ranks = wrapped(rank_pattern={"layer.2.attention.self.value": 2})
    with pytest.raises(
        ValueError,
        match=r"value: LoRAs of different shapes cannot be shared: \[\(4, 32\), \(2, 32\)\]",
    ):
        share(ranks, plan_for(ranks, (0,)))
    assert len(plan_of(ranks).kept["query"]) == 3  # nothing is shared by halves
    with (
        model.disable_adapter(),
        pytest.raises(ValueError, match="the model's adapters are disabled"),
    ):
        measure(model, [batch])
    model.base_model.set_adapter([])
    with pytest.raises(ValueError, match="0 adapters are active; name one of default"):
        measure(model, [batch])
    ours = tiny_model()
    add_lora(ours)
    with pytest.raises(
        ValueError, match="adapter='default' names an adapter, but this is not a PEFT model"
    ):
        measure(ours, [batch], adapter="default")


def test_an_adapter_beside_one_that_is_merged(batch):
    """PEFT does not apply an adapter where another one is merged."""
    model = wrapped()
    model.add_adapter("second", LoraConfig(r=2, target_modules=["query", "value"]))
    model.merge_adapter(["second"])
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for act in (lambda: measure(model, [batch]), lambda: merge(model)):
        with pytest.raises(
            ValueError,
            match=r"0\.attention\.self\.query: adapter 'second' is merged .*; unmerge it",
        ):
            act()
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    model.unmerge_adapter()
    model.merge_adapter()
    assert measured(measure(model, [batch]))  # its own is no hindrance: the inputs are the same


def test_biases_that_the_files_would_lose(batch):
    model = wrapped(bias="lora_only")
    with pytest.raises(ValueError, match=r"bias='lora_only'\), and its files would lack those"):
        share(model, plan_for(model, (0,), False))
    assert len(measured(measure(model, [batch]))) == 6
    share(model, plan_for(model, (0,)))


def test_batches_in_several_forms(batch):
    model = wrapped()
    expected = measured(measure(model, [{"input_ids": batch["input_ids"]}]))
    assert measured(measure(model, [batch["input_ids"]])) == pytest.approx(expected)
    assert measured(measure(model, [(batch["input_ids"],)])) == pytest.approx(expected)
    loader = torch.utils.data.DataLoader(
        [{key: value[i] for key, value in batch.items()} for i in range(4)], batch_size=3
    )
    assert measured(measure(model, loader)) == pytest.approx(
        measured(measure(model, [batch])), rel=1e-5
    )
    mixed = measured(measure(model, [batch], autocast=torch.bfloat16))
    assert mixed == pytest.approx(measured(measure(model, [batch])), rel=0.1) and mixed != expected
