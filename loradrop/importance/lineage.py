"""Which inputs of a batch a tensor of the forward pass has its positions from.

A mask says which positions of one input are padding. A model may have several inputs, each with
positions of its own: the text and the patches of an image, the source and the target of a
translation. `Lineage` follows them through the forward pass, so that a mask is applied to what is
made of its own input alone. Names of modules play no part in it.

The rules, for the output of a function of torch:

- It has the inputs of all tensors that went in.
- Of a product of two activations, and so of attention, it has those of the left factor: the output
  of attention has the positions of its queries, while keys and values are summed over. Where the
  queries are learned, it has QUERIES.
- What takes only the shape of a tensor (`zeros_like`) takes nothing from it.
- Where the first two axes are exchanged, SWAPPED comes in or goes out: some models put positions
  before rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

UNKNOWN = "?"  # made outside of torch's functions, in a custom kernel
QUERIES = "<learned queries>"  # made of a batch, but at positions that no input has
SWAPPED = "<positions before rows>"
CONSTANT: frozenset[str] = frozenset()  # made of the model's own weights alone

_LEFT = {"matmul", "__matmul__", "bmm", "einsum", "scaled_dot_product_attention"}
_LEFT |= {"multi_head_attention_forward", "_native_multi_head_attention"}
_FIRST = {"to", "type_as", "expand_as", "view_as", "reshape_as"}
_SHAPE_ONLY = {"zeros_like", "ones_like", "full_like", "rand_like", "randn_like"}
_SHAPE_ONLY |= {"new_zeros", "new_ones", "new_full", "new_tensor"}
_AXES = {"transpose", "swapaxes", "swapdims", "permute", "t", "movedim", "moveaxis", "__get__"}
# In a tensor's own dictionary: (lineage, names). Nothing is kept alive, and it is found much faster
# than in torch's dictionaries of weak references, which would cost more than the small layers.
_MADE_OF = "_loradrop_made_of"
_UNFILLED = {"empty", "empty_strided"}  # a kernel will fill it, which this mode does not see


class Lineage(TorchFunctionMode):
    """Remember, inside the block, which inputs the tensors of torch's functions are made of.

    Args:
        model: Its parameters and buffers are constants.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.buffers = {id(buffer) for buffer in model.buffers()}
        self.is_paused = False
        # what was written into the model's own tensors, on which no note is left
        self.written: dict[int, frozenset[str]] = {}

    def marked(self, batch: Any, names: Sequence[str] = ()) -> Any:
        """Give each tensor of a batch its name. Tensors in a list have the list's name; those in a
        dictionary also their key's (`query.input_ids`).

        Args:
            batch: A dictionary, whose keys are the names, or a list.
            names: Names for a list's entries; an entry without one is called by its index.

        Returns:
            The same batch with new tensor objects, so that the caller's are left alone.
        """
        if isinstance(batch, Mapping):
            return {key: self._mark(value, str(key)) for key, value in batch.items()}
        return [
            self._mark(value, names[i] if i < len(names) else str(i))
            for i, value in enumerate(batch)
        ]

    def of(self, tensor: Tensor) -> frozenset[str]:
        """Return the names of the inputs that a tensor is made of.

        Returns:
            The names; CONSTANT if it is made of weights alone. They include UNKNOWN if nobody saw
            how the tensor was made.
        """
        if self._weight(tensor):
            return self.written.get(id(tensor), CONSTANT)
        lineage, names = vars(tensor).get(_MADE_OF, (None, CONSTANT))
        return names if lineage is self else frozenset({UNKNOWN})

    def _remember(self, tensor: Tensor, names: frozenset[str]) -> None:
        if self._weight(tensor):
            self.written[id(tensor)] = names
        else:
            vars(tensor)[_MADE_OF] = self, names

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Remember nothing inside the block, so that hooks can compute without leaving traces."""
        self.is_paused = True
        try:
            yield
        finally:
            self.is_paused = False

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        output = func(*args, **(kwargs or {}))
        if self.is_paused:
            return output
        if output is not None and not isinstance(output, Tensor | list | tuple):
            return output  # a number, a shape
        name = getattr(func, "__name__", "")
        if name == "__setitem__":
            self._write_into(args[0], self._union(_tensors(args)))
            return output
        made = list(_tensors((output,)))
        if not made:
            return output
        given = list(_tensors((*args, *(kwargs or {}).values())))
        names = self._made_by(name, given)
        if names and name in _AXES and _swaps(made[0], given[0]):
            names = names ^ {SWAPPED}
        for tensor in made:
            if any(tensor is one for one in given):
                self._write_into(tensor, names)
            else:
                self._remember(tensor, names)
        return output

    def _made_by(self, name: str, given: list[Tensor]) -> frozenset[str]:
        if name in _UNFILLED:
            return frozenset({UNKNOWN})
        if name in _SHAPE_ONLY:
            return CONSTANT
        if name in _FIRST:
            return self._union(given[:1])
        if name in _LEFT:
            return self._product(given)
        return self._union(given)

    def _product(self, factors: list[Tensor]) -> frozenset[str]:
        left = factors[0]
        if (
            not self.of(left)
            and left.dim() > 2
            and not (self._weight(left) or self._weight(left._base))
        ):
            return frozenset({QUERIES}) if self._union(factors) else CONSTANT
        # a weight on the left has no positions
        return next((found for found in map(self.of, factors) if found), CONSTANT)

    def _weight(self, tensor: Tensor | None) -> bool:
        return isinstance(tensor, nn.Parameter) or id(tensor) in self.buffers

    def _union(self, tensors: Iterable[Tensor]) -> frozenset[str]:
        return CONSTANT.union(*(self.of(tensor) for tensor in tensors))

    def _write_into(self, tensor: Tensor, names: frozenset[str]) -> None:
        self._remember(tensor, names)
        if tensor._base is not None:  # what is written into a view is written into the whole
            self._remember(tensor._base, self.of(tensor._base) | (names - {SWAPPED}))

    def _mark(self, value: Any, name: str) -> Any:
        if isinstance(value, Tensor):
            alias = value.detach()
            self._remember(alias, frozenset({name}))
            return alias
        if isinstance(value, Mapping):
            return {key: self._mark(part, f"{name}.{key}") for key, part in value.items()}
        if isinstance(value, list | tuple):
            return [self._mark(part, name) for part in value]
        return value


def _tensors(values: Iterable[Any]) -> Iterator[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from _tensors(value)


def _swaps(output: Tensor, given: Tensor) -> bool:
    """Whether a view of (rows, positions, ...) has its first two axes exchanged.

    Tensors of more than three axes have heads, which change places all the time.
    """
    if given.dim() not in (2, 3):
        return False
    strides = given.stride()
    return output.stride()[:2] == (strides[1], strides[0]) and output.shape[:2] == (
        given.shape[1],
        given.shape[0],
    )
