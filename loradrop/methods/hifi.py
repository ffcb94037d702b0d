"""HiFi: only attention heads of high information and strong correlation are fine-tuned.

Gui and Xiao 2023, arXiv 2305.04573. The heads of a layer form a graph: a head's information
richness is its starting weight, the correlation of two heads the weight of their edge, and PageRank
says which heads matter. The query, key and value projections of the k most important heads of each
layer train.

Of the paper only the abstract and the introduction could be read. How richness and correlation are
computed, the damping, k, and which weights of a head train are guesses (experiments/methods.md).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from loradrop.importance.moments import evaluating
from loradrop.lora.inject import set_module
from loradrop.lora.sites import Site, find_sites
from loradrop.methods.base import Method, Probe

# by family: query, key and value, and the module that takes the heads' outputs side by side
FAMILIES = (
    ("query", "key", "value", "attention.output.dense"),  # BERT, RoBERTa
    ("query_proj", "key_proj", "value_proj", "attention.output.dense"),  # DeBERTa
    ("q_proj", "k_proj", "v_proj", "o_proj"),  # Llama and its relatives
    ("attn.q", "attn.k", "attn.v", "attn.o"),  # MPNet
)


class HeadLinear(nn.Module):
    """A frozen linear module with a trained change, h = (W + D) x + b + c; D and c start at zero.

    Only the rows of chosen heads of D (d_out, d_in) and c (d_out) change.
    """

    def __init__(self, base: Any) -> None:
        super().__init__()
        self.base: Any = base.requires_grad_(False)
        # float32 even if the base is bfloat16, where rounding would lose the updates
        options: dict[str, Any] = {"dtype": torch.float32, "device": base.weight.device}
        self.delta = nn.Parameter(torch.zeros(base.out_features, base.in_features, **options))
        self.delta_bias = nn.Parameter(torch.zeros(base.out_features, **options))

    @property
    def weight(self) -> Tensor:
        """The frozen weight. Some models read the dtype or device of a projection's weight."""
        return self.base.weight

    def forward(self, x: Tensor) -> Tensor:
        change = nn.functional.linear(x.to(self.delta.dtype), self.delta, self.delta_bias)
        return self.base(x) + change.to(x.dtype)


