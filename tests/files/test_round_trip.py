"""What is saved is what is loaded, and the file is what the specification says."""

from __future__ import annotations

import importlib
import json
import os
import struct
import subprocess
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

import excise
from excise.errors import CorruptFileError
from excise.files import read_plan
from excise.files.format import read_header
from excise.files.save import distinct
from tests.errors.bench import Net, fingerprint


class Lively(nn.Module):
    """A tied head, a shared module, a buffer that is not stored, and one that is."""

    hidden: Tensor
    scale: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(11, 8)
        self.up, self.down = nn.Linear(8, 16), nn.Linear(16, 8)
        self.head = nn.Linear(8, 11, bias=False)
        self.head.weight = self.table.weight
        self.register_buffer("scale", torch.arange(16.0), persistent=True)
        self.register_buffer("hidden", torch.arange(16.0), persistent=False)

    def forward(self, ids: Tensor) -> Tensor:
        """Token ids to logits."""
        y = torch.relu(self.up(self.table(ids))) * self.scale + self.hidden
        logits: Tensor = self.head(self.down(y))
        return logits


IDS = torch.tensor([[1, 2, 3]])


def _cut(model: nn.Module, *inputs: Tensor) -> tuple[Any, excise.Plan]:
    graph = excise.trace(model, *inputs)
    scores = excise.scores.magnitude(model, graph)
    plan = excise.plan(graph, scores, keep_params=0.6)
    return excise.remove(model, plan), plan


@pytest.fixture
def image() -> Tensor:
    torch.manual_seed(1)
    return torch.randn(2, 3, 8, 8)


def test_what_is_loaded_is_what_was_saved(image: Tensor, tmp_path: Path) -> None:
    small, plan = _cut(Net().eval(), image)
    path = tmp_path / "m.safetensors"
    excise.save(small, plan, path)
    again: Any = excise.load(path, lambda: Net().eval())
    assert type(again) is Net
    assert not again.training
    for (name, one), (other, two) in zip(
        small.state_dict().items(), again.state_dict().items(), strict=True
    ):
        assert name == other
        assert torch.equal(one, two)
        assert one.dtype == two.dtype
    assert torch.equal(again(image), small(image))
    assert repr(again) == repr(small)
    assert read_plan(path) == plan


def test_saving_touches_nothing(image: Tensor, tmp_path: Path) -> None:
    small, plan = _cut(Net(), image)
    before = fingerprint(small)
    excise.save(small, plan, tmp_path / "m.safetensors")
    assert fingerprint(small) == before
    assert [p.name for p in tmp_path.iterdir()] == ["m.safetensors"]


def test_loading_does_not_touch_what_build_returns(image: Tensor, tmp_path: Path) -> None:
    model = Net()
    small, plan = _cut(model, image)
    excise.save(small, plan, tmp_path / "m.safetensors")
    before = fingerprint(model)
    again = excise.load(tmp_path / "m.safetensors", lambda: model)
    assert fingerprint(model) == before
    assert again is not model


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_the_files_dtype_wins(dtype: torch.dtype, image: Tensor, tmp_path: Path) -> None:
    small, plan = _cut(Net(), image)
    small = small.to(dtype)
    excise.save(small, plan, tmp_path / "m.safetensors")
    again = excise.load(tmp_path / "m.safetensors", Net)
    assert {p.dtype for p in again.parameters()} == {dtype}
    assert all(
        torch.equal(a, b) for a, b in zip(again.parameters(), small.parameters(), strict=True)
    )


def test_ties_are_stored_once_and_come_back(tmp_path: Path) -> None:
    torch.manual_seed(0)
    small, plan = _cut(Lively(), IDS)
    path = tmp_path / "m.safetensors"
    excise.save(small, plan, path)
    assert "head.weight" not in load_file(path)
    assert read_header(path).ties == {"head.weight": "table.weight"}
    again: Any = excise.load(path, Lively)
    assert again.head.weight is again.table.weight
    assert torch.equal(again(IDS), small(IDS))


