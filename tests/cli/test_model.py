"""Every form of MODEL, every form of weights, every form of input."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from excise.cli import input as example_input
from excise.cli.model import resolve
from excise.errors import RequestError
from tests.cli.call import INPUT, NET, succeed
from tests.cli.factory import MODEL, net

LLAMA = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 64,
    "max_position_embeddings": 64,
}


def _pruned(tmp_path: Path, model: str, *words: object) -> dict[str, Any]:
    """Prune, prove and report one model through its file."""
    path = tmp_path / "small.safetensors"
    words = (*words, "--json")
    options = ("--keep-params", 0.7, "--no-latency", "-o", path)
    pruned = succeed("prune", model, *options, *words).data()
    assert pruned["verdict"]["passed"]
    assert succeed("verify", model, path, *words).data()["verdict"]["passed"]
    report = succeed("report", model, path, "--no-latency", *words).data()["report"]
    assert report == pruned["report"]
    assert report["after"]["params"] <= 0.7 * report["before"]["params"]
    return pruned


def _needs(library: str) -> None:
    """Found, not imported: the command line has to manage that beside any build of torch."""
    if importlib.util.find_spec(library) is None:
        pytest.skip(f"{library} is not installed")


def test_torchvision(tmp_path: Path) -> None:
    _needs("torchvision")
    _pruned(tmp_path, "torchvision:squeezenet1_1", "-i", "1x3x64x64")


def test_timm(tmp_path: Path) -> None:
    _needs("timm")
    _pruned(tmp_path, "timm:resnet10t", "-i", "1x3x64x64")


@pytest.mark.parametrize("form", ["file", "folder"])
def test_transformers(form: str, tmp_path: Path) -> None:
    _needs("transformers")
    (tmp_path / "config.json").write_text(json.dumps(LLAMA))
    place = tmp_path / "config.json" if form == "file" else tmp_path
    data = _pruned(tmp_path, f"transformers:{place}")
    assert "logits" in str(data["verdict"]["outputs"])


def test_a_uniform_cut_fills_a_folder_that_transformers_reads(tmp_path: Path) -> None:
    _needs("transformers")
    (tmp_path / "config.json").write_text(json.dumps(LLAMA))
    folder = tmp_path / "small"
    folder.mkdir()
    place, words = f"transformers:{tmp_path}", ("--keep-params", 0.8, "--uniform", "--no-latency")
    data = succeed("prune", place, *words, "-o", folder, "--json").data()
    assert data["verdict"]["passed"]
    again = resolve(f"transformers:{folder}").model()  # from the files alone
    assert sum(p.numel() for p in again.parameters()) == data["report"]["after"]["params"]


def test_transformers_with_weights_of_its_own(tmp_path: Path) -> None:
    _needs("transformers")
    (tmp_path / "config.json").write_text(json.dumps(LLAMA))
    made = resolve(f"transformers:{tmp_path}").model()
    filled = {name: torch.full_like(value, 0.5) for name, value in made.state_dict().items()}
    save_file(filled, tmp_path / "model.safetensors", {"format": "pt"})
    source = resolve(f"transformers:{tmp_path}")
    assert all(bool((p == 0.5).all()) for p in source.model().parameters())
    assert not all(bool((p == 0.5).all()) for p in source.build().parameters())


def test_a_factory_in_a_module(tmp_path: Path) -> None:
    _pruned(tmp_path, NET, *INPUT)


def test_a_factory_in_a_file(tmp_path: Path) -> None:
    file = Path(__file__).with_name("factory.py")
    _pruned(tmp_path, f"{file}:net", *INPUT)


def test_a_module_instead_of_a_factory_is_copied() -> None:
    source = resolve("tests.cli.factory:MODEL")
    made = source.model()
    assert made is not MODEL
    assert torch.equal(made.state_dict()["0.weight"], MODEL.state_dict()["0.weight"])


def test_a_class_is_a_factory() -> None:
    assert isinstance(resolve("torch.nn:ReLU").model(), nn.ReLU)


@pytest.mark.parametrize("form", ["pt", "safetensors", "checkpoint", "parallel", "half"])
def test_weights(form: str, tmp_path: Path) -> None:
    torch.manual_seed(5)
    trained = net()
    state = trained.state_dict()
    path = tmp_path / ("w.safetensors" if form == "safetensors" else "w.pt")
    if form == "safetensors":
        save_file(state, path)
    else:
        saved: dict[str, Any] = {
            "pt": state,
            "half": {k: v.half() if v.is_floating_point() else v for k, v in state.items()},
            "checkpoint": {"state_dict": state, "epoch": 3},
            "parallel": {f"module.{name}": value for name, value in state.items()},
        }
        torch.save(saved[form], path)
    loaded = resolve(NET, path).model().state_dict()
    for name, value in state.items():
        torch.testing.assert_close(loaded[name], value, rtol=1e-3, atol=1e-3)
    data = _pruned(tmp_path, NET, *INPUT, "--weights", path)
    assert data["verdict"]["passed"]


def test_a_tied_weight_may_be_stored_once(tmp_path: Path) -> None:
    file = tmp_path / "tied.py"
    file.write_text(
        "from torch import nn\n\n"
        "def net():\n"
        "    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))\n"
        "    model[1].weight = model[0].weight\n"
        "    return model\n"
    )
    state = resolve(f"{file}:net").model().state_dict()
    state = {name: torch.ones_like(v) for name, v in state.items() if name != "1.weight"}
    save_file(state, tmp_path / "w.safetensors")
    loaded: Any = resolve(f"{file}:net", tmp_path / "w.safetensors").model()
    assert loaded[1].weight is loaded[0].weight
    assert torch.equal(loaded[1].weight, torch.ones(4, 4))


def test_random_weights_are_the_same_every_time_and_leave_the_seed_alone() -> None:
    before = torch.get_rng_state()
    one, two = resolve(NET).model(), resolve(NET).model()
    assert torch.equal(one.state_dict()["0.weight"], two.state_dict()["0.weight"])
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize(
    ("spec", "shape", "dtype", "name"),
    [
        ("1x3x8x8", (1, 3, 8, 8), torch.float32, None),
        ("7", (7,), torch.float32, None),
        ("float:2x3", (2, 3), torch.float32, None),
        ("long:1x16", (1, 16), torch.long, None),
        ("mask=bool:1x16", (1, 16), torch.bool, "mask"),
        ("input_ids=long:2x4", (2, 4), torch.long, "input_ids"),
    ],
)
def test_an_input_by_shape(
    spec: str, shape: tuple[int, ...], dtype: torch.dtype, name: str | None
) -> None:
    args, kwargs = example_input.example(nn.ReLU(), "x:y", [spec])
    value: Tensor = kwargs[name] if name else args[0]
    assert (tuple(value.shape), value.dtype) == (shape, dtype)
    again, _ = example_input.example(nn.ReLU(), "x:y", ["long:1x16"])
    assert again[0].max() < 10


def test_an_input_from_a_file(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.ones((2, 3), np.float32))
    torch.save(torch.zeros(4), tmp_path / "b.pt")
    specs = [str(tmp_path / "a.npy"), f"y={tmp_path / 'b.pt'}"]
    args, kwargs = example_input.example(nn.ReLU(), "x:y", specs)
    assert args[0].shape == (2, 3)
    assert torch.equal(kwargs["y"], torch.zeros(4))


def test_an_input_that_nobody_knows() -> None:
    with pytest.raises(RequestError, match="--input"):
        example_input.usual(nn.ReLU(), "mine:net")
