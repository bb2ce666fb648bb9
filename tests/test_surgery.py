"""The knife: what is removed is gone, what is kept is the same, a failure changes nothing."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import excise
from excise.errors import ExciseError, OptimizerStateError
from tests.errors.bench import Net, fingerprint

KEPT = {"0.weight": [0, 2, 3, 5, 6, 7], "3.weight": [1, 2, 4, 5, 7, 8, 9, 11]}
GONE = {"0.weight": [1, 4], "3.weight": [0, 3, 6, 10]}
Make = Callable[[Any], torch.optim.Optimizer]


@pytest.fixture
def x() -> Tensor:
    torch.manual_seed(1)
    return torch.randn(4, 3, 8, 8)


@pytest.fixture
def model(x: Tensor) -> Any:
    torch.manual_seed(0)
    made: Any = Net()
    made(x).sum().backward()
    return made


@pytest.fixture
def plan(model: Any, x: Tensor) -> excise.Plan:
    return excise.plan_units(excise.trace(model, x), GONE)


def _by_hand(model: Any, read: Callable[[Tensor], Tensor | None]) -> dict[str, Tensor | None]:
    """The cut, index by index, without the library."""
    a, b = KEPT["0.weight"], KEPT["3.weight"]
    columns = [4 * unit + i for unit in b for i in range(4)]
    slices: dict[str, Any] = {
        "0.weight": lambda t: t[a],
        "0.bias": lambda t: t[a],
        "1.weight": lambda t: t[a],
        "1.bias": lambda t: t[a],
        "1.running_mean": lambda t: t[a],
        "1.running_var": lambda t: t[a],
        "3.weight": lambda t: t[b][:, a],
        "3.bias": lambda t: t[b],
        "7.weight": lambda t: t[:, columns],
    }
    found: dict[str, Tensor | None] = {}
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        value = read(tensor)
        if value is not None and value.ndim and name in slices:  # no axes: a count of steps
            value = slices[name](value)
        found[name] = value
    return found


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    return dict([*model.named_parameters(), *model.named_buffers()])


@pytest.mark.parametrize("inplace", [False, True])
def test_every_tensor_is_the_slice_it_should_be(
    model: Any, plan: excise.Plan, *, inplace: bool
) -> None:
    wanted = _by_hand(model, lambda t: t.detach().clone())
    gradients = _by_hand(model, lambda t: None if t.grad is None else t.grad.clone())
    small = excise.remove(model, plan, inplace=inplace)
    assert (small is model) == inplace
    assert type(small) is Net
    found = _tensors(small)
    assert found.keys() == wanted.keys()
    for name, tensor in found.items():
        value, gradient = wanted[name], gradients[name]
        assert value is not None
        assert torch.equal(tensor, value), name
        assert (tensor.grad is None) == (gradient is None), name
        if gradient is not None and tensor.grad is not None:
            assert torch.equal(tensor.grad, gradient), name


def test_attributes_move_in_the_same_step(model: Any, plan: excise.Plan) -> None:
    small: Any = excise.remove(model, plan)
    assert (small[0].out_channels, small[1].num_features) == (6, 6)
    assert (small[3].in_channels, small[3].out_channels) == (6, 8)
    assert small[7].in_features == 32
    assert repr(small[3]) == repr(nn.Conv2d(6, 8, 3, padding=1))


def test_the_original_is_not_touched(model: Any, plan: excise.Plan, x: Tensor) -> None:
    before = fingerprint(model)
    small = excise.remove(model, plan)
    small(x).sum().backward()
    assert fingerprint(model) == before
    shared = {t.untyped_storage().data_ptr() for t in _tensors(model).values()}
    assert not shared & {t.untyped_storage().data_ptr() for t in _tensors(small).values()}


def test_in_place_the_parameter_objects_stay(model: Any, plan: excise.Plan) -> None:
    before = {name: id(p) for name, p in model.named_parameters()}
    excise.remove(model, plan, inplace=True)
    assert {name: id(p) for name, p in model.named_parameters()} == before
    assert {module for module in model.modules() if module.training}


def test_modes_hooks_and_frozen_weights_are_kept(model: Any, plan: excise.Plan, x: Tensor) -> None:
    calls: list[str] = []
    model[2].register_forward_hook(lambda *_: calls.append("hook"))
    model[1].eval()
    model[0].weight.requires_grad_(False)  # noqa: FBT003 - torch's own name for it
    model[3].weight.role = "my own mark"
    small: Any = excise.remove(model, plan)
    small(x)
    assert calls == ["hook"]
    assert [m.training for m in small] == [m.training for m in model]
    assert not small[0].weight.requires_grad
    assert small[3].weight.requires_grad
    assert small[3].weight.role == "my own mark"
    assert small[3].weight.is_leaf
    assert isinstance(small[3].weight, nn.Parameter)


def test_half_precision_and_memory_format_are_kept(model: Any, plan: excise.Plan) -> None:
    model = model.bfloat16().to(memory_format=torch.channels_last)
    small: Any = excise.remove(model, plan)
    assert {p.dtype for p in small.parameters()} == {torch.bfloat16}
    assert small[3].weight.is_contiguous(memory_format=torch.channels_last)
    assert not small[3].weight.is_contiguous()
    for name, value in _by_hand(model, lambda t: t.detach()).items():
        assert value is not None
        assert torch.equal(_tensors(small)[name], value)


class Marked(nn.Parameter):
    """Somebody's own kind of parameter."""


