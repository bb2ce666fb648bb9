"""Measurements, against counts by hand and files that are written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.utils import prune

from excise import measure, units
from excise.errors import MeasureError
from excise.measure import Latency, Measurement
from tests.errors.bench import Net, fingerprint, world
from tests.pace import Hands


def _written(model: nn.Module, path: Path) -> int:
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, path)
    return path.stat().st_size


def test_parameters_count_once_and_zeros_count() -> None:
    model: Any = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 4))
    assert measure.params(model) == 4 * 8 + 8 + 8 * 4 + 4
    model[1].weight = nn.Parameter(model[0].weight.detach().t())
    assert measure.params(model) == 76
    model[1] = model[0]
    assert measure.params(model) == 40
    torch.nn.init.zeros_(model[0].weight)
    assert measure.params(model) == 40


def test_a_mask_changes_nothing_but_the_file(tmp_path: Path) -> None:
    """The question of the README, in numbers."""
    x = torch.randn(1, 3, 8, 8)
    model: Any = Net()
    before = measure.everything(model, x, latency=False)
    prune.l1_unstructured(model[3], "weight", amount=0.5)
    attached = measure.everything(model, x, latency=False)
    prune.remove(model[3], "weight")
    after = measure.everything(model, x, latency=False)
    assert after == before
    assert attached.params == before.params
    assert attached.macs == before.macs
    assert attached.file_bytes > before.file_bytes + 4 * model[3].weight.numel() - 1
    assert _written(model, tmp_path / "m.safetensors") == before.file_bytes


@pytest.mark.parametrize(
    ("model", "shape", "macs"),
    [
        (nn.Linear(8, 5), (3, 8), 3 * 8 * 5),
        (nn.Conv2d(3, 6, 3, padding=1), (2, 3, 8, 8), 2 * 6 * 3 * 9 * 64),
        (nn.Conv2d(6, 6, 3, groups=6), (1, 6, 8, 8), 6 * 9 * 36),
        (nn.ConvTranspose2d(4, 3, 2, stride=2), (1, 4, 5, 5), 4 * 3 * 4 * 25),
        (nn.Sequential(nn.BatchNorm1d(4), nn.ReLU()), (2, 4), 0),
    ],
)
def test_macs_by_hand(model: nn.Module, shape: tuple[int, ...], macs: int) -> None:
    assert measure.macs(model, torch.randn(*shape)) == macs


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_file_bytes_are_those_of_a_written_file(dtype: torch.dtype, tmp_path: Path) -> None:
    model = Net().to(dtype)
    assert measure.file_bytes(model) == _written(model, tmp_path / "m.safetensors")


def test_file_bytes_of_no_tensor_and_of_long_names(tmp_path: Path) -> None:
    empty = nn.ReLU()
    assert measure.file_bytes(empty) == _written(empty, tmp_path / "a.safetensors")
    model = nn.ModuleDict({"ünïcode": nn.Linear(3, 2), "x" * 90: nn.Linear(2, 2)})
    assert measure.file_bytes(model) == _written(model, tmp_path / "b.safetensors")


def test_memory_counts_shared_storage_once_and_views_whole() -> None:
    model: Any = nn.Linear(4, 8)
    assert measure.memory_bytes(model) == 4 * (32 + 8)
    model.register_buffer("view", model.weight.detach()[:2])
    assert measure.memory_bytes(model) == 4 * (32 + 8)
    big = torch.zeros(1000)
    model.weight = nn.Parameter(big[:32].view(8, 4))
    del model.view
    assert measure.memory_bytes(model) == 4 * (1000 + 8)


def test_nothing_runs_and_nothing_changes() -> None:
    torch.manual_seed(0)
    model, x = Net(), torch.randn(2, 3, 8, 8)
    before = fingerprint(model), world()
    measure.everything(model, x, latency=False)
    assert (fingerprint(model), world()) == before


def test_timing_restores_modes_and_the_random_state() -> None:
    torch.manual_seed(0)
    model, x = Net(), torch.randn(2, 3, 8, 8)
    model[1].eval()
    before = fingerprint(model), world()
    found = measure.latency(model, x, repeats=5)
    assert (fingerprint(model), world()) == before
    assert found.repeats == 5
    assert found.threads == torch.get_num_threads()
    assert found.hardware
    assert 0 < found.low_ms <= found.median_ms <= found.high_ms


def test_a_failing_model_gets_its_mode_back() -> None:
    model: Any = Net()
    with pytest.raises(MeasureError):
        measure.latency(model, torch.randn(1, 4, 8, 8))
    assert all(module.training for module in model.modules())


def test_latency_is_in_milliseconds(hands: Hands) -> None:
    class Slow(nn.Module):
        """Takes 20 ms more each time."""

        passes = 0

        def forward(self, x: Tensor) -> Tensor:
            """Let time pass."""
            self.passes += 1
            hands.sleep(0.02 * self.passes)
            return x

    found = measure.latency(Slow(), torch.zeros(1), repeats=5, warmup=0)
    assert (found.low_ms, found.median_ms, found.high_ms) == pytest.approx((40, 60, 80), rel=1e-3)
    assert measure.latency(Slow(), torch.zeros(1), repeats=5, warmup=2).median_ms > 99
    found = measure.latency(Slow(), torch.zeros(1))
    assert found.repeats < 20  # a second is enough


def test_without_an_input_only_sizes_are_measured() -> None:
    found = measure.everything(Net())
    assert (found.macs, found.latency) == (None, None)
    assert "MACs unknown" in str(found)


def test_no_number_without_its_unit() -> None:
    found = Latency(3.2, 3.1, 3.4, 9, 1, "a CPU")
    assert str(found) == "3.2 ms (quartiles 3.1 ms to 3.4 ms; 9 runs, 1 thread, a CPU)"
    said = str(Measurement(1200, 3_400_000, 5000, 4800, found))
    assert said.startswith("1.2 k parameters, 3.4 MMACs, 5 kB in a file, 4.8 kB in memory, 3.2 ms")
    assert found.to_dict()["median_ms"] == 3.2


@pytest.mark.parametrize(
    ("value", "unit", "said"),
    [
        (0, "MACs", "0 MACs"),
        (999, "parameters", "999 parameters"),
        (1000, "parameters", "1 k parameters"),
        (25_557_032, "parameters", "25.6 M parameters"),
        (4_089_000_000, "MACs", "4.09 GMACs"),
        (2e12, "MACs", "2 TMACs"),
    ],
)
def test_counts_are_said_with_a_prefix(value: float, unit: str, said: str) -> None:
    assert units.count(value, unit) == said


@pytest.mark.parametrize(
    ("value", "said"),
    [(0, "0 bytes"), (999, "999 bytes"), (46_830_571, "46.8 MB"), (3e9, "3 GB"), (1500, "1.5 kB")],
)
def test_sizes_are_said_in_decimal_units(value: float, said: str) -> None:
    assert units.size(value) == said


@pytest.mark.parametrize(
    ("quantity", "of"),
    [
        ("parameters", measure.params), ("file bytes", measure.file_bytes),
        ("memory bytes", measure.memory_bytes), ("latency", measure.latency),
        ("speedup", lambda wrong: measure.speedup(nn.Linear(2, 2), wrong, torch.zeros(1, 2))),
        ("latency", lambda wrong: measure.speedup(wrong, nn.Linear(2, 2), torch.zeros(1, 2))),
        ("parameters", measure.everything),
    ],
)  # fmt: skip
@pytest.mark.parametrize("wrong", [3, "resnet18", None, nn.Linear])
def test_what_is_no_module_is_refused(quantity: str, of: Any, wrong: Any) -> None:
    with pytest.raises(MeasureError) as caught:
        of(wrong)
    assert caught.value.quantity == quantity
    assert "do: pass a torch.nn.Module." in str(caught.value)


def test_one_is_no_plural() -> None:
    assert units.count(1, "units") == "1 unit"
    assert units.count(1, "axes") == "1 axis"
    assert units.count(2, "axes") == "2 axes"
    assert units.count(1, "MACs") == "1 MAC"
