"""Packed tensors: bit for bit what went in, smaller, and refused when damaged."""

from __future__ import annotations

import copy
import math
import tracemalloc
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from excise.errors import InvalidTargetError, PackedDataError
from excise.packing import LAYOUTS, Packed, pack, parsed, size_of, text_of, unpack
from excise.packing.pack import checksum
from excise.packing.word import DTYPES

SHAPES = [(), (0,), (1,), (7,), (3, 0), (5, 3), (16, 64), (8, 4, 3, 3), (16, 16, 1, 1)]


def _bits(tensor: Tensor) -> list[int]:
    flat = tensor.contiguous().reshape(-1)
    return list(flat.view(torch.uint8).tolist()) if flat.numel() else []


def _sparse(shape: tuple[int, ...], dtype: torch.dtype, zeros: float, seed: int = 0) -> Tensor:
    source = torch.Generator().manual_seed(seed)
    values = torch.randn(shape, generator=source) * 50
    kept = torch.rand(shape, generator=source) >= zeros
    real = values.to(dtype) if not dtype.is_complex else torch.complex(values, -values)
    return torch.where(kept, real, torch.zeros((), dtype=real.dtype)).to(dtype)


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
@pytest.mark.parametrize("layout", ["auto", *LAYOUTS])
def test_the_round_trip_is_bit_exact(dtype: torch.dtype, layout: str) -> None:
    for shape in SHAPES:
        for zeros in (0.0, 0.5, 0.97, 1.0):
            tensor = _sparse(shape, dtype, zeros)
            packed = pack(tensor, layout, signed_zeros=True)
            if packed is None:
                continue
            entry = parsed(text_of(packed.entry))
            again = unpack(entry, packed.data)
            assert again.dtype == dtype
            assert again.shape == tensor.shape
            assert _bits(again) == _bits(tensor)
            assert size_of(entry) == tensor.numel() * tensor.element_size()


@pytest.mark.parametrize("layout", ["planes", "bitmask", "nm", "block"])
def test_more_than_a_chunk_and_more_than_a_lane(layout: str) -> None:
    tensor = _sparse((16, 70_000), torch.float16, 0.9)
    if layout == "nm":
        tensor.view(-1, 4)[:, 2:] = 0
    packed = pack(tensor, layout, signed_zeros=True)
    assert packed is not None
    assert torch.equal(unpack(packed.entry, packed.data), tensor)


def test_every_layout_applies_somewhere() -> None:
    tensor = _sparse((16, 64), torch.float32, 0.5)
    tensor.view(-1, 4)[:, 2:] = 0
    for layout in LAYOUTS:
        assert pack(tensor, layout) is not None
    assert pack(tensor[:, :61].contiguous() + 1, "nm") is None
    assert pack(torch.zeros(2, 70_000), "csr16") is None
    assert pack(torch.empty(3, 4, device="meta")) is None
    assert pack(torch.eye(3).to_sparse()) is None


@given(st.lists(st.integers(0, 2**32 - 1), max_size=300), st.sampled_from([*LAYOUTS]))
def test_any_bits_survive(values: list[int], layout: str) -> None:
    """Subnormal numbers, infinities, every NaN."""
    tensor = torch.from_numpy(np.array(values, np.uint32).view(np.float32))
    packed = pack(tensor, layout, signed_zeros=True)
    if packed is not None:
        assert _bits(unpack(packed.entry, packed.data)) == _bits(tensor)


def test_negative_zeros_become_zeros_unless_they_are_to_stay() -> None:
    tensor = torch.tensor([[0.0, -0.0, 1.0, -2.0] * 50])
    default, kept = pack(tensor, "bitmask"), pack(tensor, "bitmask", signed_zeros=True)
    assert default is not None
    assert kept is not None
    assert default.entry["options"] == {"nonzeros": 100}
    assert kept.entry["options"] == {"nonzeros": 150}
    again = unpack(default.entry, default.data)
    assert torch.equal(again, tensor)
    assert not bool(torch.signbit(again[tensor == 0]).any())
    assert _bits(unpack(kept.entry, kept.data)) == _bits(tensor)
    assert bool(torch.signbit(tensor[0, 1])), "the tensor is not touched"


def _entropy(values: np.ndarray[Any, np.dtype[np.uint8]]) -> float:
    shares = np.bincount(values, minlength=256) / max(1, len(values))
    shares = shares[shares > 0]
    return float(-(shares * np.log2(shares)).sum()) * len(values) / 8


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("zeros", [0.5, 0.7, 0.8, 0.9, 0.95])
def test_within_four_percent_of_the_entropy(dtype: torch.dtype, zeros: float) -> None:
    """The entropy of the mask, and of each byte of the values on its own."""
    weight = torch.randn(768, 768, generator=torch.Generator().manual_seed(0)) * 0.02
    limit = weight.abs().flatten().kthvalue(int(zeros * weight.numel())).values
    tensor = (weight * (weight.abs() > limit)).to(dtype)
    packed = pack(tensor)
    assert packed is not None
    values = tensor[tensor != 0].view(torch.uint8).view(-1, tensor.element_size()).numpy()
    share = len(values) / tensor.numel()
    mask = -(share * math.log2(share) + (1 - share) * math.log2(1 - share)) * tensor.numel() / 8
    least = mask + sum(_entropy(np.ascontiguousarray(column)) for column in values.T)
    assert len(packed.data) + len(text_of(packed.entry)) <= 1.04 * least


