"""The argument `token_mask`, and inputs that are laid out in another way than (batch, tokens)."""

from __future__ import annotations

import pytest
import torch
from conftest import tiny_model, train_b
from helpers.peft_models import measured
from helpers.stacks import adapted, agree, clip, explicit, pixels, text
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM, XLNetConfig, XLNetModel

import loradrop
from loradrop.importance.lineage import CONSTANT, SWAPPED, UNKNOWN, Lineage


def llama():
    shape = {
        "vocab_size": 60,
        "hidden_size": 32,
        "num_attention_heads": 4,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
    }
    torch.manual_seed(0)
    return adapted(
        LlamaForCausalLM(LlamaConfig(**shape, max_position_embeddings=40, pad_token_id=1))
    )


def packed():
    """Three texts of 4, 3 and 2 tokens in one row and one token of padding, each seeing itself
    alone.
    """
    text_of = torch.tensor([0, 0, 0, 0, 1, 1, 1, 2, 2, 9])
    sees = (text_of[:, None] == text_of) & torch.ones(10, 10).tril().bool()
    positions = torch.tensor([[0, 1, 2, 3, 0, 1, 2, 0, 1, 0]])
    ids = torch.randint(3, 60, (1, 10), generator=torch.Generator().manual_seed(0))
    return {"input_ids": ids, "position_ids": positions, "attention_mask": sees[None, None]}, (
        text_of < 9
    ).long()[None]


def test_packed_texts_with_a_mask_of_four_axes():
    model, (given, counts) = llama(), packed()
    with pytest.raises(
        ValueError,
        match=r"from attention_mask \(1, 1, 10, 10\) .* are padding: say so by token_mask=",
    ):
        loradrop.measure(model, [given])
    expected = explicit(model, given, lambda name, x: counts)
    parts = [{part: counts} for part in ("", "model", "layers")]
    for told in (counts, lambda batch: counts, *parts, counts[0], counts.bool()):
        importance = loradrop.measure(model, [given], token_mask=told)
        agree(importance, expected)
        assert importance.tokens == 9
    everything = explicit(model, given, lambda name, x: None)
    agree(loradrop.measure(model, [given], token_mask={"model": None}), everything)
    # without padding, by positions alone
    row = {key: given[key][:, :9] for key in ("input_ids", "position_ids")}
    agree(loradrop.measure(model, [row]), explicit(model, row, lambda name, x: None))


def test_a_function_sees_each_batch():
    model, (ids, mask) = llama(), text()
    batches = [
        {"input_ids": ids, "attention_mask": mask},
        {"input_ids": ids[:2, :4], "attention_mask": mask[:2, :4]},
    ]
    seen = []

    def told(batch):
        seen.append(batch["input_ids"].shape)
        return batch["attention_mask"]

    importance = loradrop.measure(model, batches, token_mask=told)
    assert seen == [(3, 5), (2, 4)]  # once each, for all modules
    assert importance.values == loradrop.measure(model, batches).values
    with pytest.raises(
        ValueError,
        match=r"token_mask: \(3, 5\) for '' does not fit the input \(2, 4, 32\) of model.layers",
    ):
        loradrop.measure(model, batches, token_mask=mask)


def test_the_nearest_part_of_a_name_counts():
    model, (ids, mask) = adapted(clip()), text()
    given = {"input_ids": ids, "attention_mask": mask, "pixel_values": pixels()}
    first = torch.zeros(3, 5)
    first[:, 0] = 1
    told = {"text_model": None, "vision_model.encoder": first, "layers.1": mask, "q_proj": None}

    def mask_of(name, x):
        if name.endswith("q_proj"):
            return None
        return mask if "layers.1" in name else first if "vision" in name else None

    agree(loradrop.measure(model, [given], token_mask=told), explicit(model, given, mask_of))