def test_a_parameter_keeps_its_class(plan: excise.Plan, model: Any) -> None:
    model[3].weight = Marked(model[3].weight.detach())
    assert type(excise.remove(model, plan)[3].weight) is Marked  # type: ignore[index]


class Tied(nn.Module):
    """An embedding that is also the head, and one tensor under two more names."""

    scale: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(11, 8)
        self.up, self.down = nn.Linear(8, 16), nn.Linear(16, 8)
        self.head = nn.Linear(8, 11, bias=False)
        self.head.weight = self.table.weight
        self.register_buffer("scale", torch.rand(16), persistent=False)
        self.same = self.up.bias

    def forward(self, ids: Tensor) -> Tensor:
        """Token ids to logits."""
        y = torch.relu(self.up(self.table(ids))) * self.scale + self.same
        logits: Tensor = self.head(self.down(y))
        return logits


@pytest.mark.parametrize("inplace", [False, True])
def test_ties_stay_ties(*, inplace: bool) -> None:
    torch.manual_seed(0)
    model, ids = Tied(), torch.tensor([[1, 2, 3]])
    original = copy.deepcopy(model)
    graph = excise.trace(model, ids)
    plan = excise.plan_units(graph, {group.name: [1, 3] for group in graph.groups})
    assert {cut.name for cut in plan.tensors} >= {"head.weight", "table.weight", "scale", "up.bias"}
    small: Any = excise.remove(model, plan, inplace=inplace)
    assert small.head.weight is small.table.weight
    assert small.same is small.up.bias
    assert small.scale.shape == (14,)
    assert not small.state_dict().get("scale", torch.ones(0)).numel()
    excise.verify(original, small, plan, ids).check()


OPTIMIZERS: dict[str, Make] = {
    "sgd": lambda ps: torch.optim.SGD(ps, lr=0.05, momentum=0.9, weight_decay=0.01),
    "nesterov": lambda ps: torch.optim.SGD(ps, lr=0.05, momentum=0.9, nesterov=True),
    "adam": lambda ps: torch.optim.Adam(ps, lr=0.01),
    "amsgrad": lambda ps: torch.optim.AdamW(ps, lr=0.01, amsgrad=True),
    "rmsprop": lambda ps: torch.optim.RMSprop(ps, lr=0.01, momentum=0.9, centered=True),
    "adagrad": lambda ps: torch.optim.Adagrad(ps, lr=0.01),
}


def _step(model: Any, optimizer: torch.optim.Optimizer, x: Tensor) -> None:
    optimizer.zero_grad()
    model(x).square().mean().backward()
    optimizer.step()


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("inplace", [False, True])
def test_training_goes_on_as_with_a_new_optimizer_of_sliced_state(
    model: Any, plan: excise.Plan, x: Tensor, name: str, *, inplace: bool
) -> None:
    """Five steps, the cut, five steps: against an optimizer whose state was sliced by hand."""
    optimizer = OPTIMIZERS[name](model.parameters())
    for _ in range(5):
        _step(model, optimizer, x)
    other = excise.remove(model, plan)
    fresh = OPTIMIZERS[name](other.parameters())
    keys = sorted({key for state in optimizer.state.values() for key in state})
    by_key: dict[str, dict[str, Tensor | None]] = {}
    for key in keys:
        state = optimizer.state
        by_key[key] = _by_hand(model, lambda t, k=key, s=state: s[t][k] if t in s else None)  # type: ignore[misc]
    for path, parameter in other.named_parameters():
        fresh.state[parameter] = {key: copy.deepcopy(by_key[key][path]) for key in keys}
    small = excise.remove(model, plan, inplace=inplace, optimizer=optimizer)
    held = [p for group in optimizer.param_groups for p in group["params"]]
    assert [id(p) for p in held] == [id(p) for p in small.parameters()]
    for _ in range(5):
        _step(small, optimizer, x)
        _step(other, fresh, x)
    for (path, mine), theirs in zip(small.named_parameters(), other.parameters(), strict=True):
        assert torch.equal(mine, theirs), path


