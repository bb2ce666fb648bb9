"""Uniform cuts: repeated layers alike, configurations in step, and a reload without excise."""

from __future__ import annotations

import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

import excise
from excise.uniform import knobs
from tests.vision import declare_ops

TOKENS = torch.randint(3, 90, (1, 9), generator=torch.Generator().manual_seed(0))
ROOT = Path(__file__).parents[1]
SMALL = {
    "llama": {"hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 4, "head_dim": 16,
              "num_key_value_heads": 2, "num_hidden_layers": 3, "vocab_size": 99},
    "bert": {"hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 4,
             "num_hidden_layers": 2, "vocab_size": 99},
    "gpt2": {"n_embd": 64, "n_layer": 2, "n_head": 4, "vocab_size": 99, "n_positions": 32},
    "t5": {"d_model": 64, "d_kv": 16, "d_ff": 96, "num_layers": 2, "num_heads": 4,
           "vocab_size": 99},
    "mixtral": {"hidden_size": 64, "intermediate_size": 64, "num_attention_heads": 4,
                "num_key_value_heads": 2, "num_hidden_layers": 2, "num_local_experts": 4,
                "num_experts_per_tok": 2, "vocab_size": 99},
}  # fmt: skip
RELOAD = """
import sys, torch
sys.modules["excise"] = None  # importing it fails
from tests.vision import declare_ops
declare_ops()
import transformers
folder, name = sys.argv[1:]
model = getattr(transformers, name).from_pretrained(folder).eval()
given, wanted = torch.load(folder + "/given.pt")
with torch.no_grad():
    assert torch.equal(model(**given)[0], wanted), "another output"
print("equal")
"""


def small(kind: str) -> tuple[Any, dict[str, Any]]:
    """A small model of transformers with noise in every parameter, and its input."""
    declare_ops()
    transformers = pytest.importorskip("transformers")
    config = transformers.AutoConfig.for_model(kind, **SMALL[kind], use_cache=False)
    torch.manual_seed(0)
    auto = "AutoModelForSeq2SeqLM" if kind == "t5" else "AutoModelForCausalLM"
    auto = "AutoModelForMaskedLM" if kind == "bert" else auto
    model = getattr(transformers, auto).from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape))
    given = {"input_ids": TOKENS}
    return model, {**given, "decoder_input_ids": TOKENS[:, :5]} if kind == "t5" else given


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", SMALL)
def test_a_uniform_cut_reloads_without_excise(kind: str, tmp_path: Path) -> None:
    model, given = small(kind)
    graph = excise.trace(model, **given)
    keep = 0.59 if kind == "gpt2" else 0.7  # so few heads leave few sizes
    plan = excise.plan(graph, excise.scores.magnitude(model, graph), keep_params=keep, uniform=True)
    changed = {a.attribute: a.after for a in plan.attributes if a.attribute.startswith("config.")}
    assert changed
    cut = excise.remove(model, plan)
    excise.verify(model, cut, plan, **given).check()
    for path, value in changed.items():
        assert getattr(cast("Any", cut).config, path.removeprefix("config.")) == value
        assert getattr(model.config, path.removeprefix("config.")) != value
    cast("Any", cut).save_pretrained(tmp_path)
    with torch.no_grad():
        output = cast("Any", cut)(**given)[0]
        torch.save((given, output), tmp_path / "given.pt")
    command = [sys.executable, "-c", RELOAD, str(tmp_path), type(cut).__name__]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.stdout.strip() == "equal", done.stderr[-2000:]


@pytest.mark.filterwarnings("ignore")
def test_a_cut_that_is_not_uniform_does_not_reload(tmp_path: Path) -> None:
    """Meta-test: without `uniform` the same check fails."""
    model, given = small("llama")
    graph = excise.trace(model, **given)
    plan = excise.plan(graph, excise.scores.random(model, graph), keep_params=0.5)
    cut = excise.remove(model, plan)
    cast("Any", cut).save_pretrained(tmp_path)
    with torch.no_grad():
        output = cast("Any", cut)(**given)[0]
        torch.save((given, output), tmp_path / "given.pt")
    command = [sys.executable, "-c", RELOAD, str(tmp_path), type(cut).__name__]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode != 0
    assert "size mismatch" in done.stderr or "mismatch" in done.stderr or "shape" in done.stderr


@pytest.mark.filterwarnings("ignore")
def test_the_constructor_is_asked_and_left_alone() -> None:
    model, given = small("llama")
    before, state = model.config.to_dict(), torch.random.get_rng_state()
    found = {key for knob in knobs(excise.trace(model, **given)) for key, _, _ in knob.keys}
    assert {"config.hidden_size", "config.intermediate_size"} <= found
    assert model.config.to_dict() == before
    assert torch.equal(torch.random.get_rng_state(), state)


class Layered(nn.Module):
    """Three blocks of the same shape, and no configuration."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Linear(6, 16), nn.Linear(16, 3)
        self.layers = nn.ModuleList(
            nn.Sequential(nn.Linear(16, 40), nn.GELU(), nn.Linear(40, 16)) for _ in range(3)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Residual blocks."""
        x = self.stem(x)
        for layer in self.layers:
            x = x + layer(x)
        return self.head(x)  # type: ignore[no-any-return]


def _widths(model: nn.Module, *, uniform: bool) -> dict[str, set[int]]:
    x = torch.randn(2, 6)
    graph = excise.trace(model, x)
    scores = excise.scores.random(model, graph)
    plan = excise.plan(graph, scores, keep_params=0.6, uniform=uniform)
    cut = excise.remove(model, plan)
    excise.verify(model, cut, plan, x).check()
    found = defaultdict(set)
    for name, parameter in cut.named_parameters():
        if name.endswith("0.weight") and name.startswith("layers."):
            found["hidden"].add(parameter.shape[0])
    return found


def test_repeated_layers_stay_alike_without_a_configuration() -> None:
    torch.manual_seed(0)
    model = Layered()
    assert len(_widths(model, uniform=True)["hidden"]) == 1
    assert len(_widths(model, uniform=False)["hidden"]) > 1


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors:UserWarning")
def test_a_tensor_without_elements_says_nothing() -> None:
    """MobileBERT's head has a weight for the difference of two widths, which may be equal."""
    declare_ops()
    transformers = pytest.importorskip("transformers")
    config = transformers.MobileBertConfig(
        vocab_size=99, hidden_size=64, embedding_size=64, intermediate_size=96,
        true_hidden_size=32, intra_bottleneck_size=32, num_hidden_layers=2, num_attention_heads=4,
    )  # fmt: skip
    torch.manual_seed(0)
    model = transformers.MobileBertForMaskedLM(config).eval()
    assert [p for p in model.parameters() if not p.numel()]
    graph = excise.trace(model, input_ids=TOKENS)
    scores = excise.scores.magnitude(model, graph)
    assert excise.plan(graph, scores, keep_params=0.7, uniform=True).removed
