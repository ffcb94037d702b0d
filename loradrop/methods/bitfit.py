"""BitFit: only biases train.

h = W x + b with W frozen (Ben Zaken et al. 2022, arXiv 2106.10199).
"""

from __future__ import annotations

from torch import nn

from loradrop.heads import head_parameters
from loradrop.methods.base import Method, one_of

ALL, FFN = "all", "ffn"
# the feed-forward modules of BERT, RoBERTa and DeBERTa, and of Llama and its relatives
FFN_PARTS = (".intermediate.dense.", ".output.dense.", ".mlp.")
ATTENTION = ".attention."  # its output projection is called output.dense as well


class BitFit(Method):
    """Train bias terms only.

    Args:
        name: The method's name in results.
        biases: `all` trains every bias of the encoder, also in embeddings and layer norms;
            `ffn` trains those of the feed-forward modules.
    """

    def __init__(self, name: str, biases: str) -> None:
        super().__init__(name)
        one_of("biases", biases, (ALL, FFN))
        self.biases = biases

    def install(self, model: nn.Module) -> None:
        head = {name for name, _ in head_parameters(model)}
        found = [
            parameter
            for name, parameter in model.named_parameters()
            if name.endswith("bias") and name not in head and (self.biases == ALL or _is_ffn(name))
        ]
        if not found:
            raise ValueError(
                f"{type(model).__name__} has no biases ({self.biases}) outside its head, "
                "so BitFit has nothing to train"
            )
        for parameter in found:
            parameter.requires_grad_(True)


def _is_ffn(name: str) -> bool:
    return any(part in name for part in FFN_PARTS) and ATTENTION not in name
