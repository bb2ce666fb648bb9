"""Masks of any origin, multiplied into their weights: a plain model, and plain checkpoints.

Understood: `torch.nn.utils.prune` (attached or made permanent, several methods on one tensor,
biases, inside `nn.MultiheadAttention` and recurrent layers), `torch.nn.utils.parametrize`, and
`torch.ao.pruning` with its sparsifiers and structured pruners. A mask that the model multiplies in
its own `forward` needs no unpacking: it is read from the trace.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize, prune

from excise.trace import skeleton

_ORIG, _MASK = "_orig", "_mask"
_PARAMETRIZED = "parametrizations."


def plain(model: nn.Module) -> nn.Module:
    """A copy of a model with every mask and parametrization multiplied into its tensor.

    The copy has the class, mode and user hooks of the original, and the parameter names that it had
    before it was pruned; its tensors share no memory with the original's. Not touched: the model.

    Raises:
        UnsupportedModelError: an attribute refuses to be copied.
    """
    skeleton.check(model)
    copy = duplicate(model)
    with torch.no_grad():
        for module in copy.modules():
            _unhook_bias(module)
            _unparametrize(module)
            _unprune(module)
    return copy


def duplicate(model: nn.Module, dtype: torch.dtype | None = None) -> nn.Module:
    """A deep copy whose tensors are leaves; ties are kept, gradients are not copied.

    With a dtype, every floating tensor has it, plain attributes included.
    """
    memo: dict[int, Any] = {}
    for _, tensor in skeleton.named_tensors(model):
        if id(tensor) not in memo:
            data = tensor.detach()
            cast = dtype is not None and data.is_floating_point() and data.dtype != dtype
            data = data.to(dtype) if cast else data.clone()
            if isinstance(tensor, nn.Parameter):
                data = type(tensor)(data, requires_grad=tensor.requires_grad)
            memo[id(tensor)] = data
    return skeleton.copied(model, memo)


def borrowed(model: nn.Module) -> nn.Module:
    """A copy in eval mode that shares the parameters; its buffers and attributes are its own."""
    memo: dict[int, Any] = {id(p): p for p in model.parameters()}
    for _, tensor in skeleton.named_tensors(model):
        if id(tensor) not in memo:
            memo[id(tensor)] = tensor.detach().clone()
    return skeleton.copied(model, memo).eval()


def _unprune(module: nn.Module) -> None:
    """Undo the hooks of torch.nn.utils.prune: `weight_orig * weight_mask` becomes `weight`."""
    hooks = module._forward_pre_hooks  # noqa: SLF001 - prune.remove finds its hooks the same way
    for key, hook in list(hooks.items()):
        if isinstance(hook, prune.BasePruningMethod):
            del hooks[key]
            module._forward_pre_hooks_with_kwargs.pop(key, None)  # noqa: SLF001
    for name in [n.removesuffix(_ORIG) for n in module._parameters if n.endswith(_ORIG)]:  # noqa: SLF001
        mask = module._buffers.get(name + _MASK)  # noqa: SLF001
        original = module._parameters.get(name + _ORIG)  # noqa: SLF001
        if mask is None or original is None:
            continue
        del module._buffers[name + _MASK], module._parameters[name + _ORIG]  # noqa: SLF001
        _register(module, name, original.detach() * mask.to(original.dtype), original)
    if isinstance(module, nn.RNNBase):
        module._flat_weights = [getattr(module, n, None) for n in module._flat_weights_names]  # noqa: SLF001


def _register(module: nn.Module, name: str, value: Tensor, like: Tensor) -> None:
    module.__dict__.pop(name, None)
    module.register_parameter(name, nn.Parameter(value, requires_grad=like.requires_grad))


def _unparametrize(module: nn.Module) -> None:
    """Undo torch.nn.utils.parametrize, and with it the sparsifiers of torch.ao.pruning.

    By hand, because torch's own function takes the property off the class, and the class of a copy
    is that of the original.
    """
    if not parametrize.is_parametrized(module):
        return
    lists: dict[str, Any] = dict(module.parametrizations.named_children())  # type: ignore[union-attr]
    values = {name: getattr(module, name).detach().clone() for name in lists}
    module.__class__ = type(module).__bases__[0]
    del module._modules["parametrizations"]  # noqa: SLF001
    for name, value in values.items():
        original = getattr(lists[name], "original", None)
        if original is None:
            original = lists[name].original0
        if isinstance(original, nn.Parameter):
            _register(module, name, value, original)
        else:
            module.register_buffer(name, value)


def _unhook_bias(module: nn.Module) -> None:
    """Undo the bias of a structured pruner: `_bias`, added by a hook, becomes `bias` again."""
    bias = module._parameters.get("_bias")  # noqa: SLF001
    hooks = {k: h for k, h in module._forward_hooks.items() if type(h).__name__ == "BiasHook"}  # noqa: SLF001
    if bias is None or not hooks:
        return
    value = bias.detach().clone()
    for key, hook in hooks.items():
        pruner: Any = hook
        if getattr(pruner, "prune_bias", False):
            value[~pruner.param.mask.to(torch.bool)] = 0
        for table in (module._forward_hooks, module._forward_hooks_with_kwargs):  # noqa: SLF001
            table.pop(key, None)
    del module._parameters["_bias"]  # noqa: SLF001
    module._parameters.pop("bias", None)  # noqa: SLF001
    _register(module, "bias", value, bias)


def merged(state: Mapping[str, Any]) -> dict[str, Any]:
    """A checkpoint with its masks multiplied in, under the names of the unpruned model.

    `weight_orig` and `weight_mask`, or `parametrizations.weight.original` and its masks, become
    `weight`; everything else is passed on. Not touched: the given mapping and its tensors.
    """
    out: dict[str, Any] = {}
    for name, value in state.items():
        prefix, found, rest = name.rpartition(_PARAMETRIZED)
        mask = name.removesuffix(_ORIG) + _MASK
        if name.endswith(_ORIG) and mask in state:
            out[name.removesuffix(_ORIG)] = value * state[mask].to(value.dtype)
        elif name.endswith(_MASK) and name.removesuffix(_MASK) + _ORIG in state:
            continue
        elif found and rest.endswith(".original"):
            tensor = rest.removesuffix(".original")
            out[prefix + tensor] = _masked(state, f"{prefix}{_PARAMETRIZED}{tensor}.", value)
        elif found and rest.endswith(".mask"):
            continue
        elif name.rpartition(".")[2] == "_bias" and name[:-5] + "bias" not in state:
            out[name[:-5] + "bias"] = value
        else:
            out[name] = value
    return out


def unmerged(state: Mapping[str, Any]) -> list[str]:
    """Tensors of a checkpoint that were parametrized by what is not in it.

    The sparsifiers and structured pruners of `torch.ao.pruning` keep their masks out of the state
    dict, so that it holds the weights as they were before they were masked.
    """
    found = []
    for name in state:
        prefix, here, rest = name.rpartition(_PARAMETRIZED)
        tensor = rest.partition(".")[0]
        own = f"{prefix}{_PARAMETRIZED}{tensor}."
        masked = any(n.startswith(own) and n.endswith(".mask") for n in state)
        if here and not masked and prefix + tensor not in found:
            found.append(prefix + tensor)
    return found


def _masked(state: Mapping[str, Any], prefix: str, value: Tensor) -> Tensor:
    for name, mask in state.items():
        if name.startswith(prefix) and name.endswith(".mask"):
            shape = mask.shape + (1,) * (value.ndim - mask.ndim)  # a row mask is one-dimensional
            value = value * mask.to(value.dtype).reshape(shape)
    return value


def subnormals(model: nn.Module) -> int:
    """How many parameters are subnormal: not zero, yet below the smallest normal number."""
    count = 0
    for parameter in model.parameters():
        if parameter.is_floating_point():
            small = parameter.detach().abs() < torch.finfo(parameter.dtype).tiny
            zeros = parameter.numel() - int(torch.count_nonzero(parameter.detach()))
            count += int(torch.count_nonzero(small)) - zeros
    return count


def _subnormal(tensor: Tensor) -> Tensor:
    return (tensor != 0) & (tensor.abs() < torch.finfo(tensor.dtype).tiny)


def flush(model: nn.Module, atol: float, *, subnormal: bool) -> int:
    """Set near-zero parameters of a model of our own to zero, in place; returns how many."""
    count = 0
    with torch.no_grad():
        for parameter in model.parameters():
            if not parameter.is_floating_point():
                continue
            small = (parameter != 0) & (parameter.abs() <= atol)
            if subnormal:
                small |= _subnormal(parameter)
            count += int(small.sum())
            parameter[small] = 0
    return count
