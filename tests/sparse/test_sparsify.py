"""Layers swapped for sparse ones compute the same, and follow what is done to a model."""

from __future__ import annotations

import copy
import dataclasses
import pickle
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import prune

from excise.errors import SparseError
from excise.sparse import SparseConv2d, SparseLinear, Sparsified, Way, sparsify, tune
from excise.sparse.carry import is_compiled
from excise.sparse.kernels import Library, Missing, library
from excise.sparse.tune import Timing, timed

needs_kernels = pytest.mark.skipif(
    not isinstance(library(), Library), reason="the kernels were not compiled here"
)


def masked(layer: Any, share: float = 0.8) -> Any:
    """With the smallest weights zero, as torch leaves it."""
    prune.l1_unstructured(layer, "weight", share)
    prune.remove(layer, "weight")
    return layer


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        masked(nn.Conv2d(3, 32, 3, padding=1)), nn.BatchNorm2d(32), nn.ReLU(),
        masked(nn.Conv2d(32, 64, 3, stride=2, padding=1)), nn.ReLU(),
        nn.Conv2d(64, 64, 3, padding=1, groups=64), nn.ReLU(),
        masked(nn.Conv2d(64, 48, 1)), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        masked(nn.Linear(48, 10)),
    ).eval()  # fmt: skip


@needs_kernels
def test_the_model_computes_the_same_and_the_table_says_what_was_timed() -> None:
    model, x = net(), torch.randn(4, 3, 48, 48)
    before = copy.deepcopy(model.state_dict())
    made = sparsify(model, x)
    assert [t.name for t in made.timings] == ["0", "3", "7", "10"]
    for timing in made.timings:
        assert timing.zeros == pytest.approx(0.8, abs=0.01)
        assert timing.dense_ms > 0
        assert timing.sparse_ms > 0
        assert (timing.gain >= 1.03) or timing.name not in made.swapped
    with torch.no_grad():
        for sample in (x, x[:1], torch.randn(2, 3, 31, 57)):
            wanted = model(sample)
            assert float((made.model(sample) - wanted).abs().max()) <= 1e-5 * wanted.abs().max()
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert all(line in str(made) for line in ("zeros", "dense"))


def pickled(model: nn.Module) -> Any:
    return pickle.loads(pickle.dumps(model))  # noqa: S301 - our own


def decided(monkeypatch: pytest.MonkeyPatch, ratio: float) -> None:
    """Every layer is said to win, and the whole model to be so many times as fast."""
    module = sys.modules["excise.sparse.sparsify"]

    def won(name: str, dense: Any, layer: Any, x: Any) -> Timing:
        del dense, x
        layer.way = Way("tiles", 2, 64)
        return Timing(name, layer.zeros, 2.0, 1.0, layer.way)

    class Said:
        """A speed that was not measured."""

    said: Any = Said()
    said.ratio = ratio
    monkeypatch.setattr(module, "timed", won)
    monkeypatch.setattr(module, "speedup", lambda *_, **__: said)
    monkeypatch.setattr(module, "_as_a_whole", lambda model, table, _: Sparsified(model, table))


@needs_kernels
def test_swapped_layers_compute_the_same_on_other_inputs_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    decided(monkeypatch, 2.0)
    model, x = net(), torch.randn(4, 3, 48, 48)
    made = sparsify(model, x)
    assert made.swapped == ("0", "3", "7", "10")
    assert made.folded == ("1",)
    assert isinstance(made.model.get_submodule("1"), nn.Identity)
    with torch.no_grad():
        for sample in (x, x[:1], torch.randn(2, 3, 31, 57)):
            wanted = model(sample)
            assert float((made.model(sample) - wanted).abs().max()) <= 1e-5 * wanted.abs().max()


