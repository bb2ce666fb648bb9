"""Fake tensors at a tenth of the price: what an operation makes of given shapes is found once.

torch's `FakeTensorMode` knows every operator, and takes 0.2 ms to 2 ms for each call, most of it
for questions that never arise while a model is only read. Networks repeat themselves: a block is
called again and again with the same shapes. So each outcome is kept under all that it depends on
(the operation, and shape, strides, dtype and device of what goes in), and stamped out from then on.
Whatever is not a plain dense tensor goes to `FakeTensorMode` each time, as do operations whose
outcome depends on data.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch._ops import OpOverload
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from excise.trace.outline import contiguous, outline

_FULL = 20_000  # outcomes kept before all are dropped: about 20 MB
_ATOMS = frozenset([type(None), str, torch.dtype, torch.device, torch.layout, torch.memory_format])
_DEVICE = torch.ops.prim.device.default
_REAL = frozenset(  # not complex, which may be conjugated, nor quantized, which has a scale
    kind
    for kind in vars(torch).values()
    if isinstance(kind, torch.dtype) and not kind.is_complex and "q" not in str(kind)
)
_LIFT = torch.ops.aten.lift_fresh.default
_META = torch.device("meta")


class _Mold(NamedTuple):
    """What it takes to stamp out another fake tensor like one that was seen."""

    body: Tensor
    device: torch.device
    state: dict[str, Any]


class _Outcome(NamedTuple):
    """What an operation returned: `kind` is the container (None: no container)."""

    kind: type | None
    molds: tuple[_Mold | None, ...]


_SELF = _Outcome(None, ())
"""The outcome of an operation that returns its first argument, written to in place."""
_outcomes: dict[tuple[Any, ...], _Outcome] = {}
_pure: dict[OpOverload[..., Any], bool] = {}


class Fakes(FakeTensorMode):
    """A fake tensor mode that remembers outcomes. They hold for every model, so all share them."""

    def __init__(self) -> None:
        super().__init__(allow_non_fake_inputs=True)
        self.states: dict[torch.device, dict[str, Any]] = {}

    def outcome(
        self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """What `func(*args, **kwargs)` returns, from memory where that is possible."""
        if func is _DEVICE and type(args[0]) is FakeTensor:
            return args[0].fake_device  # asked more often than anything is computed
        if func is _LIFT and type(args[0]) is Tensor and args[0].numel() == 1 and _dense(args[0]):
            return self._constant(args[0])
        key = self._key(func, args, kwargs)
        if key is None:
            return func(*args, **kwargs)
        known = _outcomes.get(key)
        if known is None:
            shapes = outline(func, args, kwargs)
            out = func(*args, **kwargs) if shapes is None else self._drawn(shapes, args)
            if self._key(func, args, kwargs) == key:  # an input that changed shape is no outcome
                self._learn(key, args, out)
            return out
        if known is _SELF:
            return args[0]
        made = [None if mold is None else self._stamp(mold) for mold in known.molds]
        return made[0] if known.kind is None else known.kind(made)

    def parameter(self, real: Tensor) -> Tensor:
        """A fake of a tensor of a model, still a parameter if it is one."""
        is_parameter = type(real) is nn.Parameter
        if not (is_parameter or type(real) is Tensor) or not _dense(real) or real.is_meta:
            return self.from_tensor(real, static_shapes=True)
        body = _body(real.shape, real.stride(), real.dtype)
        fake = self._stamp(self._plain(body, real.device), grad=real.requires_grad)
        if is_parameter:
            fake._is_param = True  # noqa: SLF001 - as `isinstance(fake, nn.Parameter)` asks
        return fake

    def _key(
        self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[Any, ...] | None:
        func = getattr(func, "whole", func)
        if isinstance(func, OpOverload):
            pure = _pure.get(func)
            if pure is None:
                pure = _pure[func] = _is_pure(func)
            if not pure:
                return None
        elif torch._C._is_any_autocast_enabled():  # noqa: SLF001 - has no public name
            return None
        key: list[Any] = [func, torch.get_default_dtype()]
        # values that the mode knows matter only to an operation on nothing but such values
        known = not (args and type(args[0]) is FakeTensor and args[0].constant is None)
        if not self._spell(args, key, known):
            return None
        for name, value in kwargs.items():
            key.append(name)
            if not self._spell((value,), key, known):
                return None
        return tuple(key)

    def _spell(self, values: Iterable[Any], key: list[Any], known: bool = True) -> bool:  # noqa: FBT001, FBT002
        """Append all that an outcome depends on; False if it depends on more.

        With `known`, that a tensor's values are known to the mode is more.
        """
        for value in values:
            kind = type(value)
            if kind is FakeTensor:
                if value.fake_mode is not self or not _dense(value):
                    return False
                if known and value.constant is not None:
                    return False
                key += (value.shape, value.stride(), value.dtype, value.fake_device)
            elif kind in _ATOMS:
                key.append(value)
            elif kind is bool or kind is float:  # 1, 1.0 and True are equal, and make other dtypes
                key += (kind, value)
            elif isinstance(value, int):
                key.append(int(value))  # a plain one: comparing traced ints would leave a guard
            elif isinstance(value, (tuple, list)):
                key += (tuple, len(value))
                if not self._spell(value, key, known):
                    return False
            else:
                return False
        return True

    def _learn(self, key: tuple[Any, ...], args: tuple[Any, ...], out: Any) -> None:
        if len(_outcomes) >= _FULL:
            _outcomes.clear()
        if args and out is args[0]:
            _outcomes[key] = _SELF
            return
        kind = type(out) if isinstance(out, (tuple, list)) else None
        if kind not in {None, tuple, list}:
            return
        made = (out,) if kind is None else out
        if not all(t is None or self._spell((t,), []) for t in made):
            return
        if any(type(t) not in {FakeTensor, type(None)} for t in made):
            return
        if any(t is given for t in made for given in args if t is not None):
            return
        _outcomes[key] = _Outcome(kind, tuple(None if t is None else _mold(t) for t in made))

    def _constant(self, real: Tensor) -> Tensor:
        """A number that the code made a tensor of; its value stays known, as the mode has it."""
        body = _body(real.shape, real.stride(), real.dtype)
        made = self._stamp(self._plain(body, real.device))
        made.constant = real
        return made

    def _drawn(self, shapes: list[tuple[int, ...]], args: tuple[Any, ...]) -> Any:
        """Contiguous fake tensors like the first tensor that goes in."""
        like = args[0][0] if isinstance(args[0], (tuple, list)) else args[0]
        bodies = [_body(shape, contiguous(shape), like.dtype) for shape in shapes]
        made = [self._stamp(self._plain(body, like.fake_device)) for body in bodies]
        return made[0] if len(made) == 1 else tuple(made)

    def _plain(self, body: Tensor, device: torch.device) -> _Mold:
        """A mold of a fake tensor of which nothing special is known."""
        state = self.states.get(device)
        if state is None:
            state = self.states[device] = _mold(FakeTensor(self, body, device)).state
        return _Mold(body, device, state)

    def _stamp(self, mold: _Mold, *, grad: bool = False) -> FakeTensor:
        """Another fake tensor: what `FakeTensor.__new__` does, without its checks."""
        made = Tensor._make_subclass(  # noqa: SLF001 - the way subclasses are made
            FakeTensor, mold.body, grad, dispatch_device=True, device_for_backend_keys=mold.device
        )
        vars(made).update(mold.state)
        made.fake_mode = self
        return made


def _body(shape: Sequence[int], strides: Sequence[int], dtype: torch.dtype) -> Tensor:
    with torch._C._DisableTorchDispatch():  # noqa: SLF001 - else a mode would see it
        return torch.empty_strided(shape, strides, dtype=dtype, device=_META)


def _mold(fake: FakeTensor) -> _Mold:
    body = _body(fake.shape, fake.stride(), fake.dtype)
    state = {name: value for name, value in vars(fake).items() if name != "fake_mode"}
    return _Mold(body, fake.fake_device, state)


def _dense(tensor: Tensor) -> bool:
    """Whether shape, strides, dtype and device say all there is to say."""
    return tensor.dtype in _REAL and tensor.layout is torch.strided and not tensor.is_neg()


def _is_pure(func: OpOverload[..., Any]) -> bool:
    """Whether an operation writes to nothing but its first argument.

    Those whose outcome depends on data need no mention: without data they fail, each time.
    """
    writes = [i for i, a in enumerate(func._schema.arguments) if a.is_write]  # noqa: SLF001
    return writes in ([], [0])
