"""Whole branches, from the command line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from excise.files import read_plan
from tests.cli.call import INPUT, call, succeed

NET = "tests.cli.factory:residual"


@pytest.fixture
def images(tmp_path: Path) -> Path:
    path = tmp_path / "images.npy"
    np.save(path, torch.randn(60, 3, 8, 8).numpy())
    return path


def test_inspect_names_branches() -> None:
    assert "may go" in succeed("inspect", NET, *INPUT).out
    data = succeed("inspect", NET, *INPUT, "--json").data()["branches"]
    assert data["removable"][0] == {"name": "blocks.0", "modules": ["blocks.0"]}
    assert data["refused"] == []


def test_prune_with_depth(images: Path, tmp_path: Path) -> None:
    path = tmp_path / "s.safetensors"
    words = ("prune", NET, *INPUT, "--no-latency", "--keep-macs", 0.55, "--calibration", images)
    data = succeed(*words, "--depth", "-o", path, "--json").data()
    assert data["removed_branches"]
    assert set(data["removed_branches"]) <= {"blocks.1", "blocks.2"}
    assert [b.name for b in read_plan(path).branches] == data["removed_branches"]
    assert data["verdict"]["passed"] is True
    assert "branches removed: blocks." in succeed(*words, "--depth").out
    assert "refitted" in call("verify", NET, path, *INPUT).out
    assert "branches" in succeed("report", NET, path, *INPUT, "--no-latency").out
    assert "removed_branches" not in succeed(*words, "--json").data()


@pytest.mark.parametrize(
    ("words", "mentions"),
    [
        (("--depth",), "--calibration"),
        (("--depth", "--calibration", "images.txt"), "no .npy or .pt file"),
        (("--calibration", "no.npy"), "cannot be read"),
        (("--calibration", "IMAGES", "--calibration", "x=IMAGES"), "names"),
        (("--calibration", "IMAGES", "--depth", "--criterion", "l1"), "cost curves"),
        (("--calibration", "IMAGES", "--depth", "--uniform"), "uniform"),
    ],
)
def test_refusals(words: tuple[str, ...], mentions: str, images: Path) -> None:
    given = (word.replace("IMAGES", str(images)) for word in words)
    said = call("prune", NET, *INPUT, "--no-latency", "--keep-macs", 0.5, *given)
    assert said.code == 2
    assert mentions in said.err