@needs_kernels
@pytest.mark.parametrize("copied", [copy.deepcopy, pickled])
def test_a_compiled_model_is_what_it_was_and_so_are_its_copies(
    copied: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where it is fastest compiled: its layers, state and training are those of the model."""
    ratios = iter([2.0, 3.0])
    module = sys.modules["excise.sparse.sparsify"]
    real = module.speedup

    def said(*given: Any, **more: Any) -> Any:
        return dataclasses.replace(real(*given, seconds=1e-3, **more), ratio=next(ratios))

    def won(name: str, dense: Any, layer: Any, x: Any) -> Timing:
        del dense, x
        return Timing(name, layer.zeros, 2.0, 1.0, layer.way)

    monkeypatch.setattr(module, "timed", won)
    monkeypatch.setattr(module, "speedup", said)
    model: Any = net()
    x = torch.randn(2, 3, 24, 24)
    made: Any = sparsify(model, x)
    assert made.compiled
    assert made.swapped == ()
    assert "as a whole" in str(made)
    other = copied(made.model)
    for one in (made.model, other):
        assert type(one) is type(model)
        assert is_compiled(one)
        assert one._compiled_call_impl is not None
        assert list(one.state_dict()) == list(model.state_dict())
        with torch.no_grad():
            wanted = model(x)
            assert float((one(x) - wanted).abs().max()) <= 1e-5 * wanted.abs().max()
    with torch.no_grad():  # the copy's weights are its own
        other[0].weight.mul_(2)
        model[0].weight.mul_(2)
        wanted = model(x)
        for _ in range(3):
            assert float((other(x) - wanted).abs().max()) <= 1e-5 * wanted.abs().max()
        assert not torch.allclose(made.model(x), wanted)
    other.train()(x).sum().backward()
    assert other[0].weight.grad is not None


@needs_kernels
def test_what_the_compiler_cannot_read_is_not_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    module = sys.modules["excise.sparse.sparsify"]

    def broken(model: nn.Module) -> nn.Module:
        def refuse(*_: Any) -> None:
            raise RuntimeError("no")

        object.__setattr__(model, "_compiled_call_impl", refuse)
        return model

    monkeypatch.setattr(module, "compiled", broken)
    made = sparsify(net(), torch.randn(1, 3, 16, 16))
    assert not made.compiled


@needs_kernels
def test_a_model_is_not_made_slower(monkeypatch: pytest.MonkeyPatch) -> None:
    decided(monkeypatch, 0.5)
    made = sparsify(net(), torch.randn(1, 3, 16, 16))
    assert made.swapped == ()
    assert "2.00 times slower" in made.why
    assert not any(isinstance(m, (SparseLinear, SparseConv2d)) for m in made.model.modules())


@needs_kernels
def test_layers_that_agree_wrongly_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    decided(monkeypatch, 2.0)
    monkeypatch.setattr(SparseLinear, "forward", lambda _self, x: x[:, :10] + 1.0)
    with pytest.raises(SparseError, match="differs"):
        sparsify(net(), torch.randn(1, 3, 16, 16))


@needs_kernels
def test_rounding_like_torchs_own_is_no_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    decided(monkeypatch, 2.0)
    module = sys.modules["excise.sparse.sparsify"]
    monkeypatch.setattr(module, "_EXACT", 0.0)
    monkeypatch.setattr(module, "_AS_TORCH", 50.0)  # a shallow net: the ratio itself is chance
    made = sparsify(net(), torch.randn(1, 3, 16, 16))
    assert 0 < made.worst < 1e-5
    monkeypatch.setattr(module, "_AS_TORCH", 0.0)
    with pytest.raises(SparseError, match="differs"):
        sparsify(net(), torch.randn(1, 3, 16, 16))


@needs_kernels
def test_a_model_without_zeros_is_left_alone() -> None:
    made = sparsify(nn.Sequential(nn.Linear(8, 8)), torch.randn(2, 8))
    assert made.timings == ()
    assert "enough" in str(made)


def test_without_kernels_the_model_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        sys.modules["excise.sparse.sparsify"], "available", lambda: Missing("no compiler")
    )
    made = sparsify(net(), torch.randn(1, 3, 16, 16))
    assert "no compiler" in made.why
    assert made.swapped == ()


@needs_kernels
def test_masks_that_are_still_attached_are_merged() -> None:
    torch.manual_seed(0)
    model: Any = nn.Sequential(nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 512)).eval()
    for layer in (model[0], model[2]):
        prune.l1_unstructured(layer, "weight", 0.9)
    x = torch.randn(64, 512)
    made: Any = sparsify(model, x)
    assert [t.name for t in made.timings] == ["0", "2"]
    assert hasattr(model[0], "weight_mask")
    assert not [name for name in made.model.state_dict() if name.endswith(("_mask", "_orig"))]
    with torch.no_grad():
        assert torch.allclose(made.model(x), model(x), atol=1e-4)


@needs_kernels
def test_norms_are_folded_where_nobody_else_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second norm's input is read twice, and the third belongs to no layer."""

    class Normed(nn.Module):
        """Three convolutions and norms."""

        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = (masked(nn.Conv2d(32, 32, 3, padding=1), 0.95) for _ in range(2))
            self.free, self.held, self.last = (nn.BatchNorm2d(32) for _ in range(3))

        def forward(self, x: Tensor) -> Tensor:
            """Maps to maps."""
            x = self.free(self.one(x)).relu()
            y = self.two(x)
            out: Tensor = self.last(self.held(y) + y)
            return out

    decided(monkeypatch, 2.0)
    torch.manual_seed(0)
    model, x = Normed(), torch.randn(2, 32, 40, 40)
    for _ in range(4):
        model(x + 0.5)
    made = sparsify(model.eval(), x)
    assert made.swapped == ("one", "two")
    assert made.folded == ("free",)
    with torch.no_grad():
        wanted = model(x)
        assert float((made.model(x) - wanted).abs().max()) <= 1e-5 * float(wanted.abs().max())
    assert isinstance(model.free, nn.BatchNorm2d)


def _pair(kind: str) -> tuple[Any, Any, Tensor]:
    torch.manual_seed(0)
    if kind == "linear":
        dense: Any = masked(nn.Linear(40, 24))
        return dense, SparseLinear.of(dense), torch.randn(3, 5, 40)
    dense = masked(nn.Conv2d(6, 8, 3, stride=2, padding=1))
    return dense, SparseConv2d.of(dense), torch.randn(2, 6, 15, 12)


KINDS = pytest.mark.parametrize("kind", ["linear", "conv"])


@KINDS
def test_layers_agree_whatever_the_layout_of_the_input(kind: str) -> None:
    dense, layer, x = _pair(kind)
    turned = x.transpose(0, 1).contiguous().transpose(0, 1)
    if kind == "conv":
        turned = x.to(memory_format=torch.channels_last)
    assert not turned.is_contiguous()
    with torch.no_grad():
        for sample in (x, turned, x[:, ::2] if kind == "linear" else x[:, :, ::2], x[:0]):
            assert torch.allclose(layer(sample), dense(sample), atol=1e-5)
            assert layer(sample).shape == dense(sample).shape


@needs_kernels
@pytest.mark.parametrize("way", ["gemv", "mask"])
def test_a_single_row_is_read_by_another_kernel(way: str) -> None:
    dense, layer, x = _pair("linear")
    layer.way = Way(way)
    with torch.no_grad():
        assert torch.allclose(layer(x[0, 0]), dense(x[0, 0]), atol=1e-5)
        assert torch.allclose(layer(x[:1, :1]), dense(x[:1, :1]), atol=1e-5)
        assert torch.allclose(layer(x), dense(x), atol=1e-5)


@KINDS
def test_gradients_are_those_of_the_dense_layer_on_the_support(kind: str) -> None:
    dense, layer, x = _pair(kind)
    one, two = x.clone().requires_grad_(), x.clone().requires_grad_()
    dense(one).square().sum().backward()
    layer(two).square().sum().backward()
    assert torch.allclose(one.grad, two.grad, atol=1e-5)  # type: ignore[arg-type]
    there = dense.weight != 0
    assert torch.allclose(layer.value.grad, dense.weight.grad[there], atol=1e-4)
    assert torch.allclose(layer.bias.grad, dense.bias.grad, atol=1e-4)


@KINDS
def test_training_moves_the_support_and_nothing_else(kind: str) -> None:
    dense, layer, x = _pair(kind)
    there = dense.weight != 0
    with torch.no_grad():
        before = layer(x)
    optimizer = torch.optim.SGD(layer.parameters(), 0.1)
    layer(x).square().mean().backward()
    optimizer.step()
    assert torch.equal(layer.weight() != 0, there)
    with torch.no_grad():
        after = layer(x)
        assert not torch.allclose(after, before)
        run = functional.linear if kind == "linear" else dense._conv_forward
        assert torch.allclose(after, run(x, layer.weight(), layer.bias), atol=1e-5)


@KINDS
def test_state_copies_pickles_and_dtypes(kind: str, tmp_path: Path) -> None:
    _, layer, x = _pair(kind)
    with torch.no_grad():
        wanted = layer(x)
        other = copy.deepcopy(layer)
        other.value.mul_(2)
        assert not torch.allclose(other(x), wanted)
        assert torch.equal(layer(x), wanted)
        other.load_state_dict(layer.state_dict())
        assert torch.equal(other(x), wanted)
        torch.save(layer, tmp_path / "layer.pt")
        assert torch.equal(torch.load(tmp_path / "layer.pt", weights_only=False)(x), wanted)
        assert torch.equal(pickle.loads(pickle.dumps(layer))(x), wanted)  # noqa: S301 - our own
        half = copy.deepcopy(layer).to(torch.bfloat16)
        assert half(x.bfloat16()).dtype is torch.bfloat16
        assert torch.allclose(half(x.bfloat16()).float(), wanted, atol=0.2)
        wide = copy.deepcopy(layer).double()
        assert torch.allclose(wide(x.double()).float(), wanted, atol=1e-5)


@KINDS
@needs_kernels
def test_compilers_and_exporters_see_through(kind: str) -> None:
    dense, layer, x = _pair(kind)
    del dense
    with torch.no_grad():
        wanted = layer(x)
        compiled: Any = torch.compile(layer, backend="aot_eager", fullgraph=True)
        assert torch.allclose(compiled(x), wanted, atol=1e-6)
        exported = torch.export.export(layer, (x,))
        names = [str(node.target) for node in exported.graph.nodes]
        assert any("excise.sparse_" in name for name in names)
        assert torch.allclose(exported.module()(x), wanted, atol=1e-6)


def test_what_cannot_follow_is_refused() -> None:
    with pytest.raises(SparseError, match="groups=2"):
        SparseConv2d.of(nn.Conv2d(4, 4, 3, groups=2))
    with pytest.raises(SparseError, match="circular"):
        SparseConv2d.of(nn.Conv2d(4, 4, 3, padding=1, padding_mode="circular"))
    with pytest.raises(SparseError, match="min_zeros"):
        sparsify(net(), torch.randn(1, 3, 16, 16), min_zeros=2)


@needs_kernels
def test_an_example_that_does_not_run_is_refused() -> None:
    with pytest.raises(SparseError, match="does not run"):
        sparsify(net(), torch.randn(1, 5, 16, 16))


@needs_kernels
def test_tied_and_hooked_layers_are_left_alone() -> None:
    class Tied(nn.Module):
        """One weight for two layers, and a layer with a hook."""

        def __init__(self) -> None:
            super().__init__()
            self.one, self.two, self.three = (masked(nn.Linear(64, 64)) for _ in range(3))
            self.two.weight = self.one.weight
            self.three.register_forward_hook(lambda *_: None)

        def forward(self, x: Tensor) -> Tensor:
            """Rows to rows."""
            out: Tensor = self.three(self.two(self.one(x)))
            return out

    assert sparsify(Tied(), torch.randn(2, 64)).timings == ()


@pytest.mark.parametrize(("seconds", "rounds"), [(0.0, 5), (1.0, 2)])
def test_a_layers_timing_has_an_end(
    seconds: float, rounds: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[float] = []

    def call(_: Any) -> float:
        calls.append(1.0)
        return 1.0

    monkeypatch.setattr(tune, "_seconds", call)
    monkeypatch.setattr(time, "perf_counter", lambda: seconds * len(calls))
    layer = masked(nn.Linear(64, 32))
    sparse, x = SparseLinear.of(layer), torch.randn(5, 64)
    timed("it", layer, sparse, x)
    assert len(calls) == rounds * (1 + len(list(tune.ways(sparse, x))))
