"""Each sparse kernel beside what this core can do: multiply-adds on nonzeros, and bytes read.

Products and convolutions are timed in every way that the layers have, and beside the dense layer;
one thread. Products with one row read more than 300 MB of weights in turn, so that they come from
memory and not from a cache, as they do when a language model generates.

    python benchmarks/kernels.py                    # half an hour on a quiet core
    python benchmarks/kernels.py --only row --zeros 80
"""

from __future__ import annotations

import argparse
import ctypes
import datetime as dt
import functools
import json
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from excise.measure.latency import hardware
from excise.sparse import SparseConv2d, SparseLinear
from excise.sparse.kernels import Ending, bits_of, blocks_of, gemv
from excise.sparse.kernels.compile import compiler
from excise.sparse.kernels.matrix import MOST_COLUMNS
from excise.sparse.tune import timed

RESULTS = Path(__file__).parent / "results" / "kernels.json"
SHARES = (50, 70, 80, 90, 95)
LINEARS = [  # rows, columns, tokens
    (768, 768, 128), (3072, 768, 128), (768, 3072, 128), (3072, 768, 197), (4096, 4096, 8),
    (4096, 4096, 32), (4096, 4096, 128),
]  # fmt: skip
CONVS = [  # channels, rows, kernel, stride, size of the input
    (64, 64, 3, 1, 56), (128, 128, 3, 1, 28), (256, 256, 3, 1, 14), (512, 512, 3, 1, 7),
    (128, 128, 3, 2, 56), (256, 256, 3, 2, 28), (512, 512, 3, 2, 14), (64, 256, 1, 1, 56),
    (256, 64, 1, 1, 56), (512, 128, 1, 1, 28), (128, 512, 1, 1, 28), (1024, 256, 1, 1, 14),
    (2048, 512, 1, 1, 7),
]  # fmt: skip
ROWS = [(4096, 4096), (11008, 4096)]
TURNED = 320e6  # bytes of weights read in turn
_ADDS, _CHAINS, _TRIES = 50_000, 12, 300
_BIG = 400_000_000  # bytes: more than a core's share of any cache
_ROUNDS, _CALLS = 7, 40


class Core(NamedTuple):
    """What one core does at most: billions of floating-point operations and of bytes a second."""

    gflops: float
    read_gbs: float