def test_mistakes():
    model, (ids, mask) = llama(), text()
    given = {"input_ids": ids, "attention_mask": mask}
    with pytest.raises(
        ValueError,
        match=r"token_mask: no adapted module lies in 'vision'; one of them is model\.layers\.0",
    ):
        loradrop.measure(model, [given], token_mask={"vision": None})
    with pytest.raises(
        TypeError,
        match="token_mask must hold tensors, functions of a batch, or None, got list for ''",
    ):
        loradrop.measure(model, [given], token_mask=[[1, 1]])
    with pytest.raises(
        TypeError, match="token_mask: the function for '' must return a tensor or None, got int"
    ):
        loradrop.measure(model, [given], token_mask=len)
    with pytest.raises(TypeError, match="attention_mask of a batch must be a tensor, got list"):
        loradrop.measure(model, [{**given, "attention_mask": mask.tolist()}])


def test_one_vector_for_each_example_has_no_padding(batch):
    model = tiny_model("bert")
    loradrop.add_lora(model, rank=4, target_modules=["query", "pooler.dense"])
    assert not any("pooler" in name for name, _ in model.named_modules() if name.endswith("lora_A"))
    model = tiny_model("bert")
    loradrop.add_lora(model, rank=4, target_modules=["pooler.dense"])
    train_b(model)
    given = {key: batch[key] for key in ("input_ids", "attention_mask")}
    expected = explicit(model, given, lambda name, x: None)
    for average_over in ("tokens", "examples"):
        agree(loradrop.measure(model, [given], average_over), expected)


@pytest.mark.parametrize("width", [5, 3])  # as long as there are texts, too
def test_positions_before_rows(width):
    torch.manual_seed(0)
    config = XLNetConfig(vocab_size=60, d_model=32, n_layer=2, n_head=4, d_inner=48)
    model, (ids, mask) = adapted(XLNetModel(config), ["ff.layer_1"]), text(width)
    given = {"input_ids": ids, "attention_mask": mask}
    expected = explicit(model, given, lambda name, x: mask.T)
    agree(loradrop.measure(model, [given]), expected)
    rows = []
    for i in range(3):
        row = {key: value[i : i + 1] for key, value in given.items()}
        rows.append(explicit(model, row, lambda name, x, row=row: row["attention_mask"].T))
    examples = {site: sum(row[site] for row in rows) / 3 for site in expected}
    agree(loradrop.measure(model, [given], "examples"), examples, rel=1e-3)


class Unroutable(nn.Module):
    """A mixture of experts: each sees the tokens that were sent to it."""

    def __init__(self):
        super().__init__()
        self.words = nn.Embedding(60, 8)
        self.layers = nn.ModuleList([nn.Linear(8, 8), nn.Linear(8, 8)])

    def forward(self, input_ids, attention_mask=None):
        x = self.words(input_ids).flatten(0, 1)
        first = x[:, 0] > 0
        return self.layers[0](x[first]).sum() + self.layers[1](x[~first]).sum()


def test_experts_can_be_measured_where_nothing_is_padding():
    torch.manual_seed(0)
    model, (ids, mask) = adapted(Unroutable(), ["0", "1"]), text()
    whole = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    agree(loradrop.measure(model, [whole]), explicit(model, whole, lambda name, x: None))
    with pytest.raises(
        ValueError,
        match=r"0: it cannot be told from attention_mask \(3, 5\) which positions of its input",
    ):
        loradrop.measure(model, [{"input_ids": ids, "attention_mask": mask}])


class Torchlike(nn.Module):
    """Its mask is torch's: true for what is padding."""

    def __init__(self):
        super().__init__()
        self.words = nn.Embedding(60, 8)
        self.layers = nn.ModuleList([nn.Linear(8, 8), nn.Linear(8, 8)])

    def forward(self, input_ids, key_padding_mask=None):
        x = self.words(input_ids)
        for layer in self.layers:
            x = x + layer(x).tanh()
        return x.masked_fill(key_padding_mask[..., None], 0).sum()


