"""Files whose zeros are never filled in: layers that run as they are stored."""

from __future__ import annotations

import gc
import sys
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import excise
from excise.errors import CorruptFileError, ForeignFileError, InvalidTargetError
from excise.sparse import SparseConv2d, SparseLinear, sparsify
from excise.sparse.kernels import Missing, available
from tests.sparse.test_sparsify import decided, masked

needs_kernels = pytest.mark.skipif(
    isinstance(available(), Missing), reason="nothing runs sparse layers here"
)
MODULE = sys.modules["excise.files.load"]


class Net(nn.Module):
    """Layers that have a sparse form, and layers that have none."""

    def __init__(self, share: float = 0.0) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 16, 3, padding=1)
        self.grouped = nn.Conv2d(16, 16, 3, padding=1, groups=4)
        self.mirror = nn.Conv2d(16, 16, 3, padding=1, padding_mode="reflect")
        self.norm = nn.BatchNorm2d(16)
        self.one, self.two = nn.Linear(16, 40), nn.Linear(40, 40, bias=False)
        self.tied, self.twin = nn.Linear(40, 40), nn.Linear(40, 40)
        self.twin.weight = self.tied.weight
        self.full = nn.Linear(40, 10)
        if share:
            for layer in (self.conv, self.grouped, self.mirror, self.one, self.two, self.tied):
                masked(layer, share)
            self.twin.weight = self.tied.weight

    def forward(self, x: Tensor) -> Tensor:
        """Images to rows."""
        x = self.norm(self.mirror(self.grouped(self.conv(x).relu()))).mean((2, 3))
        out: Tensor = self.full(self.twin(self.tied(self.two(self.one(x).relu()))))
        return out


@pytest.fixture
def saved(tmp_path: Path) -> tuple[Net, Path]:
    """A network with zeros, and its file."""
    model, path = Net(0.8).eval(), tmp_path / "zeros.safetensors"
    excise.save(model, excise.Plan({}, {}, ()), path)
    return model, path


def build() -> nn.Module:
    """Without memory."""
    with torch.device("meta"):
        return Net().eval()


@needs_kernels
@pytest.mark.parametrize("make", [build, lambda: Net().eval()])
def test_layers_come_sparse_and_compute_the_same(saved: tuple[Net, Path], make: Any) -> None:
    model, path = saved
    again: Any = excise.load(path, make, sparse=True)
    assert type(again).__name__ == "Net"
    assert isinstance(again.conv, SparseConv2d)
    assert isinstance(again.one, SparseLinear)
    assert isinstance(again.two, SparseLinear)
    for name in ("grouped", "mirror", "tied", "twin", "full"):
        assert type(again.get_submodule(name)) is type(model.get_submodule(name))
    assert again.twin.weight is again.tied.weight
    assert not any(module.training for module in again.modules())
    assert torch.equal(again.one.weight(), model.one.weight)
    assert torch.equal(again.get_parameter("one.bias"), model.get_parameter("one.bias"))
    assert again.two.bias is None
    x = torch.randn(2, 3, 12, 12)
    with torch.no_grad():
        assert torch.allclose(again(x), model(x), atol=1e-5)


@needs_kernels
def test_never_more_than_one_weight_is_dense(
    saved: tuple[Net, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    alive: list[weakref.ref[Tensor]] = []
    most = 0
    whole: Any = vars(MODULE)["unpack"]

    def unpack(entry: Any, data: Any) -> Tensor:
        nonlocal most
        gc.collect()
        made: Tensor = whole(entry, data)
        if tuple(made.shape) in {(16, 3, 3, 3), (40, 16), (40, 40)} and len(alive) < 3:
            alive.append(weakref.ref(made))
        most = max(most, sum(ref() is not None for ref in alive))
        return made

    monkeypatch.setattr(MODULE, "unpack", unpack)
    excise.load(saved[1], build, sparse=True)
    assert len(alive) == 3
    assert most == 1
    assert not any(ref() is not None for ref in alive)
    alive.clear()
    most = 0
    kept = excise.load(saved[1], build)  # the count can fail: dense layers stay
    assert kept is not None
    assert most > 1


@needs_kernels
def test_its_state_goes_round_and_dtypes_follow(saved: tuple[Net, Path], tmp_path: Path) -> None:
    model, path = saved
    one: Any = excise.load(path, build, sparse=True)
    two: Any = excise.load(path, build, sparse=True)
    with torch.no_grad():
        two.one.value.zero_()
        two.load_state_dict(one.state_dict())
        x = torch.randn(2, 3, 12, 12)
        assert torch.equal(two(x), one(x))
        short = model.bfloat16()
        excise.save(short, excise.Plan({}, {}, ()), tmp_path / "short.safetensors")
        again: Any = excise.load(tmp_path / "short.safetensors", build, sparse=True)
        assert again.one.value.dtype is torch.bfloat16
        assert torch.allclose(again(x.bfloat16()).float(), one(x), atol=0.05)


@needs_kernels
def test_half_precision_that_no_kernel_takes_comes_dense(
    saved: tuple[Net, Path], tmp_path: Path
) -> None:
    model, _ = saved
    excise.save(model.half(), excise.Plan({}, {}, ()), tmp_path / "half.safetensors")
    again: Any = excise.load(tmp_path / "half.safetensors", build, sparse=True)
    assert type(again.one) is nn.Linear


@needs_kernels
def test_it_can_be_timed_afterwards(
    saved: tuple[Net, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    again: Any = excise.load(saved[1], build, sparse=True)
    decided(monkeypatch, 2.0)
    x = torch.randn(2, 3, 12, 12)
    made = sparsify(again, x)
    assert set(made.swapped) == {"conv", "one", "two"}
    assert isinstance(again.one, SparseLinear)
    with torch.no_grad():
        assert torch.allclose(made.model(x), again(x), atol=1e-5)


@needs_kernels
def test_masked_training_goes_on_from_it(saved: tuple[Net, Path]) -> None:
    again: Any = excise.load(saved[1], build, sparse=True)
    again.train()
    again(torch.randn(4, 3, 12, 12)).square().mean().backward()
    assert again.one.value.grad.shape == again.one.value.shape
    assert again.one.bias.grad is not None


def test_where_nothing_runs_it_it_comes_dense_and_says_so(
    saved: tuple[Net, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(MODULE, "available", lambda: Missing("no compiler"))
    with pytest.warns(UserWarning, match="no compiler"):
        again: Any = excise.load(saved[1], build, sparse=True)
    assert type(again.one) is nn.Linear


def test_bad_requests_change_nothing(saved: tuple[Net, Path], tmp_path: Path) -> None:
    _, path = saved
    other: Any = "yes"
    with pytest.raises(InvalidTargetError, match="sparse"):
        excise.load(path, build, sparse=other)
    with pytest.raises(ForeignFileError):
        excise.load(path, lambda: nn.Linear(2, 2), sparse=True)
    raw = path.read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(raw[:-100])
    with pytest.raises(CorruptFileError):
        excise.load(tmp_path / "cut.safetensors", build, sparse=True)
