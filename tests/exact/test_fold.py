"""Where constants go: a bias, a norm's mean, a new bias, a carrier; and what cannot take them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import excise


def zeroed(layer: nn.Module, rows: int) -> nn.Module:
    """A layer whose first filters are zero; their biases are not."""
    with torch.no_grad():
        layer.get_parameter("weight")[:rows] = 0
    return layer


def normed(width: int) -> nn.BatchNorm2d:
    norm = nn.BatchNorm2d(width)
    with torch.no_grad():
        norm.bias.normal_()
        assert norm.running_mean is not None
        norm.running_mean.normal_()
    return norm


def negative(layer: nn.Module) -> nn.Module:
    """A layer without a number above zero."""
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(-parameter.abs() - 0.01)
    return layer


class Read(nn.Module):
    """A linear layer written by hand: nobody can give it a bias."""

    def __init__(self) -> None:
        super().__init__()
        self.kernel = nn.Parameter(torch.randn(4, 6))

    def forward(self, x: Tensor) -> Tensor:
        """Run."""
        return nn.functional.linear(x, self.kernel)


class Series(nn.Module):
    """A recurrent layer that reads constants."""

    def __init__(self, layer: nn.RNNBase) -> None:
        super().__init__()
        self.first = zeroed(nn.Linear(3, 6), 3)
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        """Run."""
        out: Tensor = self.layer(torch.sigmoid(self.first(x)))[0]
        return out


IMAGE, ROWS, SERIES = (2, 3, 9, 9), (2, 5), (2, 5, 3)
CASES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], int, tuple[str, ...], int]] = {
    # what is built, input shape, units that go, tensors that take up constants, carriers
    "bias": (
        lambda: nn.Sequential(zeroed(nn.Linear(5, 6), 3), nn.Sigmoid(), nn.Linear(6, 4)),
        ROWS, 3, ("2.bias",), 0,
    ),
    "created bias": (
        lambda: nn.Sequential(zeroed(nn.Linear(5, 6), 3), nn.GELU(), nn.Linear(6, 4, bias=False)),
        ROWS, 3, ("2.bias",), 0,
    ),
    "created bias of a convolution": (
        lambda: nn.Sequential(
            zeroed(nn.Conv2d(3, 6, 3), 3), nn.Tanh(), nn.Conv2d(6, 4, 3, bias=False)
        ),
        IMAGE, 3, ("2.bias",), 0,
    ),
    "mean of a norm": (
        lambda: nn.Sequential(
            zeroed(nn.Conv2d(3, 6, 3), 3), normed(6), nn.ReLU(), nn.Conv2d(6, 4, 1, bias=False),
            normed(4),
        ),
        IMAGE, 3, ("4.running_mean",), 0,
    ),
    "carrier": (
        lambda: nn.Sequential(
            zeroed(nn.Conv2d(3, 6, 3), 3), nn.Sigmoid(), nn.Conv2d(6, 4, 3, padding=1)
        ),
        IMAGE, 2, ("2.weight",), 1,
    ),
    "no carrier for zeros": (
        lambda: nn.Sequential(
            zeroed(nn.Conv2d(3, 6, 3, bias=False), 3), nn.ReLU(), nn.Conv2d(6, 4, 3, padding=1)
        ),
        IMAGE, 3, (), 0,
    ),
    "carrier of a transposed convolution": (
        lambda: nn.Sequential(
            zeroed(nn.Conv2d(3, 6, 3), 3), nn.Sigmoid(), nn.ConvTranspose2d(6, 4, 3, stride=2)
        ),
        IMAGE, 2, ("2.weight",), 1,
    ),
    "carrier of a layer written by hand": (
        lambda: nn.Sequential(zeroed(nn.Linear(5, 6), 3), nn.Sigmoid(), Read()),
        ROWS, 2, ("2.kernel",), 1,
    ),
    "reflected borders need no carrier": (
        lambda: nn.Sequential(
            zeroed(nn.Conv2d(3, 6, 3), 3), nn.Sigmoid(),
            nn.Conv2d(6, 4, 3, padding=1, padding_mode="reflect"),
        ),
        IMAGE, 3, ("2.bias",), 0,
    ),
    "through pooling and flattening": (
        lambda: nn.Sequential(
            zeroed(nn.Conv2d(3, 6, 3), 3), nn.Sigmoid(), nn.MaxPool2d(2), nn.AdaptiveAvgPool2d(2),
            nn.Flatten(), nn.Linear(24, 4),
        ),
        IMAGE, 3, ("5.bias",), 0,
    ),
    "padded average pooling counts zeros": (
        lambda: nn.Sequential(
            zeroed(nn.Conv2d(3, 6, 3), 3), nn.Sigmoid(), nn.AvgPool2d(3, 1, 1), nn.Conv2d(6, 4, 1)
        ),
        IMAGE, 0, (), 0,
    ),
    "border of a depthwise convolution": (
        lambda: nn.Sequential(
            zeroed(nn.Conv2d(3, 40, 1), 30), nn.Sigmoid(),
            nn.Conv2d(40, 40, 3, padding=1, groups=40), normed(40), nn.SiLU(),
            nn.Conv2d(40, 4, 1),
        ),
        IMAGE, 15, ("5.weight", "5.bias"), 15,
    ),
    "border without a bias": (
        lambda: nn.Sequential(
            zeroed(nn.Conv2d(3, 40, 1), 30), nn.Sigmoid(),
            nn.Conv2d(40, 40, 3, padding=1, groups=40), nn.SiLU(), nn.Conv2d(40, 4, 1, bias=False),
            normed(4),
        ),
        IMAGE, 15, ("4.weight", "5.running_mean"), 15,
    ),
    "border of a large kernel in one dimension": (
        lambda: nn.Sequential(
            zeroed(nn.Conv1d(3, 40, 1), 30), nn.Sigmoid(),
            nn.Conv1d(40, 40, 5, padding=2, stride=2, groups=40), nn.SiLU(), nn.Conv1d(40, 4, 1),
        ),
        (2, 3, 9), 22, ("4.weight", "4.bias"), 8,
    ),
    "border that an activation wipes out": (
        lambda: nn.Sequential(
            zeroed(nn.Conv2d(3, 6, 1), 3), nn.Sigmoid(), negative(nn.Conv2d(6, 6, 3, padding=1,
            groups=6)), nn.ReLU(), nn.Conv2d(6, 4, 3, padding=1),
        ),
        IMAGE, 5, (), 0,
    ),
    "border after dense filters that are empty but for a bias": (
        lambda: nn.Sequential(
            zeroed(nn.Conv2d(3, 6, 1), 6), nn.Sigmoid(), nn.Conv2d(6, 40, 3, padding=1), nn.SiLU(),
            nn.Conv2d(40, 4, 1),
        ),
        IMAGE, 30, ("2.weight", "4.weight", "4.bias"), 16,
    ),
    "inputs of an LSTM": (
        lambda: Series(nn.LSTM(6, 4, 2, batch_first=True, bidirectional=True)),
        SERIES, 3, ("layer.bias_ih_l0", "layer.bias_ih_l0_reverse"), 0,
    ),
    "inputs of a GRU": (
        lambda: Series(nn.GRU(6, 4, batch_first=True)), SERIES, 3, ("layer.bias_ih_l0",), 0,
    ),
    "inputs of a plain recurrent layer": (
        lambda: Series(nn.RNN(6, 4, batch_first=True)), SERIES, 3, ("layer.bias_ih_l0",), 0,
    ),
    "a recurrent layer without a bias keeps constants": (
        lambda: Series(nn.GRU(6, 4, batch_first=True, bias=False)), SERIES, 0, (), 0,
    ),
    "a layer norm mixes": (
        lambda: nn.Sequential(zeroed(nn.Linear(5, 6), 3), nn.LayerNorm(6), nn.Linear(6, 4)),
        ROWS, 0, (), 0,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_constants_are_folded(name: str, tmp_path: Path) -> None:
    build, shape, count, folded, carriers = CASES[name]
    torch.manual_seed(3)
    model = build().double().eval()
    x = torch.randn(shape, dtype=torch.float64)
    small, report = excise.shrink(model, x, latency=False)
    assert sum(map(len, report.plan.removed.values())) == count
    assert report.diagnosis.folded == folded
    assert report.diagnosis.carriers == carriers
    sizes = [tuple(n + 6 for n in shape[2:]) if shape != SERIES else (3,)]
    sizes += [(1,) * len(shape[2:]), (1, 7, 2)[: len(shape[2:])]] if "border of" in name else []
    for size in sizes:
        given = torch.randn(3, shape[1], *size, dtype=torch.float64)
        torch.testing.assert_close(small(given), model(given), rtol=1e-12, atol=1e-12)
    for given in (x, 100 * x):
        torch.testing.assert_close(small(given), model(given), rtol=1e-12, atol=1e-12)
    excise.save(small, report.plan, tmp_path / "small.safetensors")
    again = excise.load(tmp_path / "small.safetensors", build).eval()
    torch.testing.assert_close(again(x), small(x), rtol=0, atol=0)


def test_a_mixing_norm_is_named() -> None:
    build, shape, *_ = CASES["a layer norm mixes"]
    found = excise.explain(build().eval(), torch.randn(shape))
    assert found.mixing == ("native_layer_norm in 1",)
    assert "mixes it with other units" in found.layers[0].says


def test_a_dead_branch_goes_and_a_residual_sum_needs_all_its_branches() -> None:
    torch.manual_seed(0)

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 6, 1), nn.Conv2d(3, 6, 1)
            self.inner, self.outer = nn.Conv2d(6, 8, 3, padding=1), nn.Conv2d(8, 6, 3, padding=1)
            self.norm, self.head = normed(6), nn.Linear(6, 2)

        def forward(self, x: Tensor) -> Tensor:
            """Run."""
            x = torch.sigmoid(self.a(x) + self.b(x))
            x = x + self.norm(self.outer(torch.relu(self.inner(x))))
            out: Tensor = self.head(x.mean((2, 3)))
            return out

    model = Block().eval()
    with torch.no_grad():
        model.a.weight[:4] = 0
        model.b.weight[2:5] = 0
        model.norm.weight.zero_()  # the branch is a constant
    small, report = excise.shrink(model, torch.randn(2, 3, 7, 7), latency=False)
    assert report.plan.removed["a"] == (2, 3)
    assert len(report.plan.removed["inner"]) == 7
    assert getattr(small.head, "in_features", 0) == 4


def test_near_zeros_are_asked_for_and_measured() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 6, bias=False), nn.ReLU(), nn.Linear(6, 3)).eval()
    with torch.no_grad():
        model[0].get_parameter("weight")[:3] *= 1e-6
        model[2].get_parameter("weight")[0, 0] = 1e-40
    x = torch.randn(4, 5)
    small, report = excise.shrink(model, x, latency=False)
    assert not report.plan.removed
    assert report.diagnosis.subnormal == 1
    _, flushed = excise.shrink(model, x, latency=False, flush_subnormals=True)
    assert (flushed.flushed, flushed.diagnosis.subnormal) == (1, 0)
    small, report = excise.shrink(model, x, latency=False, atol=1e-5)
    assert getattr(small[0], "out_features", 0) == 3  # type: ignore[index]
    with torch.no_grad():
        moved = float((small(x) - model(x)).abs().max() / model(x).abs().max())
    assert 0 < moved <= report.change * 1.01 < 1e-4


def test_scattered_zeros_are_called_scattered() -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3)).eval()
    with torch.no_grad():
        same = torch.arange(8) % 2 == torch.arange(8)[:, None] % 2
        model[0].get_parameter("weight")[same] = 0
    found = excise.explain(model, torch.randn(2, 8))
    assert found.layers[0].says == (
        "scattered: 50 % zeros but no filter is empty; store sparse, or prune filters instead"
    )
    assert found.removed_params == 0


def test_a_constant_that_nothing_can_take_up_is_named() -> None:
    model = Series(nn.GRU(6, 4, batch_first=True, bias=False)).eval()
    found = excise.explain(model, torch.randn(SERIES))
    assert "it is a constant that gru in layer cannot fold away" in found.layers[0].says
