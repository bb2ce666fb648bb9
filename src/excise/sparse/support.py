"""What a layer holds of a sparse weight: values that are not zero, a bit for each that could be."""

from __future__ import annotations

import copy
import math
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from excise.sparse.kernels import (
    Blocks,
    Borrowed,
    Missing,
    available,
    blocks_of,
    rows_of,
)

KINDS = (torch.float32, torch.bfloat16)
"""What the kernels take; bfloat16 is added up in float32."""


class Way(NamedTuple):
    """How a layer runs.

    Attributes:
        kind: "tiles"; "gemv" or "mask" where a linear layer reads a single row, and tiles where it
            reads more; "direct" for a convolution without unfolding; "torch" for the product that
            torch carries, where there are no kernels; "dense".
        tiles: vectors of the output that are held in registers; of each row, if direct.
        block: columns of the weight that are worked on at once; channels, if direct.
        in_place: a 1x1 convolution reads its input where it is.
        rows: of the output that are held in registers, if direct.
    """

    kind: str = "tiles"
    tiles: int = 4
    block: int = 128
    in_place: bool = False
    rows: int = 0


LENT = Way("torch", 0)


class Arrays(NamedTuple):
    """A weight as a kernel reads it."""

    value: Tensor
    column: Tensor
    pointer: Tensor
    sizes: tuple[int, ...]

    @classmethod
    def of(cls, blocks: Blocks) -> Arrays:
        """What an operator takes of blocks."""
        return cls(blocks.value, blocks.column, blocks.pointer, blocks.sizes)


