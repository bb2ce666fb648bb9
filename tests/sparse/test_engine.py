"""The backend of `torch.compile`: what it computes is what the model computes, whatever happens."""

from __future__ import annotations

import copy
import importlib
import re
import sys
import threading
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import prune
from torch.utils._pytree import tree_leaves

from excise.sparse import SparseConv2d, SparseLinear, carry
from excise.sparse.engine import backend, compiled, excise, program
from excise.sparse.engine.choice import made, ways
from excise.sparse.kernels import Library, Missing, library
from tests.sparse.network import NETWORKS, Mobile, Residual, zeroed

pytestmark = pytest.mark.skipif(
    not isinstance(library(), Library), reason="the kernels were not compiled here"
)


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """No plan of another test, no clock: the last way that applies, and the plan always wins."""
    torch.manual_seed(0)
    torch._dynamo.reset()
    plans: list[Any] = []

    def last(layer: Any, source: Any, place: Any) -> Any:
        applying = [w for w in ways(layer, source, place) if made(layer, w, source, place)]
        plans.append((layer.kind, layer.activation, layer.residual is not None, applying[-1].kind))
        return applying[-1]

    def pays(pair: Any, source: Any, _: Any, place: Any) -> Any:
        plans.append((pair.kind, pair.activation, pair.residual is not None, "pair"))
        return list(ways(pair, source, place))[-1]

    monkeypatch.setattr(program, "chosen", last)
    monkeypatch.setattr(program, "paying", pays)
    monkeypatch.setattr(backend.Faster, "_wins", lambda *_: True)
    yield plans
    torch._dynamo.reset()


def compile_(model: nn.Module) -> Any:
    return torch.compile(model, backend=excise)


def agree(found: Any, wanted: Any) -> None:
    """To rounding, each output in units of its largest element."""
    for one, two in zip(tree_leaves(found), tree_leaves(wanted), strict=True):
        assert one.shape == two.shape
        assert one.dtype == two.dtype
        assert float((one - two).abs().max()) <= 1e-5 * float(two.abs().max())