def test_structured_zeros_cost_next_to_nothing() -> None:
    tensor = torch.randn(256, 256, generator=torch.Generator().manual_seed(0))
    tensor[::2] = 0
    packed = pack(tensor)
    assert packed is not None
    assert len(packed.data) <= 1.01 * tensor.numel() * 4 * 0.5 * 0.9


def test_a_dense_tensor_of_noise_stays_as_it_is() -> None:
    source = torch.Generator().manual_seed(0)
    assert pack(torch.randint(0, 256, (64, 64), generator=source).to(torch.uint8)) is None
    packed = pack(torch.randn(64, 64, generator=source))
    assert packed is not None
    assert packed.entry["layout"] == "planes"


def test_an_unknown_layout_is_refused() -> None:
    with pytest.raises(InvalidTargetError, match="bitmask"):
        pack(torch.zeros(3), "coo")


def _made(layout: str) -> Packed:
    tensor = _sparse((32, 64), torch.float32, 0.6)
    tensor.view(-1, 4)[:, 2:] = 0
    packed = pack(tensor, layout)
    assert packed is not None
    return packed


_OTHER = {"raw": "rans", "rans": "deflate", "deflate": "bits", "bits": "raw"}
ENTRIES: dict[str, Any] = {
    "no entry": lambda _: None,
    "a list": lambda _: [],
    "a field less": lambda e: {k: v for k, v in e.items() if k != "crc"},
    "a field more": lambda e: e | {"more": 1},
    "an unknown layout": lambda e: e | {"layout": "coo"},
    "a layout that is a list": lambda e: e | {"layout": str([])},
    "an unknown dtype": lambda e: e | {"dtype": "F128"},
    "a negative length": lambda e: e | {"shape": [-32, -64]},
    "a length that is a float": lambda e: e | {"shape": [32.0, 64]},
    "a length that is true": lambda e: e | {"shape": [True, 2048]},
    "lengths that overflow": lambda e: e | {"shape": [2**40, 2**40]},
    "another shape": lambda e: e | {"shape": [32, 65]},
    "a longer shape": lambda e: e | {"shape": [32, 64, 2]},
    "other options": lambda e: e | {"options": {"k": 1}},
    "options of text": lambda e: e | {"options": dict.fromkeys(e["options"] or ["k"], "1")},
    "large options": lambda e: e | {"options": dict.fromkeys(e["options"] or ["k"], 10**30)},
    "options of zero": lambda e: e | {"options": dict.fromkeys(e["options"] or ["k"], 0)},
    "no sections": lambda e: e | {"sections": []},
    "sections of text": lambda e: e | {"sections": "raw"},
    "a section too many": lambda e: e | {"sections": [*e["sections"], ["raw", 0]]},
    "a section too few": lambda e: e | {"sections": e["sections"][:-1]},
    "an unknown coder": lambda e: e | {"sections": [["lzma", s] for _, s in e["sections"]]},
    "another coder": lambda e: e | {"sections": [[_OTHER[c], s] for c, s in e["sections"]]},
    "a longer section": lambda e: e | {"sections": [[c, s + 1] for c, s in e["sections"]]},
    "another checksum": lambda e: e | {"crc": e["crc"] ^ 1},
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("damage", ENTRIES)
def test_a_damaged_entry_is_refused(layout: str, damage: str) -> None:
    packed = _made(layout)
    assert unpack(packed.entry, packed.data) is not None
    with pytest.raises(PackedDataError):
        unpack(ENTRIES[damage](copy.deepcopy(packed.entry)), packed.data)


TEXTS = [
    "", "bitmask", "bitmask F32 2x2 nonzeros=1 raw:1", "bitmask F32 2x2 nonzeros=1 raw:1 123",
    "coo F32 2 - raw:8 00000000", "planes F32 2,2 - raw:8 00000000",
    "planes F32 2 - raw:8 00000000 ", "planes F32 -2 - raw:8 00000000",
    "planes F32 2 n=1 raw:8 00000000", "bitmask F32 2 nonzeros=3 raw:8 00000000",
    "planes F32 99999999999999999999 - raw:8 00000000",
    "planes F32 9999999x9999999 - raw:8 00000000", "planes F32 2 - raw:8 0000000g",
    "planes F32 " + "1x" * 4000 + "1 - raw:8 00000000",
]  # fmt: skip


@pytest.mark.parametrize("text", [*TEXTS, None, 3, {}])
def test_a_text_that_is_no_entry_is_refused(text: Any) -> None:
    with pytest.raises(PackedDataError):
        parsed(text)


@settings(max_examples=300)
@given(st.data(), st.sampled_from([*LAYOUTS]))
def test_no_damage_crashes_or_takes_more_than_twice_the_room(data: Any, layout: str) -> None:
    """Bytes and numbers of the entry are changed, and the checksum made to agree."""
    packed = _made(layout)
    raw, entry = bytearray(packed.data), copy.deepcopy(packed.entry)
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    if data.draw(st.booleans()):
        place = data.draw(st.integers(0, len(entry["sections"]) - 1))
        entry["sections"][place][0] = data.draw(st.sampled_from(["raw", "rans", "bits", "deflate"]))
    if data.draw(st.booleans()) and entry["options"]:
        key = data.draw(st.sampled_from(sorted(entry["options"])))
        entry["options"][key] = data.draw(st.integers(0, 4096))
    entry["crc"] = checksum(entry, bytes(raw))
    tracemalloc.start()
    try:
        found = unpack(entry, bytes(raw))
        assert list(found.shape) == entry["shape"]
    except PackedDataError:
        pass
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak <= 2 * (32 * 64 * 4) + 200_000  # constant tables, and the trace itself
