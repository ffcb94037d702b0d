"""LoRALinear against PEFT's LoRA at the same weights, and what putting it into a model does."""

from __future__ import annotations

import pytest
import torch
from conftest import FAMILIES, tiny_model, train_b
from helpers.methods import same_outputs_and_gradients
from peft import LoraConfig, get_peft_model
from torch import nn

from loradrop.importance.measurement import uniform
from loradrop.lora.inject import add_lora, lora_modules, lora_sites, remove_lora
from loradrop.lora.layer import LoRALinear
from loradrop.lora.sites import find_sites
from loradrop.selection import select
from loradrop.sharing import plan_of, share


@pytest.mark.parametrize("family", FAMILIES)
def test_outputs_and_gradients_equal_pefts(family, batch):
    targets = list(FAMILIES[family][2])
    ours, theirs = tiny_model(family), tiny_model(family)
    add_lora(ours, rank=4, alpha=10)
    train_b(ours)
    theirs = get_peft_model(
        theirs, LoraConfig(r=4, lora_alpha=10, target_modules=targets, lora_dropout=0.0)
    )
    theirs.eval()
    pairs = []
    for name, module in lora_modules(ours).items():
        other = theirs.base_model.model.get_submodule(name)
        other.lora_A["default"].weight.data.copy_(module.lora_A.data)
        other.lora_B["default"].weight.data.copy_(module.lora_B.data)
        pairs += [
            (module.lora_A, other.lora_A["default"].weight),
            (module.lora_B, other.lora_B["default"].weight),
        ]
    assert len(pairs) == 2 * 2 * 3
    same_outputs_and_gradients(ours, theirs, batch, pairs)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_fresh_adapter_leaves_the_output_unchanged(family, batch):
    model = tiny_model(family)
    before = model(**batch).logits
    sites = add_lora(model)
    assert torch.equal(model(**batch).logits, before)
    assert {site.module_type for site in sites} == set(FAMILIES[family][2])
    assert [site.layer for site in sites if site.module_type == sites[0].module_type] == [0, 1, 2]


def test_only_lora_trains_and_it_is_initialised_as_published():
    model = tiny_model()
    add_lora(model, rank=8)
    trainable = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert trainable and all(name.endswith(("lora_A", "lora_B")) for name in trainable)
    for module in lora_modules(model).values():
        # Kaiming-uniform with a = sqrt(5): U(-1/sqrt(d_in), 1/sqrt(d_in))
        bound = 32**-0.5
        assert module.lora_A.abs().max() <= bound and module.lora_A.std() > 0.4 * bound
        assert not module.lora_B.any()


def test_removing_puts_the_model_back(batch):
    model = tiny_model()
    before, names = model(**batch).logits, list(model.state_dict())
    add_lora(model)
    train_b(model)
    assert not torch.equal(model(**batch).logits, before)
    remove_lora(model)
    assert torch.equal(model(**batch).logits, before)
    assert list(model.state_dict()) == names


def test_targets_of_any_depth_and_types_that_need_a_longer_name():
    model = tiny_model("bert")
    sites = find_sites(model, ["attention.output.dense", "intermediate.dense"])
    assert {site.module_type for site in sites} == {"output.dense", "intermediate.dense"} and len(
        sites
    ) == 6

    class EncoderDecoder(nn.Module):
        def __init__(self):
            super().__init__()
            self.encoder = nn.ModuleList(nn.ModuleDict({"q": nn.Linear(8, 8)}) for _ in range(2))
            self.decoder = nn.ModuleList(nn.ModuleDict({"q": nn.Linear(8, 8)}) for _ in range(2))

    model = EncoderDecoder()
    add_lora(model, rank=2, target_modules="q")
    keys = [(site.module_type, site.layer) for site in lora_sites(model)]
    assert len(set(keys)) == 4 and {layer for _, layer in keys} == {0, 1}


def test_a_head_is_no_target_where_a_layer_has_one_of_that_name():
    assert {site.name.split(".")[1] for site in find_sites(tiny_model("roberta"), ["dense"])} == {
        "encoder"
    }
    assert [site.name for site in find_sites(tiny_model("roberta"), ["out_proj"])] == [
        "classifier.out_proj"
    ]
    assert len(find_sites(tiny_model("bert"), ["all-linear"])) == 3 * 6


