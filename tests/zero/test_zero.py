"""One-shot zeros in a model: what was asked for, near the dense model, and nothing else touched."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import prune

import excise
from excise.errors import CalibrationError, InvalidTargetError, UnknownModuleError
from excise.zero import zero


class Net(nn.Module):
    """Convolutions with norms, a depthwise one, a residual block and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(16)
        self.depth = nn.Conv2d(16, 16, 3, padding=1, groups=16)
        self.one, self.two = nn.Conv2d(16, 32, 3, padding=1), nn.Conv2d(32, 16, 3, padding=1)
        self.head = nn.Linear(16, 8)

    def forward(self, x: Tensor) -> Tensor:
        """Images to logits."""
        x = self.norm(self.stem(x)).relu()
        x = x + self.two(self.one(self.depth(x)).relu())
        out: Tensor = self.head(x.mean((2, 3)))
        return out


def net() -> Any:
    torch.manual_seed(0)
    model = Net()
    with torch.no_grad():
        for _ in range(3):
            model(torch.randn(16, 3, 8, 8) + 0.3)
    return model.eval()


X = torch.randn(160, 3, 8, 8, generator=torch.Generator().manual_seed(1)) + 0.3
FIT, TEST = X[:96].split(16), X[96:]
LAYERS = ("stem.weight", "one.weight", "two.weight", "head.weight")


def _lost(model: Any, other: Any) -> float:
    with torch.no_grad():
        wanted = model(TEST)
        return float((other(TEST) - wanted).square().mean() / wanted.var())


@pytest.mark.parametrize("method", ["magnitude", "wanda", "sparsegpt", "admm"])
@pytest.mark.parametrize("sparsity", [0.5, 0.8])
def test_as_many_zeros_as_asked_and_nothing_else_changes(method: str, sparsity: float) -> None:
    model = net()
    before = {name: t.clone() for name, t in model.state_dict().items()}
    made = zero(model, X[:2], sparsity=sparsity, calibration=FIT, method=method)
    assert made.zeros == pytest.approx(sparsity, abs=0.01)
    assert {z.weight for z in made.layers} == set(LAYERS)
    state: dict[str, Any] = dict(made.model.state_dict())
    count = sum(int((state[name] == 0).sum()) for name in LAYERS)
    assert count / sum(state[name].numel() for name in LAYERS) == pytest.approx(made.zeros)
    for name, tensor in before.items():
        assert torch.equal(model.state_dict()[name], tensor)
        free = name in LAYERS or (method == "admm" and not name.startswith("depth"))
        assert free or torch.equal(state[name], tensor)
    assert "zeros" in str(made)


def test_compensation_pays() -> None:
    model = net()
    lost = {
        method: _lost(model, zero(model, X[:2], sparsity=0.7, calibration=FIT, method=method).model)
        for method in ("magnitude", "sparsegpt", "admm")
    }
    assert lost["admm"] < 0.5 * lost["sparsegpt"]
    assert lost["sparsegpt"] < lost["magnitude"]


@pytest.mark.parametrize("pattern", ["2:4", "4:8", "block:4x1"])
def test_patterns_hold_where_they_divide_a_layer(pattern: str) -> None:
    made = zero(net(), X[:2], sparsity=None if ":" in pattern and "x" not in pattern else 0.5,
                pattern=pattern, calibration=FIT)  # fmt: skip
    names = {z.weight for z in made.layers}
    assert "one.weight" in names
    assert ("stem.weight" in names) == (pattern == "block:4x1")  # 27 columns
    assert made.zeros == pytest.approx(0.5, abs=0.01)
    state: Any = made.model.state_dict()
    matrix = state["one.weight"].flatten(1)
    if pattern == "2:4":
        assert int((matrix.reshape(-1, 4) != 0).sum(1).max()) == 2


def test_without_data_the_smallest_go() -> None:
    model = net()
    made = zero(model, X[:2], sparsity=0.5, allocation="uniform")
    weight = made.model.get_parameter("one.weight")
    kept = weight != 0
    dense = model.one.weight.detach()
    assert torch.equal(weight[kept], dense[kept])
    assert float(dense[~kept].abs().max()) <= float(dense[kept].abs().min())