@pytest.mark.parametrize("pick", [0, 1, -3, -1])
@pytest.mark.parametrize("name", NETWORKS)
def test_it_computes_what_the_model_computes(
    name: str, pick: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For the first way of each layer (dense, none in pairs) up to the last; calls reuse memory."""

    def picked(layer: Any, source: Any, place: Any) -> Any:
        applying = [w for w in ways(layer, source, place) if made(layer, w, source, place)]
        return applying[max(-len(applying), min(pick, len(applying) - 1))]

    monkeypatch.setattr(program, "chosen", picked)
    if not pick:
        monkeypatch.setattr(program, "paying", lambda *_: None)
    build, give = NETWORKS[name]
    model = zeroed(build())
    fast = compile_(model)
    with torch.no_grad():
        for n in (2, 2, 1, 3):
            x = give(n)
            agree(fast(x), model(x))


def test_what_follows_a_layer_is_part_of_it(fresh: list[Any]) -> None:
    model, x = zeroed(Residual()), torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        compile_(model)(x)
    assert fresh == [
        ("conv", "relu", False, "tiles"), ("largest", "none", False, "plane"),
        ("conv", "relu", False, "tiles"), ("conv", "relu", True, "tiles"),
        ("conv", "none", False, "tiles"), ("conv", "relu", False, "tiles"),
        ("conv", "silu", True, "tiles"), ("conv", "none", False, "tiles"),
        ("mean", "none", False, "plane"), ("linear", "none", False, "tiles"),
    ]  # fmt: skip


@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_is_planned_for(name: str, fresh: list[Any]) -> None:
    build, give = NETWORKS[name]
    with torch.no_grad():
        compile_(zeroed(build()))(give(1))
    assert fresh


def test_a_pair_is_one_layer(fresh: list[Any]) -> None:
    model, x = zeroed(Mobile()), torch.randn(1, 3, 40, 44)
    with torch.no_grad():
        agree(compile_(model)(x), model(x))
    kinds = [kind for kind, *_ in fresh]
    assert kinds.count("pair") == 1
    assert kinds.count("depthwise") == 1  # the one that reads what is no product


class Masked(nn.Module):
    """Picks rows by their values: how many depends on the input."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        """Rows to some of them."""
        out: Tensor = self.layer(x)[x[:, 0] > 0]
        return out


def test_a_shape_that_depends_on_values() -> None:
    model = zeroed(Masked())
    with torch._dynamo.config.patch(capture_dynamic_output_shape_ops=True), torch.no_grad():
        fast = compile_(model)
        for _ in range(4):
            x = torch.randn(9, 8)
            x[0] = 1  # one is picked at least
            agree(fast(x), model(x))


@pytest.mark.parametrize("name", NETWORKS)
def test_outputs_are_not_overwritten_by_the_next_call(name: str) -> None:
    build, give = NETWORKS[name]
    model = zeroed(build())
    fast, x = compile_(model), give(2)
    with torch.no_grad():
        fast(x)
        found = fast(x)
        kept = copy.deepcopy(found)
        fast(give(2))
    for one, two in zip(tree_leaves(found), tree_leaves(kept), strict=True):
        assert torch.equal(one, two)


class Several(nn.Module):
    """Gives an inner result, a view of one, a constant and its input as well."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(4, 8, 3), nn.Conv2d(8, 8, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Everything that there is."""
        y = self.one(x).relu()
        z = self.two(y) + y
        return y, z.flatten(1)[:, ::2], self.one.weight * 2, x, z.mean((2, 3)), y.transpose(0, 1)


def test_every_output_is_right_and_its_own() -> None:
    model = zeroed(Several())
    fast = compile_(model)
    with torch.no_grad():
        one, two = torch.randn(2, 4, 9, 9), torch.randn(2, 4, 9, 9)
        first = fast(one)
        for out in first[:3]:
            out.add_(1)  # what the caller does to an output is not seen by the next call
        agree(fast(two), model(two))
        agree(fast(one), model(one))


@pytest.mark.parametrize(
    "changed",
    [
        lambda m: m.head.weight.mul_(-3),
        lambda m: m.bn.running_mean.add_(1),
        lambda m: m.load_state_dict({k: v + 1 for k, v in m.state_dict().items()}),
        lambda m: m.load_state_dict(
            {k: nn.Parameter(v + 1.0) for k, v in m.state_dict().items()}, assign=True
        ),
        lambda m: setattr(m.stem.weight, "data", torch.randn_like(m.stem.weight)),
        lambda m: setattr(m, "head", nn.Linear(40, 10)),
    ],
)
def test_weights_are_read_anew_when_they_change(changed: Any) -> None:
    model, x = zeroed(Residual()), torch.randn(1, 3, 64, 64)
    fast = compile_(model)
    with torch.no_grad():
        before = fast(x)
        fast(x)
        changed(model)
        for _ in range(3):  # the graph as it is, a new plan, the plan
            after = fast(x)
            agree(after, model(x))
        assert not torch.equal(before, after)


def test_weights_that_change_with_every_call_are_not_planned_for(fresh: list[Any]) -> None:
    model, x = zeroed(Residual()), torch.randn(1, 3, 64, 64)
    fast = compile_(model)
    made_ = []
    with torch.no_grad():
        fast(x)
        for _ in range(4):
            next(model.parameters()).mul_(1.1)
            agree(fast(x), model(x))
            made_.append(len(fresh))
    assert len(set(made_)) == 1


def test_strides_of_the_input_do_not_matter() -> None:
    model = zeroed(Residual())
    fast = compile_(model)
    with torch.no_grad():
        for x in (
            torch.randn(2, 3, 64, 64).to(memory_format=torch.channels_last),
            torch.randn(2, 3, 64, 128)[..., ::2], torch.randn(64, 3, 64, 2).permute(3, 1, 0, 2),
            torch.randn(1, 3, 64, 64).expand(2, 3, 64, 64),
        ):  # fmt: skip
            agree(fast(x), model(x))


def test_in_training_it_is_the_model_with_its_gradients() -> None:
    model = zeroed(Residual()).train()
    other = copy.deepcopy(model)
    x = torch.randn(4, 3, 64, 64, requires_grad=True)
    z = x.detach().clone().requires_grad_()
    fast = compile_(model)
    for _ in range(2):
        fast(x).square().sum().backward()
        other(z).square().sum().backward()
    assert torch.equal(x.grad, z.grad)  # type: ignore[arg-type]
    for one, two in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(one.grad, two.grad)  # type: ignore[arg-type]
    for now, then in zip(model.buffers(), other.buffers(), strict=True):
        assert torch.equal(now, then)
    with torch.no_grad():  # batch norms count in training mode, gradients or not
        agree(fast(z), other(z))
        for now, then in zip(model.buffers(), other.buffers(), strict=True):
            assert torch.allclose(now, then)
        model.eval()
        other.eval()
        agree(fast(z), other(z))


def test_dropout_in_training_is_random() -> None:
    model = nn.Sequential(nn.Linear(64, 64), nn.Dropout(0.5)).train()
    fast, x = compile_(model), torch.ones(8, 64)
    with torch.no_grad():
        assert not torch.equal(fast(x), fast(x))


def test_in_inference_mode_and_autocast() -> None:
    model, x = zeroed(Residual()), torch.randn(1, 3, 64, 64)
    fast = compile_(model)
    with torch.inference_mode():
        agree(fast(x), model(x))
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        found, wanted = fast(x), model(x)
    assert found.dtype == wanted.dtype
    assert torch.allclose(found, wanted, rtol=0.05, atol=0.05 * float(wanted.abs().max()))
    with torch.no_grad():
        agree(compile_(model.double())(x.double()), model(x.double()))


def test_without_kernels_it_is_the_model(monkeypatch: pytest.MonkeyPatch, fresh: list[Any]) -> None:
    monkeypatch.setattr(backend, "library", lambda: Missing("none"))
    model, x = zeroed(Residual()), torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        agree(compile_(model)(x), model(x))
    assert not fresh


def test_a_model_of_torchs_own_class_is_planned_for(fresh: list[Any]) -> None:
    layers = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 16, 3))
    model, x = zeroed(layers), torch.randn(1, 3, 16, 16)
    wanted = model(x).detach()
    with torch.no_grad():
        agree(carry.compiled(model)(x), wanted)
    assert [kind for kind, *_ in fresh] == ["conv", "conv"]