def test_what_is_not_in_the_state_dict_comes_from_build(tmp_path: Path) -> None:
    small, plan = _cut(Lively(), IDS)
    excise.save(small, plan, tmp_path / "m.safetensors")
    assert "hidden" not in load_file(tmp_path / "m.safetensors")
    again: Any = excise.load(tmp_path / "m.safetensors", Lively)
    assert torch.equal(again.hidden, small.hidden)
    assert len(again.hidden) < 16


def test_a_build_without_memory_will_do(image: Tensor, tmp_path: Path) -> None:
    small, plan = _cut(Net().eval(), image)
    excise.save(small, plan, tmp_path / "m.safetensors")

    def build() -> nn.Module:
        with torch.device("meta"):
            return Net().eval()

    again = excise.load(tmp_path / "m.safetensors", build)
    assert torch.equal(again(image), small(image))


def test_frozen_weights_are_frozen_as_in_build(image: Tensor, tmp_path: Path) -> None:
    small, plan = _cut(Net(), image)
    excise.save(small, plan, tmp_path / "m.safetensors")
    again = excise.load(tmp_path / "m.safetensors", lambda: Net().requires_grad_(False))  # noqa: FBT003 - torch's own name for it
    assert not any(p.requires_grad for p in again.parameters())


def test_a_model_trained_after_the_cut_can_be_saved(image: Tensor, tmp_path: Path) -> None:
    small, plan = _cut(Net(), image)
    small(image).sum().backward()
    torch.optim.SGD(small.parameters(), lr=0.1).step()
    excise.save(small, plan, tmp_path / "m.safetensors")
    again = excise.load(tmp_path / "m.safetensors", Net)
    assert torch.equal(again.state_dict()["3.weight"], small.state_dict()["3.weight"])


def test_the_file_is_as_specified(image: Tensor, tmp_path: Path) -> None:
    """Read with nothing but the bytes, as docs/formats/safetensors.md describes them."""
    small, plan = _cut(Net(), image)
    path = tmp_path / "m.safetensors"
    excise.save(small, plan, path)
    raw = path.read_bytes()
    (length,) = struct.unpack("<Q", raw[:8])
    header = json.loads(raw[8 : 8 + length])
    metadata = header.pop("__metadata__")
    assert set(metadata) == {"format", "excise.format", "excise.plan", "excise.ties"}
    assert metadata["format"] == "pt"
    assert metadata["excise.format"] == "1"
    assert json.loads(metadata["excise.ties"]) == {}
    assert excise.Plan.from_json(metadata["excise.plan"]) == plan
    data = raw[8 + length :]
    for name, tensor in small.state_dict().items():
        start, end = header[name]["data_offsets"]
        assert data[start:end] == tensor.contiguous().numpy().tobytes()
        assert header[name]["shape"] == list(tensor.shape)


def test_other_readers_of_safetensors_can_read_it(image: Tensor, tmp_path: Path) -> None:
    small, plan = _cut(Net(), image)
    excise.save(small, plan, tmp_path / "m.safetensors")
    with safe_open(tmp_path / "m.safetensors", framework="np") as file:
        assert set(file.keys()) == set(small.state_dict())
        assert (file.get_tensor("7.bias") == small.state_dict()["7.bias"].numpy()).all()


def test_the_file_is_as_long_as_measured(image: Tensor, tmp_path: Path) -> None:
    small, plan = _cut(Net(), image)
    excise.save(small, plan, tmp_path / "m.safetensors")
    there = (tmp_path / "m.safetensors").stat().st_size
    plain = excise.measure.file_bytes(small)
    assert plain < there < plain + 2 * len(plan.to_json()) + 200


