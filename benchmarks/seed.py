"""The case from which this project began: half of every convolution's weights masked, end to end.

`prune.l1_unstructured(..., 0.5)` and `prune.remove` on every `nn.Conv2d` of a ResNet-18 and of a
network like VGG. How large is the file, how long takes a pass, and do the outputs agree?

    python benchmarks/seed.py
"""

from __future__ import annotations

import argparse
import copy
import datetime as dt
import importlib
import json
import tempfile
from pathlib import Path
from typing import Any

import torch
import torch._dynamo  # before excise, which tells a compiler that is loaded of its backend
import vision
from engine_nets import settle
from torch import Tensor, nn
from torch.nn.utils import prune

import excise
from excise.measure.latency import hardware

RESULTS = Path(__file__).parent / "results" / "seed.json"
FILE, TIME, CLOSE = 0.56, 0.65, 1e-5
"""What must hold: bytes and time as a share of the masked model's, difference of the outputs."""
SECONDS = 10.0
VGG = (64, 64, 0, 128, 128, 0, 256, 256, 0, 512, 512, 0, 512, 512, 0)  # 0: half the size


def masked(name: str) -> nn.Module:
    """A network as `torch.nn.utils.prune` leaves it."""
    torch.manual_seed(0)
    model = vgg() if name == "vgg-like" else resnet18()
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            prune.l1_unstructured(module, "weight", 0.5)
            prune.remove(module, "weight")
    settle(model, example)
    return model.eval()


def resnet18() -> nn.Module:
    """torchvision's, with random weights."""
    vision.prepare()
    made: nn.Module = importlib.import_module("torchvision").models.resnet18(weights=None)
    return made


def vgg() -> nn.Module:
    """Convolutions of 3x3 with batch norms, pooling in between, one linear layer."""
    layers: list[nn.Module] = []
    before = 3
    for width in VGG:
        if not width:
            layers.append(nn.MaxPool2d(2))
            continue
        layers += [nn.Conv2d(before, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU()]
        before = width
    pooled = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(before, 1000))
    return nn.Sequential(*layers, *pooled)


def example(n: int) -> Tensor:
    """So many images."""
    return torch.randn(n, 3, 224, 224, generator=torch.Generator().manual_seed(1))


def files(model: nn.Module) -> dict[str, int]:
    """Bytes of `torch.save` and of `excise.save`, which is read back and compared."""
    with tempfile.TemporaryDirectory() as work:
        plain, packed = Path(work) / "m.pt", Path(work) / "m.safetensors"
        torch.save(model.state_dict(), plain)
        excise.save(model, excise.Plan({}, {}, ()), packed)
        again = excise.load(packed, lambda: copy.deepcopy(model))
        for key, tensor in again.state_dict().items():
            assert torch.equal(tensor, model.state_dict()[key]), key  # noqa: S101
        return {"torch_bytes": plain.stat().st_size, "excise_bytes": packed.stat().st_size}


def apart(model: nn.Module, fast: Any, x: Tensor) -> float:
    """The worst difference of the outputs, as a share of the largest element."""
    with torch.no_grad():
        wanted, found = model(x), fast(x)
    return float((found - wanted).abs().max() / wanted.abs().max())


def timed(model: nn.Module, fast: nn.Module, x: Tensor) -> dict[str, Any]:
    """Eager and fast in turns: shares of time, and how far the outputs are apart."""
    found = excise.measure.speedup(model, fast, x, seconds=SECONDS)
    return {
        "share": 1 / found.ratio, "share_low": 1 / found.high, "share_high": 1 / found.low,
        "eager_ms": found.before.median_ms, "fast_ms": found.after.median_ms,
        "difference": apart(model, fast, x),
    }  # fmt: skip


def row(name: str, batch: int) -> dict[str, Any]:
    """Everything about one network."""
    model, x = masked(name), example(batch)
    made: dict[str, Any] = {"network": name, "batch": batch, "zeros": 0.5, **files(model)}
    made["file_share"] = made["excise_bytes"] / made["torch_bytes"]
    sparse = excise.sparsify(model, x)
    ways = {"swapped": len(sparse.swapped), "whole": sparse.compiled}
    made["sparsify"] = timed(model, sparse.model, x) | ways
    if "excise" in torch.compiler.list_backends(exclude_tags=()):
        compiled: Any = torch.compile(model, backend="excise")
        made["compiled"] = timed(model, compiled, x)
    return made


def main() -> None:
    """Measure, store, print."""
    ask = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    names = ("resnet18", "vgg-like")
    ask.add_argument("--only", nargs="*", choices=names, default=list(names))
    ask.add_argument("--batch", nargs="*", type=int, default=[1])
    ask.add_argument("--threads", type=int, default=1)
    given = ask.parse_args()
    torch.set_num_threads(given.threads)
    rows = json.loads(RESULTS.read_text("utf-8"))["rows"] if RESULTS.exists() else []
    for name in given.only:
        for batch in given.batch:
            made = row(name, batch) | {"threads": given.threads}
            key = [made[k] for k in ("network", "batch", "threads")]
            rows = [r for r in rows if [r[k] for k in ("network", "batch", "threads")] != key]
            rows.append(made)
            date = dt.datetime.now(tz=dt.timezone.utc).date().isoformat()
            found = {"date": date, "hardware": hardware(torch.device("cpu")), "rows": rows}
            RESULTS.write_text(json.dumps(found, indent=1) + "\n", "utf-8")
            print(json.dumps(made), flush=True)


if __name__ == "__main__":
    main()
