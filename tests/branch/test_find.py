"""Which residual branches can go, and which have to stay, with the reason."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import excise
from excise.branch import branches, shorter
from excise.layers import Bypass
from tests.branch.network import IMAGE, ROWS, Residual, Transformer, seeded
from tests.vision import declare_ops


def names(model: nn.Module, *args: Any, **kwargs: Any) -> list[str]:
    return [b.name for b in branches(excise.trace(model, *args, **kwargs)).found]


def reasons(model: nn.Module, *args: Any, **kwargs: Any) -> dict[str, str]:
    found = branches(excise.trace(model, *args, **kwargs)).refused
    return {each.name: each.reason for each in found}


def test_a_block_that_returns_the_sum_becomes_the_identity() -> None:
    found = branches(excise.trace(seeded(Residual), IMAGE))
    assert [b.name for b in found.found] == [f"blocks.{i}" for i in range(4)]
    assert not found.refused
    assert {m.makes for b in found.found for m in b.modules} == {"identity"}


def test_modules_in_a_row_hand_on_and_the_last_one_makes_zeros() -> None:
    found = branches(excise.trace(seeded(Transformer), ROWS)).found
    assert [b.name for b in found[:2]] == ["layers.0.attn", "layers.0.down"]
    attention, mlp = (b.modules for b in found[:2])
    assert [tuple(m) for m in attention] == [
        ("layers.0.norm1", "identity", 0, 0, 0),
        ("layers.0.attn", "zeros", "hidden", 2, 0),
    ]
    assert [m.module.split(".")[-1] for m in mlp] == ["norm2", "up", "down"]


def test_weights_that_are_returned_hold_a_branch() -> None:
    model = seeded(lambda: Transformer(told=True))
    assert "layers.0.attn" not in names(model, ROWS)
    assert "layers.1.attn" in names(model, ROWS)
    assert "it is a model output ([1])" in reasons(model, ROWS)["layers.0.attn.proj"]


class Wrapped(nn.Module):
    """A model that calls what `make` gives on a stream, and adds it."""

    def __init__(self, inner: nn.Module, how: Any) -> None:
        super().__init__()
        self.stem, self.inner, self.head = nn.Linear(4, 6), inner, nn.Linear(6, 2)
        self.how = how

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102 - the class says it
        out: Tensor = self.head(self.how(self.stem(x), self.inner))
        return out


def _twice(x: Tensor, inner: nn.Module) -> Any:
    return x + inner(x + inner(x)) * 0.5


def _shared(x: Tensor, inner: nn.Module) -> Any:
    more = inner(x)
    return (x + more) * more.sigmoid()


def _shifted(x: Tensor, inner: nn.Module) -> Any:
    return x + (inner(x) + 1.0)


def _asked(x: Tensor, inner: Any) -> Any:
    return x + inner(x.to(inner.weight.dtype))


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        (_twice, "is called 2 times"),
        (_shared, "is used elsewhere"),
        (_shifted, "add after inner may make something of zeros"),
        (_asked, "object has no attribute 'weight'"),
    ],
)
def test_what_holds_a_branch_is_said(how: Any, reason: str) -> None:
    model = Wrapped(nn.Linear(6, 6), how)
    assert not names(model, torch.randn(3, 4))
    assert any(reason in found for found in reasons(model, torch.randn(3, 4)).values())


def test_a_module_of_two_names_stays() -> None:
    model = Wrapped(nn.Linear(6, 6), lambda x, inner: x + inner(x))
    assert names(model, torch.randn(3, 4)) == ["inner"]
    model.again = model.inner
    assert "another name" in reasons(model, torch.randn(3, 4))["inner"]


@pytest.mark.parametrize(
    "how",
    [
        lambda x, _: x + x.relu(),  # without a weight there is nothing to remove
        lambda x, inner: inner(x) + x.new_ones(6),  # not of one shape
        lambda x, inner: inner(x) - x,  # no addition
        lambda x, inner: inner(x) + inner(x.flip(0)),  # neither is made of the other
    ],
)
def test_other_additions_are_no_branches(how: Any) -> None:
    model = Wrapped(nn.Linear(6, 6), how)
    found = branches(excise.trace(model, torch.randn(3, 4)))
    assert not found.found
    assert not found.refused


def test_a_relu_after_what_can_be_negative_is_no_identity() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 1), *Residual(2).blocks).eval()
    assert names(model, IMAGE) == ["1.bn2", "2"]  # behind the first block nothing is negative
    (first, _) = branches(excise.trace(model, IMAGE)).found
    assert [m.makes for m in first.modules] == ["identity"] * 3 + ["zeros"]


def test_a_branch_that_holds_others_stays() -> None:
    model: Any = Wrapped(Residual(2).blocks, lambda x, blocks: (blocks(x.relu_()) + x).relu())
    model.stem, model.head = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 2, 1)
    assert names(model, IMAGE) == ["inner.0", "inner.1"]
    assert "holds branches" in str(reasons(model, IMAGE))


def test_a_model_in_training_has_the_same_branches() -> None:
    assert names(seeded(Residual).train(), IMAGE) == [f"blocks.{i}" for i in range(4)]


def test_the_model_without_is_traced_and_compared() -> None:
    graph = excise.trace(seeded(Transformer), ROWS)
    found = branches(graph).found
    less = shorter(graph, found[:1])
    assert not less.problem
    assert isinstance(less.graph.stage.model.get_submodule("layers.0.attn"), Bypass)
    assert not isinstance(graph.stage.model.get_submodule("layers.0.attn"), Bypass)
    ops, left = graph.trace.ops, less.graph.trace.ops
    assert [n for n in less.numbers if n < 0] == [-1]
    pairs = zip(less.numbers, left, strict=True)
    assert all(op.name == (ops[n].name if n >= 0 else "zeros_like") for n, op in pairs)
    assert less.graph.macs() < graph.macs()


def test_torchvision_and_timm() -> None:
    declare_ops()
    vision, timm = pytest.importorskip("torchvision"), pytest.importorskip("timm")
    resnet = vision.models.resnet18(weights=None).eval()
    found = ["layer1.0", "layer1.1", "layer2.1", "layer3.1", "layer4.1"]
    assert names(resnet, torch.randn(1, 3, 32, 32)) == found  # others change the width
    vit = timm.create_model("vit_tiny_patch16_224", depth=2, img_size=32, embed_dim=24).eval()
    found = [f"blocks.{i}.{kind}" for i in range(2) for kind in ("attn", "mlp")]
    assert names(vit, torch.randn(1, 3, 32, 32)) == found


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_language_models_and_their_caches(family: str) -> None:
    tr = pytest.importorskip("transformers")
    small: dict[str, Any] = {"vocab_size": 50, "bos_token_id": 1, "eos_token_id": 2}
    config = {
        "gpt2": lambda: tr.GPT2Config(n_embd=16, n_layer=2, n_head=2, n_positions=32, **small),
        "llama": lambda: tr.LlamaConfig(
            hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
            num_key_value_heads=1, **small
        ),
    }[family]()  # fmt: skip
    model = tr.AutoModelForCausalLM.from_config(config).eval()
    ids = torch.randint(0, 50, (1, 7))
    assert len(names(model, input_ids=ids, use_cache=False)) == 4
    assert all("mlp" in name for name in names(model, input_ids=ids, use_cache=True))
    held = reasons(model, input_ids=ids, use_cache=True)
    assert len(held) == 2
    assert all("past_key_values" in reason for reason in held.values())
