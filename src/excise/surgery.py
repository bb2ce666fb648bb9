"""Surgery: the only module that builds a changed model."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from excise.errors import NonFiniteWeightError, OptimizerStateError, StalePlanError
from excise.layers import Bypass, stand_ins
from excise.plan import Plan, checked
from excise.trace import skeleton

Optimizers: TypeAlias = "Optimizer | Sequence[Optimizer] | None"


def remove(
    model: nn.Module, plan: Plan, *, inplace: bool = False, optimizer: Optimizers = None
) -> nn.Module:
    """Return the model without what the plan removes: smaller, dense, same class.

    Everything is checked, and every new tensor is made, before anything changes; a failure leaves
    model and optimizer as they were. Kept: tied weights, buffers, `.grad`, `requires_grad`, dtype,
    device, memory format, mode, hooks. Every attribute that repeats a length changes with it.
    Modules of residual branches that go are replaced by `nn.Identity` or `excise.layers.Bypass`.

    Args:
        model: the model that the plan was made for.
        plan: from `excise.plan`. Rehearsed there on fake tensors.
        inplace: change `model` itself; its `Parameter` objects stay the same ones. Otherwise a copy
            is made that never holds a full-size weight.
        optimizer: an optimizer of `model`, or several; their state (momenta, moments) is sliced
            along, and their parameter groups point to the returned model's parameters. Parameters
            of branches that go leave them.

    Returns:
        The smaller model (`model` itself with `inplace=True`).

    Raises:
        UnsupportedModelError: compiled, scripted or wrapped models.
        PlanFormatError: no plan, or one that contradicts itself.
        StalePlanError: the plan is for another model, or is spent.
        NonFiniteWeightError: a weight to be cut is NaN or infinite.
        OptimizerStateError: the optimizer is of another model, or its state has no axes to slice.
    """
    skeleton.check(model)
    tensors = dict(skeleton.named_tensors(model))
    check(model, checked(plan), tensors)
    check_finite(tensors)
    instead = stand_ins(model, plan.bypassed)
    dropped, tensors = _left(model, tensors, instead)
    keep = _indices(plan, tensors)
    states = [(each, _states(each, model, keep)) for each in several(optimizer)]
    made: dict[int, Tensor] = {}
    gradients: dict[int, Tensor | None] = {}
    for tensor in tensors.values():
        indices = keep.get(id(tensor))
        if id(tensor) in made or (indices is None and inplace):
            continue
        made[id(tensor)] = sliced(tensor.detach(), indices)
        grad = tensor.grad if tensor.is_leaf else None  # a masked weight is computed: no leaf
        gradients[id(tensor)] = None if grad is None else sliced(grad, indices)
    old = list({id(t): t for t in tensors.values()}.values())
    if inplace:
        _replace(model, instead)
        result, new = model, _swap(old, made, gradients)
    else:
        new = {id(t): _like(t, made[id(t)], gradients[id(t)]) for t in old}
        result = skeleton.copied(model, {**dropped, **new, **instead})
    _rewrite(result, plan)
    for each, state in states:
        _follow(each, new, state, dropped.keys())
    return result


def shortened(model: nn.Module, plan: Plan) -> nn.Module:
    """A model without the plan's branches, all its units there; it shares the tensors.

    Raises:
        UnsupportedModelError, StalePlanError: as in `remove`.
    """
    skeleton.check(model)
    tensors = dict(skeleton.named_tensors(model))
    check(model, plan, tensors)
    instead = stand_ins(model, plan.bypassed)
    return skeleton.copied(model, {**{id(t): t for t in tensors.values()}, **instead})


def _left(
    model: nn.Module, tensors: Mapping[str, Tensor], instead: Mapping[int, nn.Module]
) -> tuple[dict[int, Tensor], dict[str, Tensor]]:
    """Tensors that go with the modules that are replaced, by id; and the others, by name."""
    if not instead:
        return {}, dict(tensors)
    every = {id(t): t for t in tensors.values()}
    left = dict(skeleton.named_tensors(skeleton.copied(model, {**every, **instead})))
    stay = {id(t) for t in left.values()}
    return {key: t for key, t in every.items() if key not in stay}, left


def _replace(model: nn.Module, instead: Mapping[int, nn.Module]) -> None:
    for module in list(model.modules()):
        children = vars(module)["_modules"]
        for name, child in list(children.items()):
            children[name] = instead.get(id(child), child)


def follow(optimizer: Optimizers, before: nn.Module, after: nn.Module, plan: Plan) -> None:
    """Let an optimizer of one model go on with the smaller model that was made of it.

    For a model that came out of `excise.prune`; `remove` does it by itself. Changed, in place: the
    optimizer's state, every tensor of a parameter's shape sliced as the parameter was, and the
    parameters that its groups hold. Numbers, such as counts of steps, and settings are kept, and so
    is the optimizer itself, for whoever holds it, as a scheduler of learning rates does. Not
    changed: either model. A parameter that only the smaller model has is not added.

    Args:
        optimizer: an optimizer of `before`, or several.
        before: the model before the cut.
        after: the model after it.
        plan: the cut between them.

    Raises:
        UnsupportedModelError: compiled, scripted or wrapped models.
        PlanFormatError: no plan, or one that contradicts itself.
        StalePlanError: the plan is not that of `before`, or does not lead to `after`.
        OptimizerStateError: the optimizer is not that of `before`, or its state has no axes to
            slice.
    """
    skeleton.check(before)
    skeleton.check(after)
    tensors = dict(skeleton.named_tensors(before))
    check(before, checked(plan), tensors)
    dropped, tensors = _left(before, tensors, stand_ins(before, plan.bypassed))
    found = dict(skeleton.named_tensors(after))
    shapes = {cut.name: plan.shape_after(cut) for cut in plan.tensors}
    for name, tensor in tensors.items():
        wanted = shapes.get(name, tuple(tensor.shape))
        present = tuple(found[name].shape) if name in found else "not in it"
        if present != wanted:
            raise StalePlanError(
                f"{name} of the smaller model", f"to become {wanted}", f"{present}"
            )
    keep = _indices(plan, tensors)
    states = [(each, _states(each, before, keep)) for each in several(optimizer)]
    new = {id(tensor): found[name] for name, tensor in tensors.items()}
    for each, state in states:
        _follow(each, new, state, dropped.keys())


def several(optimizer: Any) -> tuple[Any, ...]:
    """One optimizer, several or none, as a tuple."""
    if optimizer is None:
        return ()
    return tuple(optimizer) if isinstance(optimizer, (list, tuple)) else (optimizer,)


def reshape(model: nn.Module, plan: Plan) -> nn.Module:
    """A copy with the plan's shapes, for weights that are loaded next; values need not be finite.

    Raises:
        UnsupportedModelError, StalePlanError: as in `remove`.
    """
    skeleton.check(model)
    tensors = dict(skeleton.named_tensors(model))
    check(model, plan, tensors)
    instead = stand_ins(model, plan.bypassed)
    dropped, tensors = _left(model, tensors, instead)
    keep = _indices(plan, tensors)
    new = {id(t): _like(t, sliced(t.detach(), keep.get(id(t))), None) for t in tensors.values()}
    result = skeleton.copied(model, {**dropped, **new, **instead})
    _rewrite(result, plan)
    return result


def _indices(plan: Plan, tensors: Mapping[str, Tensor]) -> dict[int, list[Tensor]]:
    """Tensor id -> the indices that stay of each dimension."""
    return {
        id(tensors[cut.name]): [torch.from_numpy(plan.indices(dim)) for dim in cut.dims]
        for cut in plan.tensors
    }


def _rewrite(model: nn.Module, plan: Plan) -> None:
    for cut in plan.attributes:
        skeleton.write(model.get_submodule(cut.module), cut.attribute, cut.after)
    for name in plan.biases:
        _add_bias(model.get_submodule(name))
    for module in model.modules():
        if isinstance(module, nn.RNNBase):
            module.flatten_parameters()


def _add_bias(layer: nn.Module) -> None:
    """Give a linear layer or convolution a bias of zeros."""
    weight = layer.get_parameter("weight")
    transposed = bool(getattr(layer, "transposed", False))
    outputs = weight.shape[1] * int(getattr(layer, "groups", 1)) if transposed else weight.shape[0]
    layer.register_parameter(
        "bias", nn.Parameter(weight.new_zeros(outputs), requires_grad=weight.requires_grad)
    )


def check(model: nn.Module, plan: Plan, tensors: Mapping[str, Tensor]) -> None:
    """Refuse a plan that does not fit, before anything is touched.

    Raises:
        StalePlanError: a tensor or attribute is not what the plan was made for.
    """
    _check_shapes(plan, tensors)
    for edit in plan.attributes:
        try:
            present = skeleton.read(model.get_submodule(edit.module), edit.attribute)
        except (AttributeError, IndexError, KeyError):
            present = None
        if present != edit.before:
            raise StalePlanError(f"{edit.module}.{edit.attribute}", str(edit.before), str(present))
    modules = dict(model.named_modules(remove_duplicate=False))
    for name in (each.module for each in plan.bypassed):
        if name not in modules:
            raise StalePlanError(name, "a module", "not in this model")
        if isinstance(modules[name], Bypass):
            raise StalePlanError(name, "a branch", "removed already")
    for name in plan.biases:
        if getattr(modules.get(name), "weight", None) is None:
            raise StalePlanError(f"{name}.weight", "a tensor", "not in this model")
        if f"{name}.bias" in tensors:
            raise StalePlanError(f"{name}.bias", "not in the model", "there already")


def check_finite(tensors: Mapping[str, Tensor]) -> None:
    """Refuse parameters that hold NaN or infinity.

    Raises:
        NonFiniteWeightError: naming the first one.
    """
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and isinstance(tensor, nn.Parameter) and not tensor.is_meta:
            if bool(torch.isfinite(tensor.detach().sum())):  # quick; a sum that overflows is not
                continue
            bad = int((~torch.isfinite(tensor.detach())).sum())
            if bad:
                raise NonFiniteWeightError(name, bad)


def _check_shapes(plan: Plan, tensors: Mapping[str, Tensor]) -> None:
    for name, shape in plan.shapes.items():
        found = tensors.get(name)
        if found is None:
            raise StalePlanError(name, f"a tensor of shape {shape}", "not in this model")
        if tuple(found.shape) != shape:
            raise StalePlanError(name, f"of shape {shape}", f"of shape {tuple(found.shape)}")
    for name in tensors if plan.shapes else ():
        if name not in plan.shapes:
            raise StalePlanError(name, "not in the model", f"{tuple(tensors[name].shape)}")
    for cut in plan.tensors:
        if cut.name not in tensors or tuple(tensors[cut.name].shape) != cut.shape:
            raise StalePlanError(cut.name, f"of shape {cut.shape}", "different or missing")


def sliced(tensor: Tensor, indices: list[Tensor] | None) -> Tensor:
    """A dense copy of a tensor with the given indices of each dimension, memory format kept."""
    if indices is None:
        return tensor.clone(memory_format=torch.preserve_format)
    out = tensor
    for dim, index in enumerate(indices):
        if len(index) != out.shape[dim]:
            out = out.index_select(dim, index.to(out.device))
    last = torch.channels_last
    if out.ndim == 4 and tensor.is_contiguous(memory_format=last) and not tensor.is_contiguous():  # noqa: PLR2004
        return out.contiguous(memory_format=last)
    return out.contiguous() if out is not tensor else out.clone()


def _like(old: Tensor, data: Tensor, gradient: Tensor | None) -> Tensor:
    """Wrap new data as what the old tensor was."""
    if isinstance(old, nn.Parameter):
        new: Tensor = type(old)(data, requires_grad=old.requires_grad)
        new.__dict__.update({k: v for k, v in vars(old).items() if k not in vars(new)})
    else:
        new = data.requires_grad_(old.requires_grad) if data.is_floating_point() else data
    new.grad = gradient
    return new


def _swap(
    old: list[Tensor], made: Mapping[int, Tensor], gradients: Mapping[int, Tensor | None]
) -> dict[int, Tensor]:
    """Give tensor objects their new data; the objects, and so ties and optimizers, stay.

    While anyone holds the loss of the last step, autograd keeps for each leaf a node that remembers
    its shape, and would refuse the next gradient. It lets go of it when the dtype changes.
    """
    for tensor in old:
        if id(tensor) in made:
            tensor.grad = None
            if tensor.requires_grad and tensor.is_leaf:
                other = torch.float64 if tensor.dtype != torch.float64 else torch.float32
                tensor.data = made[id(tensor)].new_empty(0, dtype=other)
            tensor.data = made[id(tensor)]
            tensor.grad = gradients[id(tensor)]
    return {id(t): t for t in old}


def check_optimizer(optimizer: Any, model: nn.Module) -> dict[int, str]:
    """The names of the model's parameters by id, if the optimizer holds any of them.

    Raises:
        OptimizerStateError: it is none, or holds none.
    """
    if not isinstance(optimizer, Optimizer):
        problem = f"a {type(optimizer).__name__} is no torch.optim.Optimizer"
        raise OptimizerStateError("every parameter", problem)
    names = {id(p): n for n, p in model.named_parameters()}
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    if not held & set(names):
        raise OptimizerStateError("every parameter", "the optimizer holds none of this model")
    return names


def _states(
    optimizer: Any, model: nn.Module, keep: Mapping[int, list[Tensor]]
) -> dict[int, dict[str, Any]]:
    """The optimizer's state with every tensor that has its parameter's shape sliced like it."""
    names = check_optimizer(optimizer, model)
    new: dict[int, dict[str, Any]] = {}
    for parameter, state in optimizer.state.items():
        name = names.get(id(parameter))
        if name is not None and any(isinstance(value, (list, dict)) for value in state.values()):
            raise OptimizerStateError(name, "it mixes parameters, as that of LBFGS does")
        indices = keep.get(id(parameter))
        if indices is None:
            continue
        fresh: dict[str, Any] = {}
        for key, value in state.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape and value.ndim:
                fresh[key] = sliced(value, indices)
            elif isinstance(value, Tensor) and value.numel() > 1:
                raise OptimizerStateError(
                    names.get(id(parameter), "a parameter"),
                    f"state {key!r} has shape {tuple(value.shape)}, not the parameter's",
                )
            else:
                fresh[key] = value
        new[id(parameter)] = fresh
    return new


def _follow(
    optimizer: Optimizer,
    new: Mapping[int, Tensor],
    states: Mapping[int, dict[str, Any]],
    dropped: Collection[int],
) -> None:
    """Point parameter groups and state to the new parameters, and let go of dropped ones."""
    before = dict(optimizer.state)
    optimizer.state.clear()
    for parameter, state in before.items():
        if id(parameter) not in dropped:
            optimizer.state[new.get(id(parameter), parameter)] = states.get(id(parameter), state)
    for group in optimizer.param_groups:
        group["params"] = [new.get(id(p), p) for p in group["params"] if id(p) not in dropped]
