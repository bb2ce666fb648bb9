"""Each command, for people and as JSON."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import excise
from excise.files import read_plan
from tests.cli.call import INPUT, NET, call, succeed
from tests.cli.factory import net

QUICK = (*INPUT, "--no-latency")
MEASURED = {"params", "macs", "file_bytes", "memory_bytes", "latency"}
VERDICT = {
    "passed", "kind", "worst_relative_difference", "tolerance", "outputs", "mixing", "reason",
    "ties",
}  # fmt: skip


@pytest.fixture
def small(tmp_path: Path) -> Path:
    path = tmp_path / "small.safetensors"
    succeed("prune", NET, *QUICK, "--keep-macs", 0.47, "-o", path)
    return path


def test_inspect_lists_groups_and_pins_with_reasons() -> None:
    said = succeed("inspect", NET, *INPUT)
    assert "3.weight" in said.out
    assert "a model output" in said.out
    assert "% of the parameters lie on an axis that may be cut" in said.out


def test_inspect_prints_every_axis() -> None:
    said = succeed("inspect", NET, *INPUT, "--axes")
    assert "7.weight" in said.out
    assert "(3.weight 7.weight:1" in said.out


def test_inspect_as_json() -> None:
    data = succeed("inspect", NET, *INPUT, "--json").data()
    assert data["command"] == "inspect"
    assert {g["name"]: g["units"] for g in data["groups"]} == {"0.weight": 8, "3.weight": 12}
    assert all({"axis", "units", "reason", "where", "slots"} == set(p) for p in data["pins"])
    assert data["params"] == sum(p.numel() for p in net().parameters())
    assert "3.weight[1]" in data["groups"][0]["slots"]
    assert data["axes"]["0.bias"] == "0.weight"


def test_prune_for_people() -> None:
    said = succeed("prune", NET, *INPUT, "--keep-params", 0.6)
    assert "verdict: proved" in said.out
    assert "not saved" in said.out
    assert "latency, median" in said.out
    assert "kept" in said.out


def test_prune_as_json(tmp_path: Path) -> None:
    path = tmp_path / "s.safetensors"
    data = succeed("prune", NET, *QUICK, "--keep-macs", 0.47, "-o", path, "--json").data()
    assert set(data) == {"command", "model", "removed_units", "report", "verdict", "saved"}
    assert set(data["report"]["before"]) == set(data["report"]["after"]) == MEASURED
    assert data["report"]["after"]["macs"] <= 0.47 * data["report"]["before"]["macs"]
    assert data["report"]["after"]["latency"] is None
    assert set(data["verdict"]) == VERDICT
    assert data["verdict"]["passed"] is True
    assert data["saved"] == str(path)
    plan = read_plan(path)
    assert data["removed_units"] == {name: len(units) for name, units in plan.removed.items()}


def test_prune_with_options(tmp_path: Path) -> None:
    path = tmp_path / "s.safetensors"
    options = ("--criterion", "l1", "--round-to", 4, "--min-keep", 4, "--protect", "0")
    succeed("prune", NET, *QUICK, "--keep-units", 0.6, *options, "-o", path)
    assert {name: len(units) for name, units in read_plan(path).removed.items()} == {"3.weight": 8}


def test_the_same_call_removes_the_same_units(tmp_path: Path) -> None:
    paths = [tmp_path / "a.safetensors", tmp_path / "b.safetensors"]
    for path in paths:
        succeed("prune", NET, *QUICK, "--keep-macs", 0.47, "-o", path)
    assert read_plan(paths[0]) == read_plan(paths[1])


def test_verify_a_saved_cut(small: Path) -> None:
    assert "verdict: proved" in succeed("verify", NET, small, *INPUT).out


def test_verify_as_json(small: Path) -> None:
    data = succeed("verify", NET, small, *INPUT, "--json").data()
    assert set(data) == {"command", "model", "file", "removed_units", "verdict"}
    assert set(data["verdict"]) == VERDICT
    assert data["verdict"]["kind"] == "exact"


def test_verify_says_no_with_exit_code_1(small: Path, tmp_path: Path) -> None:
    """The weights of another training: the file is not cut from them."""
    torch.save(net().state_dict(), tmp_path / "other.pt")
    words = ("verify", NET, small, *INPUT, "--weights", tmp_path / "other.pt")
    said = call(*words)
    assert said.code == 1
    assert "verdict: WRONG" in said.out
    assert "--weights" in said.out
    said = call(*words, "--json")
    assert said.code == 1
    assert said.data()["verdict"]["passed"] is False


def test_report_a_saved_cut(small: Path) -> None:
    said = succeed("report", NET, small, *INPUT)
    assert "units removed from 2 groups" in said.out
    assert "latency, median" in said.out
    assert "multiply-adds" in said.out


def test_report_as_json(small: Path) -> None:
    data = succeed("report", NET, small, *QUICK, "--json").data()
    assert set(data) == {"command", "model", "file", "removed_units", "report"}
    assert set(data["report"]["before"]) == MEASURED
    again = excise.load(small, net)
    assert data["report"]["after"]["params"] == excise.measure.params(again)


def test_help_says_what_each_command_does() -> None:
    said = succeed("--help")
    for command in ("inspect", "prune", "verify", "report", "demo"):
        assert command in said.out
    assert call().code != 0  # no command is a mistake, and shows the help


@pytest.mark.parametrize("command", ["inspect", "prune", "verify", "report", "demo"])
def test_every_command_takes_json(command: str) -> None:
    assert "--json" in succeed(command, "--help").out


def test_the_command_runs_in_a_process_of_its_own(tmp_path: Path) -> None:
    """And finds a factory beside it, prints one JSON object to stdout, and nothing else."""
    (tmp_path / "mine.py").write_text(
        "from torch import nn\n\n"
        "def net():\n"
        "    return nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 2))\n"
    )
    words = ["prune", "mine:net", "-i", "1x4", "--keep-macs", "0.5", "--no-latency", "--json"]
    done = subprocess.run(
        [sys.executable, "-m", "excise", *words],
        cwd=tmp_path,
        capture_output=True,
        check=False,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    data: dict[str, Any] = json.loads(done.stdout)
    assert data["removed_units"] == {"0.weight": 4}
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("budget", ["bytes", "peak-memory"])
def test_prune_to_bytes_and_to_peak_memory(budget: str) -> None:
    data = succeed("prune", NET, *QUICK, f"--keep-{budget}", 0.6, "--json").data()
    assert data["removed_units"]
    if budget == "bytes":
        assert 0.58 <= data["report"]["kept"]["in memory"] <= 0.62


@pytest.mark.usefixtures("paced")
def test_prune_to_a_speed() -> None:
    said = succeed("prune", NET, *INPUT, "--speedup", 1.3)
    assert "speed: " in said.out
    assert "times as fast" in said.out
