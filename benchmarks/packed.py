"""How near the files of `excise.save` come to what they must hold, and how damaged ones are met.

Gaussian weights of the shapes of a BERT layer and of ResNet-50's convolutions, and trained ones if
the test data is there, pruned by magnitude. The limit is the entropy of the mask, and of each byte
of the values that stay, taken on its own. Then 10,000 files are damaged at random and loaded.

    python benchmarks/packed.py                   # about ten minutes
    python benchmarks/packed.py --damaged 0       # sizes only
"""

from __future__ import annotations

import argparse
import importlib
import io
import json
import math
import random
import tempfile
import tracemalloc
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import real
import safetensors.torch
import torch
from torch import Tensor, nn

import excise
from excise.errors import ExciseError

RESULT = Path(__file__).parent / "results" / "packed.json"
SHARES = (0.5, 0.7, 0.8, 0.9, 0.95)
DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
BERT = [(768, 768)] * 4 + [(3072, 768), (768, 3072)]
RESNET = [
    (64, 64, 1, 1), (64, 64, 3, 3), (256, 64, 1, 1), (128, 128, 3, 3), (512, 128, 1, 1),
    (256, 256, 3, 3), (1024, 256, 1, 1), (512, 512, 3, 3), (2048, 512, 1, 1),
]  # fmt: skip


class Bare(nn.Module):
    """Nothing but tensors under numbers."""

    def __init__(self, tensors: list[Tensor]) -> None:
        super().__init__()
        for i, tensor in enumerate(tensors):
            self.register_buffer(f"t{i}", tensor)


def weights(name: str) -> list[Tensor]:
    """Dense weights of a set."""
    if name in {"bert", "resnet50"}:
        source = torch.Generator().manual_seed(0)
        shapes: Any = BERT if name == "bert" else RESNET
        return [torch.randn(shape, generator=source) * 0.02 for shape in shapes]
    model = real.load(name).model
    return [p.detach() for p in model.parameters() if p.dim() > 1 and p.numel() >= 1024]  # noqa: PLR2004


def pruned(tensor: Tensor, share: float, dtype: torch.dtype) -> Tensor:
    """The smallest weights set to zero, as a mask does it."""
    limit = tensor.abs().flatten().kthvalue(max(1, int(share * tensor.numel()))).values
    return (tensor * (tensor.abs() > limit)).to(dtype)


def limit_of(tensors: list[Tensor]) -> float:
    """Bytes of the mask and of each byte of the values, at their entropies."""
    total = 0.0
    for tensor in tensors:
        values = tensor[tensor != 0].contiguous()
        share = values.numel() / tensor.numel()
        for p in (share, 1 - share):
            total -= tensor.numel() * (p * math.log2(p) if p else 0.0) / 8
        table = values.view(torch.uint8).reshape(-1, tensor.element_size()).numpy()
        for column in table.T:
            found = np.bincount(column, minlength=256) / max(1, len(column))
            found = found[found > 0]
            total -= len(column) * float((found * np.log2(found)).sum()) / 8
    return total


def sizes(tensors: list[Tensor], folder: Path) -> dict[str, float]:
    """Bytes of each form, and of the limit."""
    model, path = Bare(tensors), folder / "m.safetensors"
    excise.save(model, excise.Plan({}, {}, ()), path)
    again = excise.load(path, lambda: Bare([torch.zeros_like(t) for t in tensors]))
    for one, two in zip(model.buffers(), again.buffers(), strict=True):
        assert torch.equal(one, two), "what was saved is not what was loaded"  # noqa: S101
    buffer = io.BytesIO()
    torch.save(model.state_dict(), buffer)
    plain = safetensors.torch.save(dict(model.state_dict()))
    found: dict[str, float] = {
        "limit": limit_of(tensors),
        "excise": path.stat().st_size,
        "torch.save": len(buffer.getvalue()),
        "safetensors": len(plain),
    }
    try:
        zstandard: Any = importlib.import_module("zstandard")  # for comparison only
    except ImportError:
        return found
    packer = zstandard.ZstdCompressor(level=9)
    found["torch.save + zstd"] = len(packer.compress(buffer.getvalue()))
    found["safetensors + zstd"] = len(packer.compress(plain))
    return found