def test_a_file_in_the_way_is_replaced_whole_or_not_at_all(
    image: Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small, plan = _cut(Net(), image)
    path = tmp_path / "m.safetensors"
    path.write_bytes(b"what was there")

    def full(*_: object) -> None:
        message = "No space left on device"
        raise OSError(28, message)

    monkeypatch.setattr(importlib.import_module("excise.files.save"), "save_file", full)
    with pytest.raises(excise.errors.FileError, match="No space left"):
        excise.save(small, plan, path)
    monkeypatch.undo()
    assert path.read_bytes() == b"what was there"
    assert os.listdir(tmp_path) == ["m.safetensors"]  # noqa: PTH208 - names are enough
    excise.save(small, plan, path)
    assert excise.load(path, Net) is not None


def test_the_file_can_be_read_by_whoever_may_read_files_here(image: Tensor, tmp_path: Path) -> None:
    """As any file that is written: not private, as temporary files are."""
    small, plan = _cut(Net(), image)
    excise.save(small, plan, tmp_path / "m.safetensors")
    (tmp_path / "other").write_text("")
    modes = [(tmp_path / name).stat().st_mode for name in ("m.safetensors", "other")]
    assert modes[0] == modes[1]


def test_distinct_keeps_views_of_one_memory_apart() -> None:
    base = torch.arange(6.0)
    stored, ties = distinct({"a": base[:3], "b": base[3:], "c": base[:3], "d": base.view(2, 3)})
    assert set(stored) == {"a", "b", "d"}
    assert ties == {"c": "a"}
    assert torch.equal(stored["b"], base[3:])


def test_a_fresh_process_needs_no_pickle(image: Tensor, tmp_path: Path) -> None:
    """Loading works where unpickling is made impossible."""
    small, plan = _cut(Net().eval(), image)
    excise.save(small, plan, tmp_path / "m.safetensors")
    code = (
        "import pickle, sys, torch, excise\n"
        "from tests.errors.bench import Net\n"
        "def refuse(*args, **kwargs): raise SystemExit('something was unpickled')\n"
        "pickle.load = pickle.loads = pickle.Unpickler = torch.load = refuse\n"
        "print(sum(p.numel() for p in excise.load(sys.argv[1], Net).parameters()))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "m.safetensors")],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        check=False,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) == sum(p.numel() for p in small.parameters())


def _halved(model: Any) -> Any:
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(torch.rand(parameter.shape) < 0.5)
    return model


@pytest.mark.parametrize("form", ["auto", "dense", "planes", "bitmask", "csr16", "nm", "block"])
def test_zeros_are_packed_and_come_back(form: str, image: Tensor, tmp_path: Path) -> None:
    torch.manual_seed(0)
    small, plan = _cut(Net(64).eval(), image)
    _halved(small)
    path = tmp_path / "m.safetensors"
    excise.save(small, plan, path, format=form)
    again: Any = excise.load(path, lambda: Net(64).eval())
    for name, one in small.state_dict().items():
        assert torch.equal(one, again.state_dict()[name])
    packed = read_header(path).packed
    assert bool(packed) == (form not in {"dense", "nm"})
    if form in {"auto", "bitmask"}:
        assert packed["3.weight"]["layout"] == "bitmask"
        assert path.stat().st_size < 0.6 * excise.measure.file_bytes(small)


def test_a_file_without_zeros_is_the_first_version(image: Tensor, tmp_path: Path) -> None:
    small, plan = _cut(Net().eval(), image)
    path = tmp_path / "m.safetensors"
    excise.save(small, plan, path)
    with safe_open(path, framework="np") as file:
        metadata = file.metadata()
    assert metadata["excise.format"] == "1"
    assert "excise.packed" not in metadata
    excise.save(_halved(Net(64)), excise.Plan({}, {}, ()), path)
    with safe_open(path, framework="np") as file:
        assert file.metadata()["excise.format"] == "2"


def test_a_packed_tied_weight_stays_tied(tmp_path: Path) -> None:
    class Wide(Lively):
        """The same with a table that is worth packing."""

        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Embedding(400, 8)
            self.head = nn.Linear(8, 400, bias=False)
            self.head.weight = self.table.weight

    model = _halved(Wide())
    path = tmp_path / "m.safetensors"
    excise.save(model, excise.Plan({}, {}, ()), path)
    assert "table.weight" in read_header(path).packed
    again: Any = excise.load(path, Wide)
    assert again.head.weight is again.table.weight
    assert torch.equal(again.head.weight, model.head.weight)


def test_a_header_longer_than_its_file_is_not_made_room_for(tmp_path: Path) -> None:
    path = tmp_path / "short.safetensors"
    path.write_bytes((90_000_000).to_bytes(8, "little") + b'{"a": 1}')
    tracemalloc.start()
    try:
        with pytest.raises(CorruptFileError, match="truncated"):
            excise.load(path, lambda: nn.Linear(2, 2))
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()
