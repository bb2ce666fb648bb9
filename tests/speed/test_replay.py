"""Operations run alone, at widths that a cut would leave them, make what the axes predict."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import excise
from excise.measure.replay import Place, watched


class Wired(nn.Module):
    """A module with a function of its own."""

    def __init__(self, run: Any, **modules: nn.Module) -> None:
        super().__init__()
        self.parts = nn.ModuleDict(modules)
        self.run = run

    def forward(self, x: Tensor) -> Tensor:
        """Whatever it was given."""
        out: Tensor = self.run(self.parts, x)
        return out


def _grouped(m: Any, x: Tensor) -> Tensor:
    out: Tensor = m["last"](m["mid"](m["first"](x))).mean((2, 3))
    return out


def _cat(m: Any, x: Tensor) -> Tensor:
    out: Tensor = m["last"](torch.cat([m["a"](x), m["b"](x)], 1)).mean((2, 3))
    return out


def _attend(m: Any, x: Tensor) -> Tensor:
    q, k, v = (m[n](x).view(2, 5, 4, -1).transpose(1, 2) for n in "qkv")
    y = functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(2, 5, -1)
    out: Tensor = m["o"](y).mean(1)
    return out


def _conv(*args: Any, **kwargs: Any) -> nn.Module:
    return nn.Conv2d(*args, **kwargs)


IMAGE, WORDS = (2, 3, 8, 8), (2, 5, 12)
CASES: dict[str, tuple[Any, dict[str, nn.Module], tuple[int, ...], str]] = {
    "plain": (
        _grouped,
        {"first": _conv(3, 16, 3), "mid": nn.BatchNorm2d(16), "last": _conv(16, 4, 1)},
        IMAGE,
        "native_batch_norm",
    ),
    "depthwise": (
        _grouped,
        {"first": _conv(3, 16, 1), "mid": _conv(16, 16, 3, groups=16), "last": _conv(16, 4, 1)},
        IMAGE,
        "convolution",
    ),
    "grouped": (
        _grouped,
        {"first": _conv(3, 16, 1), "mid": _conv(16, 32, 3, groups=4), "last": _conv(32, 4, 1)},
        IMAGE,
        "convolution",
    ),
    "transposed": (
        _grouped,
        {"first": _conv(3, 16, 1), "mid": nn.ConvTranspose2d(16, 8, 2), "last": _conv(8, 4, 1)},
        IMAGE,
        "convolution",
    ),
    "transposed depthwise": (
        _grouped,
        {
            "first": _conv(3, 16, 1),
            "mid": nn.ConvTranspose2d(16, 16, 2, groups=16),
            "last": _conv(16, 4, 1),
        },
        IMAGE,
        "convolution",
    ),
    "transposed in groups": (
        _grouped,
        {
            "first": _conv(3, 16, 1),
            "mid": nn.ConvTranspose2d(16, 32, 2, groups=4),
            "last": _conv(32, 4, 1),
        },
        IMAGE,
        "convolution",
    ),
    "group norm": (
        _grouped,
        {"first": _conv(3, 16, 1), "mid": nn.GroupNorm(4, 16), "last": _conv(16, 4, 1)},
        IMAGE,
        "native_group_norm",
    ),
    "concatenation": (
        _cat,
        {"a": _conv(3, 8, 1), "b": _conv(3, 16, 1), "last": _conv(24, 4, 1)},
        IMAGE,
        "cat",
    ),
    "attention": (
        _attend,
        {n: nn.Linear(12 if n != "o" else 32, 32 if n != "o" else 4) for n in "qkvo"},
        WORDS,
        "scaled_dot_product_attention",
    ),
    "layer norm": (
        lambda m, x: m["last"](m["mid"](m["first"](x))).mean(1),
        {"first": nn.Linear(12, 16), "mid": nn.LayerNorm(16), "last": nn.Linear(16, 4)},
        WORDS,
        "native_layer_norm",
    ),
}


def _half(place: Place) -> list[int]:
    return [n // 2 for n in place.replay.widths]


def _places(case: str) -> list[Place]:
    run, modules, shape, _ = CASES[case]
    return watched(excise.trace(Wired(run, **modules).eval(), torch.randn(shape)))


@pytest.mark.parametrize("case", CASES)
def test_at_half_of_every_width(case: str) -> None:
    found = _places(case)
    wide = [place for place in found if place.replay.widths]
    assert CASES[case][3] in {place.replay.name for place in wide}
    assert any(w >= 0 for p in wide for _, widths in p.replay.outs for w in widths)
    for place in wide:
        for lengths in (place.replay.widths, _half(place)):
            out = place.replay.call(lengths)()
            assert place.replay.fits(out, lengths), place.replay.name
        if any(width >= 0 for _, widths in place.replay.outs for width in widths):
            assert not place.replay.fits(out, place.replay.widths)


def _convolution(case: str, weight: tuple[int, ...]) -> tuple[int, ...]:
    """The widths of the convolution with this weight."""
    found = [place.replay for place in _places(case) if place.replay.name == "convolution"]
    return next(r.widths for r in found if r.tensors[1].shape == weight)


def test_a_convolution_has_a_width_on_each_side() -> None:
    assert _convolution("plain", (16, 3, 3, 3)) == (16,)  # what goes in are the model's inputs
    assert _convolution("plain", (4, 16, 1, 1)) == (16,)  # and what comes out its outputs
    assert _convolution("transposed", (16, 8, 2, 2)) == (16, 8)
    assert _convolution("depthwise", (16, 1, 3, 3)) == (16,)  # one axis on both sides


def test_memory_layout_and_dtype_are_those_of_the_run() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU(), nn.Conv2d(8, 8, 1), nn.Flatten())
    model = model.to(torch.float64).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    x = torch.randn(2, 3, 4, 4, dtype=torch.float64).to(memory_format=torch.channels_last)
    place = next(p for p in watched(excise.trace(model.eval(), x)) if p.replay.name == "relu")
    made = place.replay.tensors[0].make([6])
    assert made.shape == (2, 6, 4, 4)
    assert made.dtype is torch.float64
    assert made.is_contiguous(memory_format=torch.channels_last)


def test_copies_take_time_too() -> None:
    """A trace has no copies: they change no axis."""

    def run(m: Any, x: Tensor) -> Tensor:
        out: Tensor = m["b"](m["a"](x).transpose(1, 2).contiguous().transpose(1, 2))
        return out

    model = Wired(run, a=nn.Linear(12, 16), b=nn.Linear(16, 4)).eval()
    copies = [
        p for p in watched(excise.trace(model, torch.randn(WORDS))) if p.replay.name == "copy_"
    ]
    assert [place.replay.widths for place in copies] == [(16,)]
    made = copies[0].replay.call([6])()
    assert sorted(made.shape) == [2, 5, 6]


def test_the_model_is_not_touched() -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 2)).eval()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    watched(excise.trace(model, torch.randn(3, 4)))
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