def test_a_mask_of_unknown_meaning_is_refused():
    torch.manual_seed(0)
    model, (ids, mask) = adapted(Torchlike(), ["0", "1"]), text()
    given = {"input_ids": ids, "key_padding_mask": mask == 0}
    message = r"key_padding_mask \(3, 5\) of a batch may say what is padding.* give token_mask"
    for batch in (given, list(given.values())):
        with pytest.raises(ValueError, match=message):
            loradrop.measure(model, [batch])
    told = loradrop.measure(model, [given], token_mask=lambda batch: ~batch["key_padding_mask"])
    agree(told, explicit(model, given, lambda name, x: mask))
    everything = explicit(model, given, lambda name, x: None)
    agree(loradrop.measure(model, [given], token_mask={"": None}), everything)
    nothing = {"input_ids": ids, "key_padding_mask": torch.zeros_like(mask).bool()}
    agree(loradrop.measure(model, [nothing]), everything)


class Tower(nn.Module):
    def __init__(self):
        super().__init__()
        self.words = nn.Embedding(60, 8)
        self.layers = nn.ModuleList([nn.Linear(8, 8), nn.Linear(8, 8)])

    def forward(self, input_ids, attention_mask):
        x = self.words(input_ids)
        for layer in self.layers:
            x = x + layer(x).tanh()
        return (x * attention_mask[..., None]).sum(1)


class BiEncoder(Tower):
    """Takes dictionaries, as sentence-transformers do."""

    def forward(self, query, passage=None):
        found = super().forward(**query)
        return found if passage is None else (found * super().forward(**passage)).sum(-1)


def test_dictionaries_in_a_batch_have_masks_of_their_own():
    torch.manual_seed(0)
    ids, mask = text()
    query = {"input_ids": ids, "attention_mask": mask}
    passage = {"input_ids": ids.flip(0), "attention_mask": mask.flip(1)}
    tower = adapted(Tower(), ["0", "1"])
    pair = BiEncoder()
    loradrop.add_lora(pair, rank=4, target_modules=["0", "1"])
    pair.load_state_dict(tower.state_dict())
    expected = pytest.approx(measured(loradrop.measure(tower, [query, passage])))
    for batch in ({"query": query, "passage": passage}, [query, passage]):
        assert measured(loradrop.measure(pair, [batch])) == expected
    alone = measured(loradrop.measure(tower, [query]))
    assert measured(loradrop.measure(pair, [[query]])) == pytest.approx(alone) != expected
    unclear = {**passage, "token_mask": mask}
    with pytest.raises(ValueError, match=r"passage\.token_mask \(3, 5\) of a batch may say"):
        loradrop.measure(pair, [{"query": query, "passage": unclear}])


def test_lineage_of_single_operations():
    layer = nn.Linear(4, 4)
    layer.register_buffer("table", torch.ones(3, 4))
    lineage = Lineage(layer)
    one, two = lineage.marked([torch.randn(3, 3, 4), torch.randn(3, 3, 4)], ["one", "two"])
    with torch.no_grad(), lineage:
        attended = torch.softmax(one @ two.mT, -1) @ two
        assert lineage.of(attended) == {"one"}
        assert lineage.of(torch.cat([one, two])) == lineage.of(one + two) == {"one", "two"}
        assert lineage.of(layer(layer.table)) == lineage.of(torch.zeros_like(one)) == CONSTANT
        assert lineage.of(one.transpose(0, 1)) == {"one", SWAPPED}
        assert lineage.of(one.transpose(0, 1).permute(1, 0, 2)) == {"one"}
        assert lineage.of(one.transpose(1, 2)) == {"one"}
        buffer = torch.empty(3, 3, 4)
        assert lineage.of(buffer) == {UNKNOWN}
        buffer[:, 0] = one[:, 0]
        assert "one" in lineage.of(buffer)
        zeros = torch.zeros(3, 3, 4)
        zeros[0].copy_(two[0])  # through a view
        assert lineage.of(zeros) == {"two"}
        with lineage.paused():
            assert lineage.of(one * 2) == {UNKNOWN}
    assert lineage.of(one * 2) == {UNKNOWN}  # outside
