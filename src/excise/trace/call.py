"""What sees a model's Python calls, above the dispatcher: there sizes remember their origin."""

from __future__ import annotations

import contextlib
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from excise.trace.composite import WHOLE, attention_forward
from excise.trace.provenance import SizeOf, TracedInt
from excise.trace.recorder import Recorder
from excise.trace.tape import Tape, Whole

_functorch = torch._C._functorch  # noqa: SLF001 - has no public name
SIZED = frozenset(
    [
        "view",
        "reshape",
        "expand",
        "repeat",
        "layer_norm",
        "group_norm",
        "rms_norm",
        "split",
        "chunk",
        "__getitem__",
        "__setitem__",
        "channel_shuffle",
        "native_channel_shuffle",
        "conv1d",
        "conv2d",
        "conv3d",
        "conv_transpose1d",
        "conv_transpose2d",
        "conv_transpose3d",
        "new_zeros",
        "zeros",
        "unflatten",
        "narrow",
        "split_with_sizes",
        "ones",
        "empty",
        "full",
        "broadcast_to",
        "new_empty",
        "new_ones",
        "new_full",
        "tile",
        "rand",
        "randn",
        "arange",
        "repeat_interleave",
        "tensor_split",
        "pad",
        "histc",
        "one_hot",
        "resize_",
        "randint",
        "view_as_strided",
        "as_strided",
    ]
)
"""Names of the calls whose int arguments are sizes of dimensions; `rules/call.py` reads them."""
_SHAPE = Tensor.shape.__get__  # type: ignore[attr-defined]
_READ = frozenset({"tolist", "numpy", "__array__"})
_TOLD = _READ | {"size", "__len__", "numel"}


class Calls(TorchFunctionMode):
    """Sees Python calls: hands out traced sizes, keeps whole ops whole, notes calls with sizes."""

    def __init__(self, tape: Tape) -> None:
        super().__init__()
        self.tape = tape
        self.recorder = tape if isinstance(tape, Recorder) else None

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        aside = func in self.tape.aside
        if aside or (
            _functorch.peek_interpreter_stack() is not None and any(map(_is_mapped, args))
        ):  # under `vmap`: the parts are seen below it, unwrapped
            with self.tape.pause() if aside else contextlib.nullcontext():
                return func(*args, **kwargs)
        if self.recorder is not None and func == _SHAPE:
            return self.sizes(args[0])
        if self.recorder is not None and name in _TOLD:
            told = self.read if name in _READ else self.size
            return told(name, func, args, kwargs)
        if func in WHOLE:
            out = self.whole(WHOLE[func], func, args, kwargs)
            if self.recorder is not None and name in SIZED and not self.tape.paused:
                self.recorder.call(name, args, kwargs, out)
            return out
        if func is torch.nn.functional.multi_head_attention_forward:
            with self:
                return attention_forward(*args, **kwargs)
        out = func(*args, **kwargs)
        if self.recorder is not None and name in SIZED:
            self.recorder.call(name, args, kwargs, out)
        return out

    def read(self, name: str, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """A tensor's values handed to Python in a way that the dispatcher does not see."""
        assert self.recorder is not None  # noqa: S101 - for the type checker
        self.recorder.call(name, args[:1], {}, None)
        if self.recorder.fakes is None and name == "tolist":
            return self.recorder.replay.decide(name, lambda: func(*args, **kwargs))
        return func(*args, **kwargs)

    def sizes(self, tensor: Tensor) -> torch.Size:
        """`tensor.shape`, each entry with its origin."""
        assert self.recorder is not None  # noqa: S101 - for the type checker
        number = self.recorder.see(tensor, "constant").number
        return torch.Size(
            TracedInt.of(n, SizeOf(number, i)) if n > 1 else n for i, n in enumerate(tensor.size())
        )

    def size(self, name: str, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """`size()`, `size(dim)`, `len()` and `numel()` of a tensor."""
        plain = func(*args, **kwargs)
        if not isinstance(args[0], Tensor):
            return plain
        sizes = self.sizes(args[0])
        if name == "numel":
            product = 1
            for length in sizes:
                product = product * length
            return product
        if name == "__len__":
            return sizes[0]
        if isinstance(plain, int):
            return sizes[args[1] if len(args) > 1 else kwargs["dim"]]
        return sizes

    def whole(self, name: str, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run a composite as a single step of the tape."""
        if self.tape.paused:
            return func(*args, **kwargs)
        return self.tape.step(name, Whole(self.tape, func), args, kwargs)


def _is_mapped(value: Any) -> bool:
    return isinstance(value, Tensor) and _functorch.is_functorch_wrapped_tensor(value)
