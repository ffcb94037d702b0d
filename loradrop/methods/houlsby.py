"""Bottleneck adapters: y <- y + W_up f(W_down y + b_down) + b_up.

Houlsby et al. 2019, arXiv 1902.00751. y is the output of the last linear module of attention and
of the feed-forward part, before the residual sum. So each layer has two adapters of 2 d b + b + d
parameters. As in the authors' code (google-research/adapter-bert@1a31fc6, modeling.py), W_down and
W_up are drawn from a normal distribution cut off at two standard deviations, and the biases are
zero. So a fresh adapter is close to the identity but not equal to it.

There are two differences. In BERT and its relatives the layer's dropout follows the adapter here
and precedes it in the authors' code. The authors also train the layer norms; here these stay
frozen, and the parameter count is that of the adapters alone.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from loradrop.lora.inject import set_module
from loradrop.lora.sites import as_list, find_sites
from loradrop.methods.base import Method, one_of

# by family: the last linear modules of attention and feed-forward part; the first match is used
DEFAULT_TARGETS = (
    ("output.dense",),  # BERT, RoBERTa, DeBERTa: attention.output.dense and output.dense
    ("o_proj", "down_proj"),  # Llama and its relatives
)
ACTIVATIONS = ("gelu", "relu", "silu", "tanh")


class AdapterLinear(nn.Module):
    """A frozen linear module followed by a bottleneck.

    Shapes: x (..., d_in), y (..., d), z (..., b).

    Args:
        base: The linear module. It gets frozen.
        bottleneck: The width b of the bottleneck, from 1 to d.
        activation: The name of a function in torch.nn.functional.
        init_std: The standard deviation of the initial W_down and W_up.

    Raises:
        ValueError: The bottleneck is wider than the module's output.
    """

    def __init__(self, base: Any, bottleneck: int, activation: str, init_std: float) -> None:
        super().__init__()
        d = base.out_features
        if not 1 <= bottleneck <= d:
            raise ValueError(
                f"bottleneck must lie between 1 and {d} for a module of that width, "
                f"got {bottleneck}"
            )
        self.base: Any = base.requires_grad_(False)
        self.activation = getattr(torch.nn.functional, activation)
        # float32 even if the base is bfloat16, where rounding would lose the updates
        options: dict[str, Any] = {"dtype": torch.float32, "device": base.weight.device}
        self.down = nn.Linear(d, bottleneck, **options)
        self.up = nn.Linear(bottleneck, d, **options)
        for linear in (self.down, self.up):
            nn.init.trunc_normal_(linear.weight, std=init_std, a=-2 * init_std, b=2 * init_std)
            nn.init.zeros_(linear.bias)

    @property
    def weight(self) -> Tensor:
        """The frozen weight. Some models read the dtype or device of a projection's weight."""
        return self.base.weight

    def forward(self, x: Tensor) -> Tensor:
        y = self.base(x)
        z = self.activation(self.down(y.to(self.down.weight.dtype)))
        return y + self.up(z).to(y.dtype)


class Houlsby(Method):
    """Add a bottleneck adapter behind every target module.

    Args:
        name: The method's name in results.
        bottleneck: The width of the bottleneck.
        activation: One of gelu, relu, silu and tanh.
        init_std: The standard deviation of the initial W_down and W_up.
        target_modules: Suffixes of module names. None takes the two modules of the model's family.
    """

    def __init__(
        self,
        name: str,
        bottleneck: int,
        activation: str,
        init_std: float,
        target_modules: Iterable[str] | str | None,
    ) -> None:
        super().__init__(name)
        if bottleneck < 1:
            raise ValueError(f"bottleneck must be at least 1, got {bottleneck}")
        if init_std <= 0:
            raise ValueError(f"init_std must be positive, got {init_std}")
        one_of("activation", activation, ACTIVATIONS)
        self.bottleneck, self.activation, self.init_std = bottleneck, activation, init_std
        self.target_modules = as_list(target_modules)

    def install(self, model: nn.Module) -> None:
        sites = find_sites(model, self.target_modules or default_targets(model))
        for site in sites:
            base = model.get_submodule(site.name)
            set_module(
                model,
                site.name,
                AdapterLinear(base, self.bottleneck, self.activation, self.init_std),
            )


def default_targets(model: nn.Module) -> tuple[str, ...]:
    """Return the names of the last linear modules of attention and of the feed-forward part.

    Raises:
        ValueError: The model belongs to another family. The message lists its linear modules.
    """
    for targets in DEFAULT_TARGETS:
        try:
            find_sites(model, targets)
        except ValueError as error:
            listing = str(error).partition(". ")[2]
        else:
            return targets
    raise ValueError(
        f"no place for adapters is known in {type(model).__name__}; "
        f"name the modules (target_modules). {listing}"
    )