def test_protected_layers_and_training_mode_stay() -> None:
    model = net().train()
    made = zero(model, X[:2], sparsity=0.5, calibration=FIT, protect=["stem", "two"])
    assert {z.weight for z in made.layers} == {"one.weight", "head.weight"}
    assert torch.equal(made.model.get_parameter("two.weight"), model.two.weight)
    assert model.training
    assert made.model.training


@pytest.mark.parametrize(
    ("error", "mentions", "options"),
    [
        (InvalidTargetError, "sparsity", {}),
        (InvalidTargetError, "sparsity", {"sparsity": 1.0}),
        (InvalidTargetError, "sparsity", {"sparsity": True}),
        (InvalidTargetError, "sparsity", {"sparsity": float("nan")}),
        (InvalidTargetError, "0.5 or none", {"sparsity": 0.7, "pattern": "2:4"}),
        (InvalidTargetError, "2:4", {"sparsity": 0.5, "pattern": "3x3"}),
        (InvalidTargetError, "sparsegpt", {"sparsity": 0.5, "method": "obs"}),
        (InvalidTargetError, "without data", {"sparsity": 0.5, "method": "wanda"}),
        (InvalidTargetError, "lamp", {"sparsity": 0.5, "allocation": "even"}),
        (InvalidTargetError, "divides no layer", {"sparsity": 0.5, "pattern": "block:64x64"}),
        (UnknownModuleError, "stam", {"sparsity": 0.5, "protect": "stam"}),
        (CalibrationError, "int", {"sparsity": 0.5, "calibration": 3}),
    ],
)
def test_bad_options_are_refused(error: type[Exception], mentions: str, options: Any) -> None:
    model = net()
    before = {name: t.clone() for name, t in model.state_dict().items()}
    with pytest.raises(error, match=mentions):
        zero(model, X[:2], **options)
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())


def test_prune_is_the_one_call_and_files_get_smaller(tmp_path: Path) -> None:
    model = net()
    cut = excise.prune(model, X[:2], sparsity=0.8, calibration=FIT, latency=False)
    assert cut.zeroed is not None
    assert cut.zeroed.zeros == pytest.approx(0.8, abs=0.01)
    assert cut.verdict is None
    path = tmp_path / "zeros.safetensors"
    excise.save(cut.model, cut.plan, path)
    assert path.stat().st_size < 0.6 * excise.measure.file_bytes(model)
    again = excise.load(path, net)
    assert torch.equal(again(TEST), cut.model(TEST))
    cut = excise.prune(model, X[:2], pattern="2:4", criterion="magnitude", latency=False)
    assert cut.zeroed is not None
    assert cut.zeroed.zeros == 0.5


@pytest.mark.parametrize(
    ("mentions", "options"),
    [
        ("keep_macs and zeros in place", {"sparsity": 0.5, "keep_macs": 0.5}),
        ("speedup and zeros in place", {"pattern": "2:4", "speedup": 2.0}),
        ("reconstruct and zeros in place", {"sparsity": 0.5, "reconstruct": 9}),
        ("uniform and zeros in place", {"sparsity": 0.5, "uniform": True}),
        ("sparsegpt", {"sparsity": 0.5, "criterion": excise.scores.magnitude}),
        ("sparsegpt", {"sparsity": 0.5, "criterion": "obs"}),
    ],
)
def test_prune_refuses_two_requests_at_once(mentions: str, options: Any) -> None:
    with pytest.raises(InvalidTargetError, match=mentions):
        excise.prune(net(), X[:2], **options)


def test_a_mask_that_is_still_attached_is_merged() -> None:
    model = net()
    prune.l1_unstructured(model.one, "weight", 0.3)
    made = zero(model, X[:2], sparsity=0.6, calibration=FIT)
    assert "one.weight" in {z.weight for z in made.layers}
    assert hasattr(model.one, "weight_mask")
    assert "one.weight_orig" not in made.model.state_dict()