class HiFi(Method):
    """Fine-tune the most important attention heads of every layer.

    Args:
        name: The method's name in results.
        heads: k, the number of heads of each layer that train.
        sample_ratio: The share of the training set that heads are compared on.
        energy: A head's richness is the number of singular values of its output that hold this
            share of their squares, in (0, 1).
        damping: PageRank's weight of the graph against the starting weights, in [0, 1).
    """

    def __init__(
        self, name: str, heads: int, sample_ratio: float, energy: float, damping: float
    ) -> None:
        super().__init__(name)
        if heads < 1:
            raise ValueError(f"heads must be at least 1, got {heads}")
        if not 0 < sample_ratio <= 1:
            raise ValueError(f"sample_ratio must lie in (0, 1], got {sample_ratio}")
        if not 0 < energy < 1:
            raise ValueError(f"energy must lie in (0, 1), got {energy}")
        if not 0 <= damping < 1:
            raise ValueError(f"damping must lie in [0, 1), got {damping}")
        self.heads, self.sample_ratio = heads, sample_ratio
        self.energy, self.damping = energy, damping
        self.in_layer = 0  # heads of a layer
        self.outputs: list[Site] = []  # modules that take the heads' outputs
        self.changed: list[Site] = []
        self.chosen: dict[int, list[int]] = {}  # by layer
        self.inactive = 0

    def install(self, model: nn.Module) -> None:
        config: Any = model.config
        self.in_layer = config.num_attention_heads
        if getattr(config, "num_key_value_heads", self.in_layer) != self.in_layer:
            raise ValueError(f"{self.name} needs a key and value head for each query head")
        if self.heads > self.in_layer:
            raise ValueError(f"heads must not exceed the {self.in_layer} of a layer")
        *projections, output = family_of(model)
        self.outputs = find_sites(model, [output])
        self.changed = find_sites(model, projections)
        for site in self.changed:
            set_module(model, site.name, HeadLinear(model.get_submodule(site.name)))
        sizes = [p.numel() for p in self._changes(model).values()]
        self.inactive = sum(size - size // self.in_layer * self.heads for size in sizes)

    def prepare(self, model: nn.Module, probe: Probe) -> None:
        outputs = {site.layer: model.get_submodule(site.name) for site in self.outputs}
        found = {layer: HeadGraph(self.in_layer, self.energy) for layer in outputs}
        batch: dict[str, Any] = {}
        hooks = [
            module.register_forward_pre_hook(
                lambda _, args, graph=found[layer]: graph.add(args[0], batch["attention_mask"])
            )
            for layer, module in outputs.items()
        ]
        with torch.no_grad(), evaluating(model), probe.autocast():
            for given in probe.batches(probe.sample(self.sample_ratio)):
                batch = dict(given)
                model(**batch)
        for hook in hooks:
            hook.remove()
        self._choose(
            model,
            {
                layer: graph.most_important(self.heads, self.damping)
                for layer, graph in found.items()
            },
        )

    def _choose(self, model: nn.Module, chosen: Mapping[int, list[int]]) -> None:
        """Let only these heads' rows train: others' gradients are masked, and they stay zero."""
        self.chosen = dict(chosen)
        for site in self.changed:
            module: Any = model.get_submodule(site.name)
            for parameter in (module.delta, module.delta_bias):
                mask = torch.zeros(self.in_layer, device=parameter.device)
                mask[self.chosen[site.layer]] = 1
                rows = mask.repeat_interleave(len(parameter) // self.in_layer)
                rows = rows.view(-1, *[1] * (parameter.dim() - 1))
                parameter.register_hook(
                    lambda gradient, rows=rows: gradient * rows.to(gradient.device)
                )

    def _changes(self, model: nn.Module) -> dict[str, nn.Parameter]:
        return {
            f"{site.name}.{part}": getattr(model.get_submodule(site.name), part)
            for site in self.changed
            for part in ("delta", "delta_bias")
        }

    def result_fields(self) -> dict[str, Any]:
        heads = "; ".join(
            f"{layer}: {' '.join(map(str, heads))}" for layer, heads in self.chosen.items()
        )
        return {"inactive": self.inactive, "notes": [f"trained heads by layer: {heads}"]}

    def state_dict(self) -> dict[str, Any]:
        return {"chosen": self.chosen}

    def load_state_dict(self, model: nn.Module, state: Mapping[str, Any]) -> None:
        if "chosen" in state:  # absent for a finished run: other heads' changes are saved as zeros
            self._choose(model, state["chosen"])


class HeadGraph:
    """The heads of one layer: their information richness and their correlations.

    Args:
        heads: The number of heads.
        energy: As in HiFi.
    """

    def __init__(self, heads: int, energy: float) -> None:
        self.heads, self.energy, self.texts = heads, energy, 0
        self.richness = torch.zeros(heads, dtype=torch.float64)
        self.correlation = torch.zeros(heads, heads, dtype=torch.float64)

    def add(self, outputs: Tensor, mask: Tensor) -> None:
        """Take in the outputs (texts, tokens, heads * d_head) of a batch, without padding."""
        for text, kept in zip(outputs, mask.bool(), strict=True):
            tokens = text[kept.to(text.device)].double()
            by_head = tokens.unflatten(-1, (self.heads, -1)).transpose(0, 1)  # (heads, tokens, d)
            squares = torch.linalg.svdvals(by_head) ** 2  # descending
            shares = squares.cumsum(-1) / squares.sum(-1, keepdim=True)
            self.richness += ((shares < self.energy).sum(-1) + 1).cpu()
            self.correlation += torch.corrcoef(by_head.flatten(1)).abs().nan_to_num(0).cpu()
            self.texts += 1

    def importance(self, damping: float) -> Tensor:
        """Return PageRank over the heads.

            p = d M p + (1 - d) p0,  M_ij = c_ij / sum_i c_ij,  p0 the richness divided by its sum

        c_ij is the mean absolute correlation of two heads' outputs; a head has no edge to itself.
        """
        start = self.richness / self.richness.sum()
        edges = self.correlation.clone().fill_diagonal_(0)
        sums = edges.sum(0, keepdim=True)
        # a head without any edge passes its weight to all alike
        moves = torch.where(sums > 0, edges / sums, torch.full_like(edges, 1 / self.heads))
        identity = torch.eye(self.heads, dtype=torch.float64)
        return torch.linalg.solve(identity - damping * moves, (1 - damping) * start)

    def most_important(self, number: int, damping: float) -> list[int]:
        """Return the heads of the highest importance, ascending; of ties, the lower ones."""
        order = self.importance(damping).argsort(descending=True, stable=True)
        return sorted(order[:number].tolist())


def family_of(model: nn.Module) -> tuple[str, ...]:
    """Return the names of query, key, value and of the module behind them.

    Raises:
        ValueError: The model belongs to another family.
    """
    for names in FAMILIES:
        try:
            for name in names:
                find_sites(model, [name])
        except ValueError:
            continue
        return names
    raise ValueError(f"the attention heads of {type(model).__name__} are not known to HiFi")
