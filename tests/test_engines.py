"""What the benchmarks of engines do between the timings, which nobody would see go wrong."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import engine_nets
import engine_worker
import engines
import environments
import kernels
import numpy as np
import page_sparse
import pytest
import torch
from torch import nn

TIMES = {"least": 1.0, "median": 1.0, "low": 1.0, "high": 1.0}


def test_every_layer_gets_its_share_and_the_first_and_depthwise_ones_none() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3, groups=8), nn.Conv2d(8, 16, 1), nn.Flatten(),
        nn.Linear(16, 50),
    )  # fmt: skip
    engine_nets.prune(model, 0.8)
    shares = [float((p == 0).float().mean()) for p in model.parameters() if p.dim() > 1]
    assert shares == pytest.approx([0, 0, 0.8, 0.8], abs=0.01)


def test_norms_settle_on_the_pruned_weights() -> None:
    torch.manual_seed(0)
    model: Any = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)).eval()
    with torch.no_grad():
        model[0].weight.mul_(100)

    def example(n: int) -> torch.Tensor:
        return torch.randn(n, 3, 12, 12)

    engine_nets.settle(model, example)
    assert not model[1].training
    with torch.no_grad():
        assert float(model(example(16)).std()) == pytest.approx(1, abs=0.3)


def test_outputs_are_held_against_eager(tmp_path: Path) -> None:
    wanted = np.array([[1.0, -4.0]], np.float32)
    np.save(tmp_path / "output.npy", wanted)
    assert engine_worker.difference(torch.from_numpy(wanted).bfloat16(), tmp_path) == 0
    assert engine_worker.difference(wanted + 0.4, tmp_path) == pytest.approx(0.1)
    assert engine_worker.difference(wanted[0], tmp_path) == float("inf")
    assert engine_worker.difference(wanted * np.nan, tmp_path) == float("inf")


@pytest.mark.parametrize(("takes", "counted"), [(0.6, 1), (0.2, 3), (0.4, 2)])
def test_a_turn_leaves_its_first_call_out_unless_it_is_long(
    takes: float, counted: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [0.0]

    def call() -> None:
        clock[0] += takes

    for name in ("perf_counter", "process_time"):
        monkeypatch.setattr(time, name, lambda: clock[0])
    found = engine_worker.turn(call, 0.5)
    assert found["wall"] == pytest.approx([1e3 * takes] * counted)
    assert found["cpu"] == pytest.approx([1e3 * takes] * counted)


def test_a_tool_that_does_not_install_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(step: list[str], **_: Any) -> Any:
        bad = "pip" in step
        return subprocess.CompletedProcess(step, int(bad), "", "noise\nno such release" * bad)

    monkeypatch.setattr(subprocess, "run", run)
    found = environments.made("deepsparse", tmp_path)
    assert found == "deepsparse was not installed: no such release"


def test_a_worker_that_dies_leaves_a_reason(tmp_path: Path) -> None:
    """There is no such network in an empty folder; the row says so, and no turn is taken."""
    engine = engines.Engine("eager", Path(sys.executable), "nonsense", tmp_path, 1)
    assert not engine.works
    assert "KeyError" in engine.found()["failed"]
    engine.end()


def test_the_page_marks_who_leads() -> None:
    def row(times: dict[str, float]) -> dict[str, Any]:
        return {n: {"cpu_ms": TIMES | {"least": t}} for n, t in times.items()}

    slow = {"eager": 8.0, "OpenVINO": 4.0, "OpenVINO bf16": 2.0, "DeepSparse": 3.0}
    gains = page_sparse._gains(row(slow | {"excise": 2.5}), "cpu_ms")
    assert page_sparse._cell("excise", gains) == "**3.20**"
    assert page_sparse._cell("DeepSparse", gains) == "2.67"
    assert page_sparse._cell("inductor", gains) == "-"
    ahead = page_sparse._gains(row(slow | {"excise": 1.0}), "cpu_ms")
    assert page_sparse._cell("excise", ahead) == "**8.00**\\*"
    behind = page_sparse._gains(row(slow | {"excise": 3.5}), "cpu_ms")
    assert page_sparse._cell("excise", behind) == "2.29"


def test_what_is_read_in_turn_is_more_than_a_cache_holds() -> None:
    many, size = kernels.turned((torch.zeros(25_000_000),))
    assert size == 100_000_000
    assert len(many) * size >= kernels.TURNED
    assert len({copy[0].data_ptr() for copy in many}) == len(many)
