"""Files that cannot be written, and files that are not what they should be."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import excise
from excise.errors import (
    CorruptFileError,
    ForeignFileError,
    InvalidTargetError,
    NewerFileError,
    PackedDataError,
    PlanFormatError,
    StalePlanError,
    UnsupportedModelError,
)
from excise.files.format import PACKED_KEY, PLAN_KEY, TIES_KEY, VERSION_KEY
from excise.packing import pack, parsed, text_of, unpack
from tests.errors.bench import Act, Bench, Case, Net


class Extra(Net):
    """Keeps state that is no tensor."""

    def get_extra_state(self) -> dict[str, int]:
        """A dict."""
        return {"steps": 3}

    def set_extra_state(self, state: Any) -> None:
        """Ignore it."""
        del state


def _saved(model: Callable[[Bench], Any], plan: Callable[[Bench], Any]) -> Callable[[Bench], Act]:
    def ready(bench: Bench) -> Act:
        what, how = model(bench), plan(bench)
        return lambda: excise.save(what, how, bench.folder / "x.safetensors")

    return ready


def _to(place: Callable[[Path], Any]) -> Callable[[Bench], Act]:
    def ready(bench: Bench) -> Act:
        small, plan, path = bench.small, bench.plan, place(bench.folder)
        return lambda: excise.save(small, plan, path)

    return ready


def _extra(bench: Bench) -> Act:
    bench.model = Extra()
    plan = excise.plan_units(excise.trace(bench.model, bench.x), {"0.weight": [1]})
    small = excise.remove(bench.model, plan)
    return lambda: excise.save(small, plan, bench.folder / "x.safetensors")


def _bytes(change: Callable[[bytes], bytes]) -> Callable[[Bench], Act]:
    return lambda bench: bench.loaded(change)


def _rewritten(
    tensors: Callable[[dict[str, Tensor]], Any] = lambda _: None,
    metadata: Callable[[dict[str, str]], Any] = lambda _: None,
) -> Callable[[Bench], Act]:
    """A sound safetensors file with other contents."""

    def ready(bench: Bench) -> Act:
        found = load_file(bench.file)
        raw = bench.file.read_bytes()
        words = json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])["__metadata__"]
        tensors(found)
        metadata(words)
        save_file(found, bench.file, words)
        return lambda: excise.load(bench.file, Net)

    return ready


def _built(build: Any) -> Callable[[Bench], Act]:
    def ready(bench: Bench) -> Act:
        path = bench.file
        return lambda: excise.load(path, build)

    return ready


def _at(place: Callable[[Path], Any]) -> Callable[[Bench], Act]:
    return lambda bench: lambda: excise.load(place(bench.folder), Net)


def _fails() -> nn.Module:
    message = "no such config"
    raise RuntimeError(message)


def _needy(width: int) -> nn.Module:
    return Net(width)


def _pickled(bench: Bench) -> Act:
    torch.save(bench.small.state_dict(), bench.file)
    return lambda: excise.load(bench.file, Net)


def _spliced(raw: bytes, header: bytes) -> bytes:
    """The file with another header."""
    return struct.pack("<Q", len(header)) + header + raw[8 + int.from_bytes(raw[:8], "little") :]


def _packed(change: Callable[[dict[str, Any]], Any]) -> Callable[[Bench], Act]:
    """A file in which one weight is packed, and its entry is changed."""

    def ready(bench: Bench) -> Act:
        small: Any = bench.small
        plan = bench.plan
        with torch.no_grad():
            small[3].weight *= torch.rand(small[3].weight.shape) < 0.5
        excise.save(small, plan, bench.file, format="bitmask")
        found = load_file(bench.file)
        raw = bench.file.read_bytes()
        words = json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])["__metadata__"]
        entries = json.loads(words[PACKED_KEY])
        entry = parsed(entries["3.weight"])
        change(entry)
        entries["3.weight"] = text_of(entry)
        save_file(found, bench.file, words | {PACKED_KEY: json.dumps(entries)})
        return lambda: excise.load(bench.file, Net)

    return ready


def _unpacked(bench: Bench) -> Act:
    del bench
    packed = pack(torch.eye(64), "bitmask")
    assert packed is not None
    return lambda: unpack(packed.entry, packed.data[:-1])


SAVE = [
    Case("save the uncut model", _saved(lambda b: b.model, lambda b: b.plan),
         StalePlanError, "to become"),
    Case("save another model", _saved(lambda _: nn.Linear(3, 3), lambda b: b.plan),
         StalePlanError, "not in the model"),
    Case("save no module", _saved(lambda b: b.small.state_dict(), lambda b: b.plan),
         UnsupportedModelError, "OrderedDict"),
    Case("save without a plan", _saved(lambda b: b.small, lambda _: None),
         PlanFormatError, "NoneType"),
    Case("save data parallel", _saved(lambda b: nn.DataParallel(b.small), lambda b: b.plan),
         UnsupportedModelError, "model.module"),
    Case("save into a folder that is not there", _to(lambda f: f / "no" / "x.safetensors"),
         ForeignFileError, "cannot be written"),
    Case("save over a folder", _to(lambda f: f), ForeignFileError, "cannot be written"),
    Case("save under a file", _to(lambda f: (f / "f").write_text("") or f / "f" / "x"),
         ForeignFileError, "cannot be written"),
    Case("save to no name", _to(lambda _: ""), ForeignFileError, "cannot be written"),
    Case("save extra state", _extra, ForeignFileError, "extra state"),
    Case("save in an unknown format",
         lambda b: lambda: excise.save(b.small, b.plan, b.folder / "x", format="zip"),
         InvalidTargetError, "bitmask"),
]  # fmt: skip
_ENTRY = json.dumps({"9.weight": "planes F32 2 - raw:8 00000000"})
LOAD = [
    Case("no such file", _at(lambda f: f / "none.safetensors"), CorruptFileError, "No such file"),
    Case("a folder", _at(lambda f: f), CorruptFileError, "directory"),
    Case("no path", _at(lambda _: None), CorruptFileError, "None"),
    Case("an empty file", _bytes(lambda _: b""), CorruptFileError, "begin like"),
    Case("five bytes", _bytes(lambda raw: raw[:5]), CorruptFileError, "truncated"),
    Case("cut off in the header", _bytes(lambda raw: raw[:100]), CorruptFileError, "header"),
    Case("cut off in the tensors", _bytes(lambda raw: raw[:-100]), CorruptFileError, "tensors"),
    Case("one byte short", _bytes(lambda raw: raw[:-1]), CorruptFileError, "tensors"),
    Case("bytes too many", _bytes(lambda raw: raw + b"abc"), CorruptFileError, "tensors"),
    Case("a bit flipped in the header", _bytes(lambda raw: raw[:8] + b"[" + raw[9:]),
         CorruptFileError, "header"),
    Case("a bit flipped in the length", _bytes(lambda raw: bytes([raw[0] ^ 64]) + raw[1:]),
         CorruptFileError, "header"),
    Case("a hostile header length", _bytes(lambda raw: b"\xff" * 8 + raw[8:]),
         CorruptFileError, "begin like"),
    Case("a header longer than the file",
         _bytes(lambda raw: struct.pack("<Q", 99_000_000) + raw[8:]), CorruptFileError, "header"),
    Case("a header that is a list", _bytes(lambda raw: _spliced(raw, b"[1, 2]")),
         CorruptFileError, "no JSON object"),
    Case("a header nested too deep", _bytes(lambda raw: _spliced(raw, b"[" * 100_000)),
         CorruptFileError, "header"),
    Case("metadata that is a list", _bytes(lambda raw: _spliced(raw, b'{"__metadata__": [1]}')),
         CorruptFileError, "metadata"),
    Case("a pickle", _pickled, CorruptFileError, "begin like"),
    Case("noise", _bytes(lambda _: bytes(range(256)) * 9), CorruptFileError, "begin like"),
    Case("no plan in it", _rewritten(metadata=dict.clear), ForeignFileError, "excise.save"),
    Case("a newer format", _rewritten(metadata=lambda m: m.update({VERSION_KEY: "99"})),
         NewerFileError, "version 99"),
    Case("a newer plan",
         _rewritten(metadata=lambda m: m.update({PLAN_KEY: '{"version": 99}'})),
         NewerFileError, "version 99"),
    Case("a version in words", _rewritten(metadata=lambda m: m.update({VERSION_KEY: "two"})),
         CorruptFileError, "no number"),
    Case("version 0 of the format", _rewritten(metadata=lambda m: m.update({VERSION_KEY: "0"})),
         CorruptFileError, "version"),
    Case("a damaged plan", _rewritten(metadata=lambda m: m.update({PLAN_KEY: m[PLAN_KEY][:-9]})),
         CorruptFileError, "plan is damaged"),
    Case("a plan of no plan", _rewritten(metadata=lambda m: m.update({PLAN_KEY: "{}"})),
         CorruptFileError, "plan is damaged"),
    Case("damaged ties", _rewritten(metadata=lambda m: m.update({TIES_KEY: "[]"})),
         CorruptFileError, "ties"),
    Case("a tie to no tensor",
         _rewritten(metadata=lambda m: m.update({TIES_KEY: '{"7.bias": "8.bias"}'})),
         CorruptFileError, "8.bias"),
    Case("packed tensors in a list", _rewritten(metadata=lambda m: m.update({PACKED_KEY: "[]"})),
         CorruptFileError, "packed"),
    Case("a packed tensor that is not there",
         _rewritten(metadata=lambda m: m.update({PACKED_KEY: _ENTRY})),
         CorruptFileError, "9.weight"),
    Case("a packed tensor of another shape", _packed(lambda e: e.update(shape=[999, 999])),
         CorruptFileError, "its plan says"),
    Case("a packed tensor that overflows", _packed(lambda e: e.update(shape=[2**40, 2**40])),
         CorruptFileError, "3.weight"),
    Case("a packed tensor of no dtype", _packed(lambda e: e.update(dtype="F128")),
         CorruptFileError, "F128"),
    Case("a packed tensor with another checksum", _packed(lambda e: e.update(crc=1)),
         CorruptFileError, "checksum"),
    Case("packed data cut off", _unpacked, PackedDataError, "as long as"),
    Case("a tensor missing", _rewritten(lambda t: t.pop("7.bias")), ForeignFileError, "7.bias"),
    Case("a tensor too many", _rewritten(lambda t: t.update({"9.bias": torch.zeros(1)})),
         ForeignFileError, "9.bias"),
    Case("a tensor of another shape", _rewritten(lambda t: t.update({"7.bias": torch.zeros(6)})),
         ForeignFileError, "7.bias is (6,)"),
    Case("a tensor of another kind",
         _rewritten(lambda t: t.update({"7.bias": torch.zeros(5, dtype=torch.long)})),
         ForeignFileError, "7.bias"),
    Case("build fails", _built(_fails), ForeignFileError, "no such config"),
    Case("build returns a number", _built(lambda: 3), ForeignFileError, "int"),
    Case("build returns nothing", _built(lambda: None), ForeignFileError, "NoneType"),
    Case("build is a module", _built(Net()), ForeignFileError, "is a module"),
    Case("build is nothing", _built(None), ForeignFileError, "NoneType"),
    Case("build needs arguments", _built(_needy), ForeignFileError, "width"),
    Case("build returns a wider model", _built(lambda: Net(16)), ForeignFileError, "16"),
    Case("build returns another model", _built(lambda: nn.Linear(3, 3)),
         ForeignFileError, "not in this model"),
    Case("build returns the cut model", lambda b: _built(lambda: b.small)(b),
         ForeignFileError, "does not fit"),
    Case("build returns a wrapped model", _built(lambda: nn.DataParallel(Net())),
         ForeignFileError, "DataParallel"),
    Case("only the plan of no file", lambda b: lambda: excise.files.read_plan(b.folder / "none"),
         CorruptFileError, "No such file"),
]  # fmt: skip
