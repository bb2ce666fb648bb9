"""`excise shrink` and `excise explain`: masked weights come in, a small model goes out."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.utils import prune

import excise
from tests.cli.call import INPUT, NET, call, succeed
from tests.cli.factory import net

QUICK = (*INPUT, "--no-latency")


@pytest.fixture
def masked(tmp_path: Path) -> Path:
    """A checkpoint whose masks are still attached: three of eight filters, and not their biases."""
    torch.manual_seed(0)
    model = net()
    prune.ln_structured(model.get_submodule("0"), "weight", 3, n=1, dim=0)
    path = tmp_path / "masked.pt"
    torch.save(model.state_dict(), path)
    return path


def outputs(path: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """Of the masked network, and of the saved one."""
    model = net()
    prune.identity(model.get_submodule("0"), "weight")
    model.load_state_dict(torch.load(path.parent / "masked.pt"))
    small = excise.load(path, net)
    x = torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        return model.eval()(x), small.eval()(x)


def test_shrink_saves_a_small_model_that_computes_the_same(masked: Path) -> None:
    path = masked.parent / "small.safetensors"
    said = succeed("shrink", NET, *QUICK, "--weights", masked, "-o", path)
    assert "what was removed" in said.out
    assert "equal: worst relative difference" in said.out
    assert f"saved: {path}" in said.out.replace("\n", "")
    torch.testing.assert_close(*outputs(path), rtol=1e-5, atol=1e-6)


def test_shrink_as_json(masked: Path) -> None:
    path = masked.parent / "small.safetensors"
    data = succeed("shrink", NET, *QUICK, "--weights", masked, "-o", path, "--json").data()
    assert data["command"] == "shrink"
    assert data["saved"] == str(path)
    assert data["diagnosis"]["removed_units"] == {"0.weight": [2, 8]}
    assert data["diagnosis"]["carriers"] == 1
    assert data["bought"]["after"]["params"] < data["bought"]["before"]["params"]
    assert all(check["worst"] <= check["allowed"] for check in data["checks"])


def test_shrink_without_an_output_says_so(masked: Path) -> None:
    said = succeed("shrink", NET, *QUICK, "--weights", masked)
    assert "not saved: pass -o" in said.out
    assert "2 units of 1 axis" in said.out


def test_near_zeros_are_asked_for_by_atol(tmp_path: Path) -> None:
    model = net()
    with torch.no_grad():
        model.get_parameter("0.weight")[:3] *= 1e-8
    path = tmp_path / "near.pt"
    torch.save(model.state_dict(), path)
    words = ("shrink", NET, *QUICK, "--weights", path, "--json")
    assert succeed(*words).data()["diagnosis"]["removed_units"] == {}
    data = succeed(*words, "--atol", "1e-6").data()
    assert data["diagnosis"]["removed_units"] == {"0.weight": [2, 8]}
    assert data["flushed"] == 3 * 3 * 9
    assert 0 < data["measured_output_change"] < 1e-4


def test_explain_names_what_can_go_and_builds_nothing(masked: Path) -> None:
    said = succeed("explain", NET, *INPUT, "--weights", masked)
    assert "next: call excise.shrink" in said.out
    data = succeed("explain", NET, *INPUT, "--weights", masked, "--json").data()
    assert data["removed_units"] == {"0.weight": [2, 8]}
    assert data["layers"][0]["empty"] == 3
    assert list(masked.parent.iterdir()) == [masked]


def test_a_checkpoint_whose_mask_was_left_out_is_refused(tmp_path: Path) -> None:
    made: Any = import_module("torch.ao.pruning").WeightNormSparsifier(sparsity_level=0.5)
    model = net()
    made.prepare(model, [{"tensor_fqn": "7.weight"}])
    made.step()
    path = tmp_path / "unmerged.pt"
    torch.save(model.state_dict(), path)
    said = call("shrink", NET, *QUICK, "--weights", path)
    assert said.code == 2
    assert "7.weight without the mask" in said.err.replace("\n", " ")
    assert "squash_mask()" in said.err
    made.squash_mask()
    torch.save(model.state_dict(), path)
    succeed("shrink", NET, *QUICK, "--weights", path)


@pytest.mark.parametrize("command", ["shrink", "explain"])
@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ((NET, "--input", "2x4x8x8"), "does not run"),
        ((NET, *INPUT, "--atol", "-1"), "0 or above"),
        ((NET, *INPUT, "--atol", "nan"), "0 or above"),
        ((NET, *INPUT, "--weights", "nothing.pt"), "nothing.pt"),
        (("tests.cli.factory:number", *INPUT), "int"),
    ],
)
def test_what_cannot_be_met_is_refused_with_a_reason(
    command: str, words: tuple[str, ...], reason: str
) -> None:
    said = call(command, *words)
    assert said.code == 2
    assert reason in said.err.replace("\n", " ")
    assert not said.out