def test_attached_masks_are_constants(fresh: list[Any]) -> None:
    model = Residual().eval()
    for module in model.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            prune.l1_unstructured(module, "weight", amount=0.8)
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        agree(compile_(model)(x), model(x))
    assert fresh[-1] == ("linear", "none", False, "tiles")


@pytest.mark.parametrize("run", [True, False])
def test_sparse_layers_inside(*, run: bool) -> None:
    model: Any = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Flatten(), nn.Linear(576, 10))
    zeroed(model)
    x = torch.randn(1, 3, 8, 8)
    with torch.no_grad():
        wanted = model(x)
        model[0], model[3] = SparseConv2d.of(model[0]).eval(), SparseLinear.of(model[3]).eval()
        if run:
            model(x)
        fast = compile_(model)
        for _ in range(2):
            agree(fast(x), wanted)


def test_the_slower_one_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend.Faster, "_wins", lambda *_: False)
    calls: list[int] = []
    run = compiled.Compiled.__call__

    def counted(self: Any, args: list[Any]) -> Any:
        calls.append(1)
        return run(self, args)

    monkeypatch.setattr(compiled.Compiled, "__call__", counted)
    model, x = zeroed(Residual()), torch.randn(1, 3, 64, 64)
    fast = compile_(model)
    with torch.no_grad():
        for _ in range(3):
            agree(fast(x), model(x))
    assert len(calls) == 1


def test_threads_do_not_share_memory() -> None:
    model = zeroed(Residual())
    fast = compile_(model)
    inputs = [torch.randn(2, 3, 64, 64) for _ in range(4)]
    wrong: set[int] = set()
    with torch.no_grad():
        wanted = [model(x) for x in inputs]
        fast(inputs[0])

    def work(i: int) -> None:
        with torch.no_grad():
            for _ in range(20):
                if not torch.allclose(fast(inputs[i]), wanted[i], rtol=1e-3, atol=1e-4):
                    wrong.add(i)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.parametrize("threads", [1, 2])
def test_the_number_of_threads_may_change(threads: int) -> None:
    model, x = zeroed(Residual()), torch.randn(1, 3, 64, 64)
    fast = compile_(model)
    before = torch.get_num_threads()
    try:
        with torch.no_grad():
            fast(x)
            torch.set_num_threads(threads)
            agree(fast(x), model(x))
    finally:
        torch.set_num_threads(before)


def test_nothing_of_the_model_is_touched() -> None:
    model, x = zeroed(Residual()), torch.randn(1, 3, 64, 64)
    before, kept = copy.deepcopy(model.state_dict()), x.clone()
    with torch.no_grad():
        compile_(model)(x)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])
    assert torch.equal(x, kept)


def test_it_is_found_by_name() -> None:
    """By the entry point that is installed, in any order with the import that registers it."""
    text = (Path(__file__).parents[2] / "pyproject.toml").read_text("utf-8")
    group = "torch_dynamo_backends"
    (value,) = re.findall(rf"entry-points\.{group}\].*\nexcise = \"(.*)\"", text)
    assert EntryPoint("excise", value, group).load() is excise
    registry: Any = importlib.import_module("torch._dynamo.backends.registry")
    importlib.import_module("excise.sparse.register").register()
    assert callable(registry.lookup_backend("excise"))
    assert "excise.sparse.register" in sys.modules
    model, x = zeroed(Residual()), torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        agree(torch.compile(model, backend="excise")(x), model(x))