def damages(raw: bytes, count: int) -> Iterator[bytes]:
    """The file with bytes changed, cut off, repeated, or with another number in its header."""
    source = random.Random(0)  # noqa: S311 - damage, not secrets
    length = 8 + int.from_bytes(raw[:8], "little")
    for _ in range(count):
        made, kind = bytearray(raw), source.randrange(6)
        if kind == 0:  # anywhere
            for _ in range(source.randint(1, 8)):
                made[source.randrange(len(made))] = source.randrange(256)
        elif kind == 1:  # in the header
            for _ in range(source.randint(1, 3)):
                made[source.randrange(length)] = source.randrange(256)
        elif kind == 2:  # cut off  # noqa: PLR2004
            del made[source.randrange(len(made)) :]
        elif kind == 3:  # a part twice  # noqa: PLR2004
            first = source.randrange(len(made))
            made[first:first] = made[first : first + source.randint(1, 200)]
        elif kind == 4:  # a digit for a digit: sizes, offsets, counts  # noqa: PLR2004
            places = [i for i in range(length) if chr(made[i]).isdigit()]
            for _ in range(source.randint(1, 4)):
                made[source.choice(places)] = ord(str(source.randrange(10)))
        else:  # a number made huge, at the cost of the padding behind the header
            text = raw[8:length].decode()
            places = [i for i, c in enumerate(text) if c.isdigit()]
            place = source.choice(places)
            text = text[:place] + "9" * source.randint(2, 18) + text[place:]
            body = text.encode()
            made = bytearray(len(body).to_bytes(8, "little") + body + raw[length:])
        yield bytes(made)


def damaged(count: int, folder: Path) -> dict[str, Any]:
    """Load so many damaged files; what came of it, and the most memory that one took."""
    torch.manual_seed(0)
    model: Any = nn.Sequential(
        nn.Linear(300, 200), nn.ReLU(), nn.Linear(200, 256), nn.Linear(256, 80)
    )
    with torch.no_grad():
        for layer, share in ((model[0], 0.5), (model[2], 0.9)):
            layer.weight.mul_(torch.rand_like(layer.weight) >= share)
    plan = excise.plan_units(excise.trace(model, torch.randn(1, 300)), {})
    path, outcomes, worst = folder / "d.safetensors", Counter[str](), 0
    true = sum(t.numel() * t.element_size() for t in model.state_dict().values())
    build, raws, sound = _copies(model), list[bytes](), 0
    for form in ("auto", "csr16", "block", "planes"):
        excise.save(model, plan, path, format=form)
        raws.append(path.read_bytes())
        excise.load(path, build)  # what is imported or made once is not counted
        sound = max(sound, _peak(lambda: excise.load(path, build)))
    for i, raw in enumerate(raws):
        for made in damages(raw, count // len(raws) + (i < count % len(raws))):
            path.write_bytes(made)
            worst = max(worst, _peak(lambda: outcomes.update([_outcome(path, build)])))
    crashes = sum(n for name, n in outcomes.items() if name.startswith("crash"))
    return {
        "files": count, "outcomes": dict(outcomes), "crashes": crashes, "declared_bytes": true,
        "worst_peak_bytes": worst, "sound_peak_bytes": sound,
    }  # fmt: skip


def _outcome(path: Path, build: Any) -> str:
    """What comes of loading a file."""
    try:
        excise.load(path, build)
    except ExciseError as error:
        return type(error).__name__
    except Exception as error:  # noqa: BLE001 - that is what is counted
        return f"crash: {type(error).__name__}: {error}"
    return "loaded"  # the damage was in the plan's names, or none at all


def _peak(call: Callable[[], Any]) -> int:
    """Most bytes that Python and numpy held at one time."""
    tracemalloc.start()
    call()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


def _copies(model: nn.Module) -> Any:
    import copy  # noqa: PLC0415 - only here

    return lambda: copy.deepcopy(model)


def main() -> None:
    """Measure, print, and leave the numbers."""
    ask = argparse.ArgumentParser(description=__doc__)
    ask.add_argument("--damaged", type=int, default=10_000)
    ask.add_argument("--sets", nargs="*", default=["bert", "resnet50", "resnet56", "vit"])
    given = ask.parse_args()
    known = json.loads(RESULT.read_text()) if RESULT.exists() else {"sizes": [], "damaged": {}}
    with tempfile.TemporaryDirectory() as work:
        folder = Path(work)
        for name in given.sets:
            dense = weights(name)
            for dtype, kind in DTYPES.items():
                for share in SHARES:
                    tensors = [pruned(t, share, kind) for t in dense]
                    row: dict[str, Any] = {"set": name, "dtype": dtype, "zeros": share}
                    row |= sizes(tensors, folder)
                    key = (name, dtype, share)
                    others = [
                        r for r in known["sizes"] if (r["set"], r["dtype"], r["zeros"]) != key
                    ]
                    known["sizes"] = [*others, row]
                    over = row["excise"] / row["limit"] - 1
                    print(f"{name:<10} {dtype} {share:.0%}: {over:+.1%} of the limit", flush=True)
        if given.damaged:
            known["damaged"] = damaged(given.damaged, folder)
            print(known["damaged"])
    RESULT.write_text(json.dumps(known, indent=1) + "\n")


if __name__ == "__main__":
    main()
