"""The range coder: lossless, close to the entropy, and suspicious."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from excise.errors import PackedDataError
from excise.packing.rans import (
    BITS,
    Coded,
    bit_classes_of,
    bit_frequencies,
    decode,
    encode,
    frequencies_of,
)


@given(st.binary(max_size=9000), st.integers(1, 256))
def test_what_goes_in_comes_out(data: bytes, alphabet: int) -> None:
    values = np.frombuffer(data, np.uint8) % np.uint8(alphabet) if alphabet < 256 else (
        np.frombuffer(data, np.uint8)
    )  # fmt: skip
    coded = encode(values)
    assert int(coded.frequencies.sum(dtype=np.int64)) == 1 << BITS
    assert np.array_equal(decode(coded, len(values)), values)


@pytest.mark.parametrize("share", [0.5, 0.9, 0.99, 0.999])
def test_bits_of_a_mask_cost_their_entropy(share: float) -> None:
    source = np.random.default_rng(0)
    values = np.packbits(source.random(8 * 200_000) > share)
    limit = 200_000 * -(share * np.log2(share) + (1 - share) * np.log2(1 - share))
    assert encode(values).size <= 1.02 * limit + 300


@given(st.binary(max_size=3000))
def test_shares_by_the_number_of_bits_add_up_and_decode(data: bytes) -> None:
    values = np.frombuffer(data, np.uint8)
    shares = bit_frequencies(bit_classes_of(values))
    assert int(shares.sum(dtype=np.int64)) == 1 << BITS
    assert int(shares.min()) >= 1
    assert np.array_equal(decode(encode(values, shares), len(values)), values)


@pytest.mark.parametrize("share", [0.5, 0.8, 0.95])
def test_nine_shares_do_as_well_as_all_for_a_mask(share: float) -> None:
    values = np.packbits(np.random.default_rng(0).random(8 * 20_000) > share)
    few = encode(values, bit_frequencies(bit_classes_of(values))).size
    assert few <= 1.01 * encode(values).size  # which fits the noise, and needs a table for it


def test_one_value_costs_nothing() -> None:
    values = np.full(100_000, 7, np.uint8)
    coded = encode(values)
    assert coded.size <= 4 * (100_000 // 2048) + 64
    assert np.array_equal(decode(coded, 100_000), values)


def test_every_value_that_occurs_has_a_share() -> None:
    values = np.concatenate([np.zeros(1_000_000, np.uint8), np.arange(256, dtype=np.uint8)])
    shares = frequencies_of(values)
    assert int(shares.min()) == 1
    assert int(shares.sum(dtype=np.int64)) == 1 << BITS


def _damaged(coded: Coded, how: str) -> Coded:
    words, states = coded.words.copy(), coded.states.copy()
    if how == "a word":
        words[len(words) // 2] ^= 1
    if how == "a state":
        states[0] ^= 1 << 5
    if how == "short":
        words = words[:-1]
    if how == "long":
        words = np.append(words, np.uint16(0))
    return Coded(coded.frequencies, states, words)


@pytest.mark.parametrize("how", ["a word", "a state", "short", "long"])
def test_damage_is_noticed(how: str) -> None:
    source = np.random.default_rng(1)
    values = source.integers(0, 9, 20_000).astype(np.uint8)
    with pytest.raises(PackedDataError):
        decode(_damaged(encode(values), how), len(values))
