"""A copy of a model without its weights: fake tensors, and ints that remember their attribute.

Tracing runs the copy, so nothing the model does to itself while it runs (caches, counters, BN
statistics) reaches the user's object. Copying costs no weight memory.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
from collections import OrderedDict
from collections.abc import Iterator
from types import FunctionType, MethodType, ModuleType
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch._library.custom_ops import CustomOpDef
from torch._ops import OpOverload, OpOverloadPacket
from torch.nn.parameter import UninitializedTensorMixin  # type: ignore[attr-defined]

from excise.errors import UnsupportedModelError
from excise.trace.fake import Fakes
from excise.trace.provenance import Attribute, TracedInt

_OURS = frozenset(vars(nn.Module()))
_SMALLEST = 2  # an attribute of 0 or 1 never repeats the length of an axis that can be cut
_DEEPEST = 4
_COPIERS = (
    "__deepcopy__", "__reduce__", "__reduce_ex__", "__getstate__", "__getnewargs__",
    "__getnewargs_ex__",
)  # fmt: skip
PER_LAYER = "per_layer_config"
"""What transformers calls the numbers of a configuration that differ from layer to layer."""
_COMPILED = "_compiled_call_impl"  # all that `nn.Module.__getstate__` leaves out
_OPERATORS = (OpOverload, OpOverloadPacket, CustomOpDef)
"""Registered operators: a copy of a model uses the same ones, and they refuse to be copied."""
_PLAIN = frozenset({type(None), bool, int, float, str})


def check(model: Any) -> None:
    """Refuse what cannot be read: compiled, scripted and wrapped models, and what is no module.

    Raises:
        UnsupportedModelError: with the way out for each kind.
    """
    kind = type(model).__name__
    if isinstance(model, torch.jit.ScriptModule):
        raise UnsupportedModelError(kind, "trace the eager model before scripting it")
    if not isinstance(model, nn.Module):
        raise UnsupportedModelError(kind, "pass a torch.nn.Module")
    if kind == "OptimizedModule":
        raise UnsupportedModelError(
            "torch.compile model",
            "pass the model itself (`model._orig_mod`), and compile the result",
        )
    if isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
        raise UnsupportedModelError(kind, "pass `model.module`, and wrap the result again")
    for name, module in model.named_modules():
        if isinstance(module, torch.jit.ScriptModule):
            raise UnsupportedModelError(
                f"model with the scripted submodule {name!r}", "use the eager submodule"
            )
    for name, tensor in named_tensors(model):
        if isinstance(tensor, UninitializedTensorMixin):
            raise UnsupportedModelError(
                f"model with the lazy parameter {name!r}", "run the model once to materialise it"
            )


def named_tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Every parameter, buffer and plain tensor attribute by qualified name, ties included."""
    modules = [
        (f"{path}." if path else "", module)
        for path, module in model.named_modules(remove_duplicate=False)
    ]
    for table in ("_parameters", "_buffers"):
        for prefix, module in modules:
            for key, value in vars(module)[table].items():
                if value is not None:
                    yield prefix + key, value
    seen: set[int] = set()
    for prefix, module in modules:
        if id(module) in seen:
            continue
        seen.add(id(module))
        for key, value in vars(module).items():
            if key not in _OURS and isinstance(value, Tensor):
                yield prefix + key, value


def fake(model: nn.Module, mode: Fakes) -> nn.Module:
    """Copy a model onto fake tensors; ties, classes, hooks and attributes stay as they are."""
    memo: dict[int, Any] = {}
    for _, tensor in named_tensors(model):
        if id(tensor) not in memo:
            memo[id(tensor)] = mode.parameter(tensor)
    return copied(model, memo)


def copied(model: nn.Module, memo: dict[int, Any]) -> nn.Module:
    """Deep copy with replacements for the tensors in `memo` (by id); gradients are not copied.

    Raises:
        UnsupportedModelError: an attribute refuses to be copied.
    """
    modules = [
        m for m in model.modules() if id(m) not in memo and _is_ordinary(cast("Any", type(m)))
    ]
    try:
        for module in modules:  # all shells first: modules refer to each other
            memo[id(module)] = type(module).__new__(type(module))
        for module in reversed(modules):
            shell = memo[id(module)]
            state = {k: _copied(v, memo) for k, v in vars(module).items() if k != _COMPILED}
            shell.__setstate__(state)
        return copy.deepcopy(model, memo)
    except Exception as error:
        raise UnsupportedModelError(
            f"model that cannot be copied ({type(error).__name__}: {error})",
            "remove the attribute that `copy.deepcopy(model)` stumbles on",
        ) from error


@functools.cache
def _is_ordinary(kind: Any) -> bool:
    """Whether `copy.deepcopy` would copy the attributes one by one, and do no more."""
    same = all(getattr(kind, name, None) is getattr(nn.Module, name, None) for name in _COPIERS)
    return same and not any("__slots__" in vars(base) for base in kind.__mro__[:-1])