class Sparse(nn.Module):
    """What both layers share: a weight of which only the support is stored.

    Changes of the values are followed where torch counts them. Of writes through `.data`, which it
    does not count, the layer knows after the next pass with gradients, or change of mode.

    Attributes:
        value: the nonzero values in row-major order, a parameter; training moves these and no
            others.
        mask: a bit for every weight, packed, the lowest first.
        bias: as in the dense layer, or None.
        shape: of the dense weight.
        way: how it runs in inference; `excise.sparsify` sets it by timing.
    """

    value: Tensor
    mask: Tensor
    bias: nn.Parameter | None

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.shape = tuple(weight.shape)
        flat = weight.detach().reshape(-1)
        there = flat != 0
        packed = np.packbits(there.cpu().numpy(), bitorder="little")
        self.value = nn.Parameter(flat[there].clone(), requires_grad=weight.requires_grad)
        self.register_buffer("mask", torch.from_numpy(packed).to(weight.device))
        self.bias = None
        if bias is not None:
            self.bias = nn.Parameter(bias.detach().clone(), requires_grad=bias.requires_grad)
        self.way = Way()
        self._ready: dict[Way, tuple[Any, Arrays]] = {}

    def weight(self) -> Tensor:
        """The dense weight; gradients of it reach the values."""
        count = math.prod(self.shape)
        flat = self.value.new_zeros(count).masked_scatter(_spread(self.mask, count), self.value)
        return flat.view(self.shape)

    def _lend(self, made: nn.Linear | nn.Conv2d) -> None:
        """Give a dense layer without tensors a copy of this one's."""
        weight = self.weight().detach()
        made.weight = nn.Parameter(weight, requires_grad=self.value.requires_grad)
        made.bias = copy.deepcopy(self.bias)
        made.train(self.training)

    def native(self, x: Tensor) -> bool:
        """Whether the kernels take this input, and exist.

        It has to be float32 or bfloat16, as the weight is, and on the CPU, without gradients.
        """
        if self.way.kind == "dense" or x.dtype not in KINDS or not x.is_cpu:
            return False
        if self.value.dtype is not x.dtype:
            return False
        wanted = (x, self.value, self.bias)
        grads = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in wanted)
        if torch.compiler.is_compiling():  # which cannot ask the machine
            return bool(self._ready) and not grads
        if grads:  # what follows may change values without torch's count of it, as fused Adam does
            self._ready = {}
        real = type(x) in {Tensor, nn.Parameter}  # a fake one has no numbers to multiply
        return real and not grads and self._suited()

    def _suited(self) -> bool:
        """Whether anything here runs it; a way that was found on another machine gives way."""
        found = available()
        if isinstance(found, Missing):
            return False
        lent = isinstance(found, Borrowed)
        if lent != (self.way.kind == "torch"):
            self.way = LENT if lent else Way()
        return True

    def arrays(self, way: Way) -> Arrays:
        """What the kernels read; made again when the values change."""
        found = self._ready.get(way)
        if found is not None and torch.compiler.is_compiling():
            return found[1]  # a compiler cannot look into numpy; a first run has made them
        key = (_version(self.value), _version(self.mask), self.value.data_ptr())
        if found is None or found[0] != key:
            weight = self.weight().detach().reshape(self.shape[0], -1).contiguous()
            self._ready[way] = found = (key, self.made(weight, way))
        return found[1]

    def made(self, weight: Tensor, way: Way) -> Arrays:
        """The arrays of a way, from the dense weight as a matrix."""
        if way.kind == "torch":
            return Arrays(*rows_of(weight.float()))
        return Arrays.of(blocks_of(weight.float(), way.block))

    def train(self, mode: bool = True) -> Sparse:  # noqa: FBT001, FBT002 - torch's own signature
        """As of any module; a change of mode is taken for a change of the values."""
        if mode != self.training:
            self._ready = {}
        return super().train(mode)

    def _load_from_state_dict(  # noqa: PLR0917 - torch's own signature
        self,
        state_dict: Any,
        prefix: str,
        local_metadata: Any,
        strict: bool,  # noqa: FBT001 - as above
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        """Values of another support are taken too, if there are as many as the mask has bits."""
        value = state_dict.get(f"{prefix}value", self.value)
        mask = state_dict.get(f"{prefix}mask", self.mask)
        if f"{prefix}weight" in state_dict and f"{prefix}value" not in state_dict:
            error_msgs.append(
                f"{prefix}weight is dense, and this layer has the values of a sparse one: load it "
                "into the dense model, and make that sparse again."
            )
            return
        bits = (
            int(_spread(mask, math.prod(self.shape)).sum()) if mask.shape == self.mask.shape else 0
        )
        if mask.shape == self.mask.shape and value.dim() == 1 and bits != value.numel():
            error_msgs.append(
                f"{prefix}value has {value.numel()} numbers, {prefix}mask {bits} bits."
            )
            return
        if value.dim() == 1 and value.shape != self.value.shape:
            self.value.data = self.value.new_zeros(value.shape)
            self.value.grad = None
        super()._load_from_state_dict(
            state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
        )

    def forget(self) -> None:
        """Drop what was made for other ways than the present one."""
        self._ready = {way: made for way, made in self._ready.items() if way == self.way}

    def __deepcopy__(self, memo: dict[int, Any]) -> Sparse:
        """Without the kernels' arrays, which are made again."""
        other = type(self).__new__(type(self))
        memo[id(self)] = other
        kept = {key: value for key, value in self.__dict__.items() if key != "_ready"}
        other.__dict__ = copy.deepcopy(kept, memo)
        other._ready = {}  # noqa: SLF001 - our own
        return other

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_ready": {}}

    @property
    def dtype(self) -> torch.dtype:
        """Of the weight."""
        return self.value.dtype

    @property
    def zeros(self) -> float:
        """Share of the weights that are zero."""
        return 1 - self.value.numel() / max(1, math.prod(self.shape))

    def extra_repr(self) -> str:
        """Shape, zeros and way."""
        return f"{tuple(self.shape)}, {self.zeros:.1%} zeros, {self.way.kind}"


def _spread(mask: Tensor, count: int) -> Tensor:
    """A bit for each of so many weights, as booleans."""
    places = torch.arange(8, dtype=torch.uint8, device=mask.device)
    return (mask[:, None] >> places & 1).bool().view(-1)[:count]


def _version(tensor: Tensor) -> int:
    """How often a tensor was changed in place; one that was made in inference mode never is."""
    return 0 if tensor.is_inference() else tensor._version  # noqa: SLF001 - torch has no other name
