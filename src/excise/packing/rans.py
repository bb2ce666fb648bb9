"""Range coding of bytes with fixed frequencies: within a thousandth of their entropy.

Asymmetric numeral systems with many states side by side ("lanes"), so that plain numpy codes one
byte of every lane in each step. Byte `i` belongs to lane `i % lanes`.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from excise.errors import PackedDataError

BITS = 14
"""Frequencies are shares of 2**BITS."""
_TOTAL = 1 << BITS
_LOW = 1 << 16
"""A state is in [_LOW, _LOW << 16) between two bytes, and exactly _LOW before the first."""
_PER_LANE = 2048
"""Bytes for which a lane's state, four bytes, is worth it."""

Bytes = npt.NDArray[np.uint8]
_SET = np.array([i.bit_count() for i in range(256)])
_CHOOSE = np.bincount(_SET)


class Coded(NamedTuple):
    """Bytes as the coder leaves them.

    Attributes:
        frequencies: of each of the 256 values, adding up to 2**BITS.
        states: the state of each lane from which decoding starts, uint32.
        words: what the states shed, uint16, in the order in which decoding takes it in.
    """

    frequencies: npt.NDArray[np.uint16]
    states: npt.NDArray[np.uint32]
    words: npt.NDArray[np.uint16]

    @property
    def size(self) -> int:
        """Bytes of the states and words."""
        return self.states.nbytes + self.words.nbytes


def lanes_for(count: int) -> int:
    """How many lanes code so many bytes."""
    return max(1, count // _PER_LANE)


def frequencies_of(values: Bytes) -> npt.NDArray[np.uint16]:
    """Shares of 2**BITS, at least 1 for every value that occurs."""
    counts = np.bincount(values, minlength=256).astype(np.int64)
    if not values.size:
        counts[0] = 1
    shares = np.where(counts > 0, np.maximum(1, counts * _TOTAL // counts.sum()), 0)
    shares[int(np.argmax(shares))] += _TOTAL - int(shares.sum())
    if shares.max() >= _TOTAL:  # one value only: the other half of the scale is never used
        shares[int(np.argmax(shares))] = _TOTAL - 1
        shares[(int(np.argmax(shares)) + 1) % 256] = 1
    return shares.astype(np.uint16)


def bit_frequencies(classes: npt.NDArray[np.uint16]) -> npt.NDArray[np.uint16]:
    """Shares of all bytes from those of a byte with 0, 1, ... 8 bits set."""
    found: npt.NDArray[np.uint16] = classes[_SET]
    return found


def bit_classes_of(values: Bytes) -> npt.NDArray[np.uint16]:
    """Shares of a byte with 0, 1, ... 8 bits set, so that those of all 256 bytes add up.

    A mask of bits that do not depend on each other needs no more, and nine numbers take less room
    than 256.
    """
    counts = np.bincount(_SET[values], minlength=9).astype(np.float64)
    each = np.maximum(1, np.floor(_TOTAL * counts / max(1.0, counts.sum()) / _CHOOSE))
    spare = _TOTAL - int((each * _CHOOSE).sum())
    for k in np.argsort(-each * _CHOOSE):  # the least share of 1 took too much
        step = min(int(each[k]) - 1, max(0, -(spare // int(_CHOOSE[k]))))
        each[k], spare = each[k] - step, spare + step * int(_CHOOSE[k])
    for k in np.argsort(-each):  # what rounding left
        step = spare // int(_CHOOSE[k])
        each[k], spare = each[k] + step, spare - step * int(_CHOOSE[k])
    each[0] += spare  # of one byte only
    found: npt.NDArray[np.uint16] = each.astype(np.uint16)
    return found


def encode(values: Bytes, frequencies: npt.NDArray[np.uint16] | None = None) -> Coded:
    """Code bytes with the frequencies that they have, or with given ones.

    Source:
        Duda, "Asymmetric numeral systems", 2013, arXiv 1311.2540 (rANS); the lanes as in Giesen,
        "Interleaved entropy coders", 2014, arXiv 1402.3392, with one stream of words for all.
    """
    frequencies = frequencies_of(values) if frequencies is None else frequencies
    lanes, wide = lanes_for(values.size), frequencies.astype(np.uint64)
    starts = np.concatenate([[0], np.cumsum(wide)[:-1]]).astype(np.uint64)
    states = np.full(lanes, _LOW, dtype=np.uint64)
    shed: list[npt.NDArray[np.uint16]] = []
    for first in range((max(0, values.size - 1)) // lanes * lanes, -1, -lanes):
        row = values[first : first + lanes]
        live = states[: row.size]
        share = wide[row]
        full = live >= share << (32 - BITS)
        if full.any():
            shed.append((live[full] & 0xFFFF).astype(np.uint16))
            live[full] >>= 16
        live[:] = ((live // share) << BITS) + live % share + starts[row]
    words = np.concatenate(shed[::-1]) if shed else np.zeros(0, np.uint16)
    return Coded(frequencies, states.astype(np.uint32), words)


def decode(coded: Coded, count: int) -> Bytes:
    """The bytes again.

    Raises:
        PackedDataError: words are missing or left over, or the states do not end where they began.
    """
    wide = coded.frequencies.astype(np.uint32)
    starts = (np.cumsum(wide) - wide).astype(np.uint32)
    symbols = np.repeat(np.arange(256, dtype=np.uint8), wide)
    states, words, lanes = coded.states.copy(), coded.words, len(coded.states)
    out = np.empty(count, np.uint8)
    taken = 0
    for first in range(0, count, lanes):
        row = out[first : first + lanes]
        live = states[: row.size]
        slot = live & (_TOTAL - 1)
        row[:] = symbols[slot]
        live[:] = wide[row] * (live >> BITS) + slot - starts[row]
        empty = np.flatnonzero(live < _LOW)
        if empty.size:
            if taken + empty.size > words.size:
                raise PackedDataError("it ends too early")
            live[empty] = (live[empty] << 16) | words[taken : taken + empty.size]
            taken += empty.size
    if taken != words.size or bool((states != _LOW).any()):
        raise PackedDataError("it does not end where it began")
    return out