def test_low_precision_models_get_a_float32_adapter(batch):
    model = tiny_model().to(torch.bfloat16)
    add_lora(model)
    train_b(model)
    assert all(module.lora_A.dtype == torch.float32 for module in lora_modules(model).values())
    assert model(**batch).logits.dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"target_modules": ["qeury"]},
            r"no linear module's name ends in 'qeury'.*attention\.self\.query",
        ),
        ({"rank": 0}, "rank must lie between 1 and 32"),
        ({"rank": 33}, "rank must lie between 1 and 32 for a 32 x 32 module, got 33"),
        ({"rank": {0: 4, 1: 4}}, "rank must be a whole number, got None for layer 2"),
        ({"rank": {0: 4, 1: 4, 2: 33}}, "rank must lie between 1 and 32"),
        ({"rank": 8.0}, r"rank must be a whole number, got 8\.0 for layer 0"),
        ({"dropout": 1.0}, "dropout must lie in"),
        ({"alpha": 0}, "alpha must be positive, got 0"),
        (
            {"target_modules": ["LayerNorm"]},
            r"no linear module's name ends in 'LayerNorm' \('LayerNorm' is a LayerNorm\)",
        ),
    ],
)
def test_what_does_not_fit_is_refused_and_the_model_left_as_it_was(arguments, message):
    model = tiny_model()
    with pytest.raises(ValueError, match=message):
        add_lora(model, **arguments)
    assert not lora_modules(model) and model.classifier.dense.weight.requires_grad


def test_a_model_that_holds_lora_is_refused():
    with pytest.raises(ValueError, match="the model holds LoRA of PEFT already: go on with that"):
        add_lora(get_peft_model(tiny_model(), LoraConfig(target_modules=["query"])))
    model = tiny_model()
    add_lora(model)
    with pytest.raises(ValueError, match="the model holds LoRA modules already"):
        add_lora(model)
    with pytest.raises(ValueError, match=r"there is no LoRA of add_lora at roberta\.pooler"):
        remove_lora(model, ["roberta.pooler"])


def test_a_module_in_two_places_is_refused():
    one = nn.Linear(8, 8)
    twice = nn.ModuleList(nn.ModuleDict({"q": one}) for _ in range(2))
    with pytest.raises(ValueError, match=r"0\.q: the model uses this very module as 1\.q too"):
        add_lora(twice, rank=2, target_modules="q")
    assert twice[0]["q"] is twice[1]["q"] is one and one.weight.requires_grad
    layer = nn.ModuleDict({"q": nn.Linear(8, 8)})
    again = nn.ModuleList([layer, layer])  # a layer that is applied twice, with its LoRA
    add_lora(again, rank=2, target_modules="q")
    assert isinstance(again[1]["q"], LoRALinear)


class Pipeline(nn.Sequential):
    """An encoder and what follows it, as sentence-transformers and timm put them."""

    def forward(self, **batch):
        return self[0](**batch)


def test_layers_are_those_of_the_stack_inside_a_pipeline(batch):
    bare, model = tiny_model(), Pipeline(tiny_model(), nn.Linear(32, 32))
    keys = [[(site.module_type, site.layer) for site in add_lora(m)] for m in (bare, model)]
    assert keys[0] == keys[1] and {layer for _, layer in keys[1]} == {0, 1, 2}
    share(model, select(uniform(model), num_layers=1, share=False))
    assert plan_of(model).others["query"] == (1, 2)  # still told by the names of what is left
    assert all(
        site.name.startswith("0.")
        for site in find_sites(Pipeline(tiny_model(), nn.Linear(32, 32)), "all-linear")
    )
    blocks = nn.Sequential(*(nn.ModuleDict({"q": nn.Linear(8, 8)}) for _ in range(3)))
    assert [site.layer for site in find_sites(blocks, "q")] == [0, 1, 2]


def test_a_base_whose_weight_has_another_name():
    class Packed(nn.Module):  # as GPTQ's and AWQ's linear modules
        in_features, out_features = 8, 8

        def __init__(self):
            super().__init__()
            self.register_buffer("qweight", torch.eye(8))

        def forward(self, x):
            return x @ self.qweight

    module = LoRALinear(Packed(), rank=2, alpha=2)
    x = torch.randn(3, 8)
    assert torch.equal(module(x), x)


def test_a_model_without_known_targets_lists_its_linear_modules():
    with pytest.raises(ValueError, match=r"no default targets for Sequential.*Linear modules: \*$"):
        add_lora(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)))
    with pytest.raises(
        ValueError, match=r"target_modules: no layer has a linear module\. Linear modules: head"
    ):
        add_lora(nn.ModuleDict({"head": nn.Linear(4, 4)}), target_modules="all-linear")


def test_dropout_acts_in_training_only():
    torch.manual_seed(0)
    module = LoRALinear(nn.Linear(16, 16), rank=4, alpha=4, dropout=0.5)
    nn.init.normal_(module.lora_B)
    x = torch.randn(3, 16)
    assert not torch.equal(module.train()(x), module(x))
    assert torch.equal(module.eval()(x), module(x))


@pytest.mark.parametrize("training", [True, False])
def test_lora_has_the_mode_of_what_it_is_put_into(training):
    """from_pretrained of transformers returns eval mode: dropout must not be on there."""
    model = tiny_model().train(training)
    add_lora(model, rank=4, dropout=0.5)
    assert {module.training for module in model.modules()} == {training}