def _copied(value: Any, memo: dict[int, Any]) -> Any:
    """A deep copy that is quick about what modules are full of: flags, empty tables, tensors."""
    kind = type(value)
    if kind in _PLAIN or isinstance(value, _OPERATORS):
        return value
    found = memo.get(id(value))
    if found is not None:
        return found
    if kind is dict:
        table = memo[id(value)] = {}
        for key, item in value.items():
            table[_copied(key, memo)] = _copied(item, memo)
        return table
    if kind is OrderedDict and not value:
        return OrderedDict()
    return copy.deepcopy(value, memo)


def plant(model: nn.Module) -> None:
    """Replace int attributes of every module by `TracedInt`s, in place (on a skeleton only)."""
    seen: set[int] = set()
    for name, module in model.named_modules():
        _plant(vars(module), name, "", seen, 0)


def plant_record(owner: Any, module: str) -> None:
    """Replace the ints below the attributes of any object, in place, as `plant` does of a module.

    Where the object stands in for a module, `module` is that one's name.
    """
    _plant(vars(owner), module, "", set(), 0)


def _plant(owner: dict[str, Any], module: str, prefix: str, seen: set[int], depth: int) -> None:
    for key, value in list(owner.items()):
        if not prefix and key in _OURS:
            continue
        if isinstance(key, str):
            owner[key] = _traced(value, module, prefix + key, seen, depth)


def _traced(value: Any, module: str, path: str, seen: set[int], depth: int) -> Any:
    kind = type(value)
    if kind is int:
        return TracedInt.of(value, Attribute(module, path)) if value >= _SMALLEST else value
    if kind in (tuple, list) and len(value) <= 64:  # noqa: PLR2004 - longer ones are data
        inside = [
            _traced(item, module, f"{path}[{i}]", seen, depth + 1) if type(item) is int else item
            for i, item in enumerate(value)
        ]
        if kind is list:
            value[:] = inside
            return value
        return (
            tuple(inside) if any(a is not b for a, b in zip(inside, value, strict=True)) else value
        )
    if kind is torch.Size:
        return torch.Size(
            _traced(v, module, f"{path}[{i}]", seen, depth) for i, v in enumerate(value)
        )
    if depth < _DEEPEST and _is_record(value) and id(value) not in seen:
        seen.add(id(value))
        _plant(vars(value), module, path + ".", seen, depth + 1)
    return value


def _is_record(value: Any) -> bool:
    """A config object: plain attributes, and neither module, tensor, function nor torch's own."""
    if isinstance(value, (nn.Module, Tensor, FunctionType, MethodType, ModuleType, type)):
        return False
    if dataclasses.is_dataclass(value) and getattr(value, "__dataclass_params__").frozen:  # noqa: B009
        return False
    return hasattr(value, "__dict__") and not type(value).__module__.startswith(
        ("torch.", "builtins")
    )


def of_layer(path: str, layer: int) -> str:
    """The path of what a number of a configuration is in one layer."""
    owner, _, key = path.rpartition(".")
    return f"{owner}.{PER_LAYER}[{layer}].{key}"


def layer_count(config: Any) -> int:
    """For how many layers a configuration can have numbers of their own; 0 if for none."""
    try:
        return len(getattr(config, PER_LAYER))
    except (AttributeError, TypeError):  # the view counts `num_hidden_layers`, which it may lack
        return 0


def read(owner: Any, path: str) -> Any:
    """Read an attribute path such as `config.hidden_size` or `kernel_size[0]`."""
    value = owner
    for step in _steps(path):
        value = value[step] if isinstance(step, int) else getattr(value, step)
    return value


def write(owner: Any, path: str, new: int) -> None:
    """Write an attribute path; tuples on the way are rebuilt.

    What transformers' configurations say of a layer (`config.per_layer_config[3].num_heads`) is a
    view, and is set as a whole.
    """
    *front, last = _steps(path)
    if PER_LAYER in front:
        place = front.index(PER_LAYER)
        holder = owner
        for step in front[:place]:
            holder = getattr(holder, str(step))
        layers = {int(n): dict(v) for n, v in (holder.to_dict().get(PER_LAYER) or {}).items()}
        layers.setdefault(int(front[place + 1]), {})[str(last)] = new
        setattr(holder, PER_LAYER, layers)
        return
    chain = [owner]
    for step in front:
        chain.append(chain[-1][step] if isinstance(step, int) else getattr(chain[-1], step))
    value: Any = new
    for holder, step in zip(reversed(chain), reversed([*front, last]), strict=True):
        if isinstance(step, str):
            if hasattr(holder, "__dict__") and step in vars(holder):
                vars(holder)[step] = value
            else:
                setattr(holder, step, value)
            return
        items = list(holder)
        items[step] = value
        if isinstance(holder, list):
            holder[:] = items
            return
        value = type(holder)(items)


def _steps(path: str) -> list[str | int]:
    steps: list[str | int] = []
    for word in path.split("."):
        name, *indices = word.replace("]", "").split("[")
        steps.append(name)
        steps += [int(index) for index in indices]
    return steps