def core() -> Core:
    """Measured by a few lines of C (`peak.c`), for the machine that this is.

    Raises:
        RuntimeError: there is no C compiler.
    """
    words = compiler()
    if words is None:
        raise RuntimeError("a C compiler measures what the core can do; there is none here")
    with tempfile.TemporaryDirectory() as work:
        path = Path(work) / "peak.so"
        source = str(Path(__file__).parent / "peak.c")
        flags = ["-O3", "-march=native", "-shared", "-fPIC", "-o", str(path), source]
        subprocess.run([*words, *flags], check=True)  # noqa: S603 - a file beside this one
        code = ctypes.CDLL(str(path))
    code.read_all.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    code.multiply_adds.argtypes = [ctypes.c_long]
    adds = min(seconds(lambda: code.multiply_adds(_ADDS)) for _ in range(_TRIES))
    big = torch.ones(_BIG // 4)
    read = min(seconds(lambda: code.read_all(big.data_ptr(), len(big))) for _ in range(_ROUNDS))
    return Core(2 * _CHAINS * code.lanes() * _ADDS / adds / 1e9, _BIG / read / 1e9)


def seconds(call: Callable[[], object]) -> float:
    """Processor time of one call, on one thread."""
    start = time.process_time()
    call()
    return time.process_time() - start


def zeroed(layer: Any, zeros: int) -> Any:
    """With the smallest weights zero."""
    with torch.no_grad():
        size = layer.weight.abs().flatten()
        layer.weight.mul_(layer.weight.abs() > size.kthvalue(int(zeros / 100 * len(size))).values)
    return layer


def product(kind: str, shape: Sequence[int], zeros: int) -> dict[str, Any]:
    """One layer, dense and in the fastest of its sparse ways."""
    if kind == "linear":
        rows, columns, tokens = shape
        dense: Any = zeroed(nn.Linear(columns, rows), zeros)
        sparse: Any = SparseLinear.of(dense)
        x, places = torch.randn(tokens, columns), tokens
    else:
        channels, rows, kernel, stride, size = shape
        dense = zeroed(nn.Conv2d(channels, rows, kernel, stride, kernel // 2), zeros)
        sparse, x = SparseConv2d.of(dense), torch.randn(1, channels, size, size)
        places = (size // stride) ** 2
    timed(str(shape), dense, sparse, x)  # sets the way
    least = [float("inf")] * 2
    for _ in range(_CALLS):
        for i, layer in enumerate((dense, sparse)):
            least[i] = min(least[i], 1e3 * seconds(functools.partial(layer, x)))
    used, (dense_ms, sparse_ms) = int(torch.count_nonzero(dense.weight)), least
    return {
        "kind": kind, "shape": list(shape), "zeros": zeros, "dense_ms": dense_ms,
        "sparse_ms": sparse_ms, "way": list(sparse.way),
        "gflops": 2 * used * places / sparse_ms / 1e6,
        "dense_gflops": 2 * dense.weight.numel() * places / dense_ms / 1e6,
    }  # fmt: skip


def turned(tensors: tuple[Tensor, ...]) -> tuple[list[tuple[Tensor, ...]], int]:
    """So many copies that together they are more than a cache holds; bytes of one."""
    size = sum(t.numel() * t.element_size() for t in tensors)
    count = max(2, int(-(-TURNED // size)))
    return [tuple(t.clone() for t in tensors) for _ in range(count)], size


def each(run: Callable[..., Any], v: Tensor, many: list[tuple[Tensor, ...]]) -> float:
    """Seconds of one call, with each of many weights in turn."""
    return seconds(lambda: [run(v, *one) for one in many]) / len(many)


def row(shape: tuple[int, int], zeros: int) -> list[dict[str, Any]]:
    """One row of activations times one weight: dense torch and each format, in turns."""
    rows, columns = shape
    weight = zeroed(nn.Linear(columns, rows, bias=False), zeros).weight.detach()
    x, short, none = torch.randn(columns), torch.randn(columns).bfloat16(), Ending()
    blocks, bits = blocks_of(weight, MOST_COLUMNS, span=1), bits_of(weight)
    formats: dict[str, tuple[Tensor, tuple[Tensor, ...], Callable[..., Any]]] = {
        "dense fp32": (x, (weight,), lambda v, w: functional.linear(v[None], w)),
        "dense bf16": (short, (weight.bfloat16(),), lambda v, w: functional.linear(v[None], w)),
    }
    for name, like, arrays in (("csr16", blocks, blocks[:3]), ("bitmask", bits, bits[:3])):
        for kind, v in (("fp32", x), ("bf16", short)):
            held = (arrays[0].to(v.dtype), *arrays[1:])
            make, sizes = type(like), like[3]
            formats[f"{name} {kind}"] = (
                v, held, lambda v, *t, make=make, sizes=sizes: gemv(make(*t, sizes), v, none),
            )  # fmt: skip
    calls, sizes_of = dict[str, Callable[[], float]](), dict[str, int]()
    for name, (v, tensors, run) in formats.items():
        many, sizes_of[name] = turned(tensors)
        calls[name] = functools.partial(each, run, v, many)
    least = dict.fromkeys(calls, float("inf"))
    for _ in range(_ROUNDS):
        for name, call in calls.items():
            least[name] = min(least[name], call())
    return [
        {
            "kind": "row", "shape": [rows, columns], "zeros": zeros, "format": name,
            "ms": 1e3 * spent, "bytes": sizes_of[name], "gbs": sizes_of[name] / spent / 1e9,
        }
        for name, spent in least.items()
    ]  # fmt: skip


def keep(found: dict[str, Any], made: list[dict[str, Any]]) -> None:
    """Replace rows of the same kind, shape, zeros and format; write what there is."""
    same = ("kind", "shape", "zeros", "format")
    keys = [[r.get(k) for k in same] for r in made]
    found["rows"] = [r for r in found["rows"] if [r.get(k) for k in same] not in keys] + made
    RESULTS.write_text(json.dumps(found, indent=1) + "\n", "utf-8")


def main() -> None:
    """Measure, store, print."""
    ask = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    kinds = ("linear", "conv", "row")
    ask.add_argument("--only", nargs="*", choices=kinds, default=list(kinds))
    ask.add_argument("--zeros", nargs="*", type=int, default=list(SHARES), help="percent")
    given = ask.parse_args()
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    torch.manual_seed(0)
    found = json.loads(RESULTS.read_text("utf-8")) if RESULTS.exists() else {"rows": []}
    found["date"] = dt.datetime.now(tz=dt.timezone.utc).date().isoformat()
    found["hardware"], found["core"] = hardware(torch.device("cpu")), core()._asdict()
    print(found["core"], flush=True)
    for zeros in given.zeros:
        for kind, shapes in (("linear", LINEARS), ("conv", CONVS)):
            for shape in shapes if kind in given.only else ():
                made = product(kind, shape, zeros)
                keep(found, [made])
                print(f"{kind} {shape} {zeros} %: {made['gflops']:.1f} GFLOP/s on nonzeros, "
                      f"{made['dense_ms'] / made['sparse_ms']:.2f}x dense", flush=True)  # fmt: skip
        for size in ROWS if "row" in given.only else ():
            for one in row(size, zeros):
                keep(found, [one])
                print(f"{size} {zeros} % {one['format']}: {one['ms']:.2f} ms, "
                      f"{one['gbs']:.1f} GB/s", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
