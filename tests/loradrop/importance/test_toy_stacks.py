"""Property test: generated models of several stacks, whose masks are known, and which do not look
like a library's.
"""

from __future__ import annotations

import pytest
import torch
from conftest import train_b
from helpers.stacks import agree, explicit
from helpers.toy_stacks import generated
from torch import nn

import loradrop


@pytest.mark.parametrize("seed", range(24))
def test_every_stack_has_its_own_mask(seed):
    model, given, mask_of = generated(seed)
    importance = loradrop.measure(model, [given])
    agree(importance, explicit(model, given, mask_of))
    # positional arguments have the same names
    assert loradrop.measure(model, [list(given.values())]).values == importance.values
    # told in words, the same
    told = {"one": lambda batch: batch["attention_mask"], "two": None}
    if model.kind in ("text_sees", "both"):
        told["one.0.cross.v"] = told["one.1.cross.v"] = None
    if model.kind in ("other_sees", "both"):
        told["two.0.cross.v"] = told["two.1.cross.v"] = given["attention_mask"]
    assert loradrop.measure(model, [given], token_mask=told).values == importance.values


class Unseen(torch.autograd.Function):
    """A kernel of one's own: torch does not see what its output is made of."""

    @staticmethod
    def forward(ctx, x):
        return torch.from_numpy(x.detach().numpy() * 2)


class Kernel(nn.Module):
    def __init__(self):
        super().__init__()
        self.words = nn.Embedding(30, 8)
        self.layers = nn.ModuleList(nn.Linear(8, 8) for _ in range(2))

    def forward(self, input_ids, attention_mask=None, other=None):
        x = self.words(input_ids)
        for layer in self.layers:
            x = layer(Unseen.apply(x))
        return x


def test_what_a_kernel_returns_is_of_the_only_input():
    torch.manual_seed(0)
    model = Kernel().eval()
    loradrop.add_lora(model, rank=3, target_modules=["0", "1"])
    train_b(model)
    mask = torch.tensor([[1, 1, 0], [1, 0, 0]])
    given = {"input_ids": torch.randint(0, 30, (2, 3)), "attention_mask": mask}
    agree(loradrop.measure(model, [given]), explicit(model, given, lambda name, x: mask))
    two = {**given, "other": torch.randn(2, 3, 3)}
    with pytest.raises(
        ValueError, match=r"which positions of its input \(2, 3, 8\), made of input_ids, other"
    ):
        loradrop.measure(model, [two])
    told = loradrop.measure(model, [two], token_mask=mask)
    agree(told, explicit(model, given, lambda name, x: mask))


class Siamese(nn.Module):
    def __init__(self):
        super().__init__()
        self.words = nn.Embedding(30, 8)
        self.left, self.right = (nn.ModuleList([nn.Linear(8, 8)]) for _ in range(2))

    def forward(self, question, answer, attention_mask):
        return self.left[0](self.words(question)).sum() + self.right[0](self.words(answer)).sum()


def test_a_mask_that_may_be_of_either_is_refused():
    model = Siamese().eval()
    loradrop.add_lora(model, rank=3, target_modules=["left.0", "right.0"])
    train_b(model)
    flags = {name: p.requires_grad for name, p in model.named_parameters()}
    ids, mask = torch.randint(0, 30, (2, 3)), torch.tensor([[1, 1, 0], [1, 0, 0]])
    given = {"question": ids, "answer": ids.flip(1), "attention_mask": mask}
    with pytest.raises(
        ValueError,
        match=r"left\.0: .* which positions .* made of question, are padding.*token_mask=\{'left'",
    ):
        loradrop.measure(model, [given])
    assert not any(m._forward_pre_hooks for m in model.modules())
    assert flags == {name: p.requires_grad for name, p in model.named_parameters()}
    told = loradrop.measure(
        model, [given], token_mask={"left": lambda batch: batch["attention_mask"], "right": None}
    )
    agree(told, explicit(model, given, lambda name, x: mask if "left" in name else None))
    # nothing is padding, whatever it is about
    whole = {**given, "attention_mask": torch.ones(2, 3)}
    agree(loradrop.measure(model, [whole]), explicit(model, whole, lambda name, x: None))