def test_an_optimizer_of_some_parameters_is_enough(
    model: Any, plan: excise.Plan, x: Tensor
) -> None:
    optimizer = torch.optim.SGD(model[3].parameters(), lr=0.1, momentum=0.9)
    _step(model, optimizer, x)
    small: Any = excise.remove(model, plan, optimizer=optimizer)
    assert [id(p) for p in optimizer.param_groups[0]["params"]] == [
        id(small[3].weight),
        id(small[3].bias),
    ]
    _step(small, optimizer, x)


@pytest.mark.parametrize("inplace", [False, True])
def test_a_refused_optimizer_is_as_before(
    model: Any, plan: excise.Plan, x: Tensor, *, inplace: bool
) -> None:
    optimizer = torch.optim.Adafactor(model.parameters(), lr=0.01)
    _step(model, optimizer, x)
    before, state = fingerprint(model), copy.deepcopy(optimizer.state_dict())
    with pytest.raises(OptimizerStateError):
        excise.remove(model, plan, inplace=inplace, optimizer=optimizer)
    assert fingerprint(model) == before
    now = optimizer.state_dict()
    assert now["param_groups"] == state["param_groups"]
    for number, values in state["state"].items():
        for key, value in values.items():
            assert torch.equal(now["state"][number][key], value)


def test_a_failure_in_the_middle_leaves_the_model_as_it_was(
    model: Any, plan: excise.Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every tensor is made before the first one is changed."""
    count = 0
    real = torch.Tensor.index_select

    def failing(tensor: Tensor, dim: int, index: Tensor) -> Tensor:
        nonlocal count
        count += 1
        if count > 4:
            raise MemoryError
        return real(tensor, dim, index)

    before = fingerprint(model)
    monkeypatch.setattr(torch.Tensor, "index_select", failing)
    with pytest.raises(MemoryError):
        excise.remove(model, plan, inplace=True)
    monkeypatch.undo()
    assert fingerprint(model) == before
    excise.remove(model, plan, inplace=True)
    assert fingerprint(model) != before


def test_two_cuts_are_one_cut(model: Any, plan: excise.Plan, x: Tensor) -> None:
    first = excise.plan_units(excise.trace(model, x), {"0.weight": [4]})
    half = excise.remove(model, first)
    rest = {"0.weight": [1], "3.weight": [0, 3, 6, 10]}
    second = excise.plan_units(excise.trace(half, x), rest)
    twice, once = excise.remove(half, second), excise.remove(model, plan)
    for name, tensor in _tensors(twice).items():
        assert torch.equal(tensor, _tensors(once)[name])


def test_a_spent_plan_is_refused(model: Any, plan: excise.Plan) -> None:
    excise.remove(model, plan, inplace=True)
    with pytest.raises(ExciseError, match="spent"):
        excise.remove(model, plan)


def test_a_model_with_masks_attached_is_cut_too() -> None:
    """Its weights are computed from others before each call, and are no leaves."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))
    torch.nn.utils.prune.l1_unstructured(model[0], "weight", 0.5)
    x = torch.randn(3, 4)
    graph = excise.trace(model, x)
    (group,) = graph.groups
    plan = excise.plan_units(graph, {group.name: [1, 4]})
    small = excise.remove(model, plan)
    assert small[0].weight_orig.shape == small[0].weight_mask.shape == (4, 4)  # type: ignore[index]
    assert excise.verify(model, small, plan, x).passed


def test_a_loss_that_is_still_held_does_not_hold_the_old_shapes(
    model: Any, plan: excise.Plan, x: Tensor
) -> None:
    """Autograd remembers the shape of a leaf while a graph is alive."""
    loss = model(x).square().mean()
    loss.backward()
    dtypes = {p.dtype for p in model.parameters()}
    excise.remove(model, plan, inplace=True)
    model(x).square().mean().backward()
    assert loss.requires_grad
    assert all(p.grad.shape == p.shape for p in model.parameters())
    assert {p.dtype for p in model.parameters()} == dtypes
