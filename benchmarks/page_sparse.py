"""The page's sections on how fast zeros run: `engines.py`, `kernels.py`, `seed.py`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from layout import table

OWN = ("excise", "excise compiled")
TITLES = {
    "resnet50": "ResNet-50", "mobilenetv1": "MobileNetV1", "mobilenetv2": "MobileNetV2",
    "bert": "BERT-base, 128 tokens", "vit": "ViT-B/16",
}  # fmt: skip


def engines(found: Any) -> Iterator[str]:
    """Whole networks beside other engines."""
    rows = found["rows"]
    names = list(dict.fromkeys(name for row in rows.values() for name in row))
    yield (
        f"Times as fast as eager torch ({found['versions']['torch']}) on {found['hardware']}; with "
        "one thread by the least processor time of all calls, with two by the least wall time, all "
        "engines taking turns. Random weights, the smallest of every layer zero; first and "
        "depthwise convolutions dense. Bold: excise, where it is ahead of every engine that "
        "computes in float32. The honest opponent of sparse float32 is dense bfloat16, where a "
        "processor has the instructions: its column stands beside; a star says that excise is "
        "ahead of that, too."
    )
    threads = sorted({key.split(" | ")[3] for key in rows})
    for number in threads:
        lines = []
        for key in sorted(rows, key=_place):
            net, zeros, batch, count = key.split(" | ")
            row = rows[key]
            if count == number:
                times = _gains(row, "cpu_ms" if count == "1" else "wall_ms")
                cells = [_cell(name, times) for name in names if name != "eager"]
                lines.append((f"{TITLES[net]}, batch {batch}", f"{zeros} %", *cells))
        yield f"{number} thread{'s' * (number != '1')}:"
        yield table(("network", "zeros", *(n for n in names if n != "eager")), lines)
    yield from _absent(rows)


def kernels(found: Any) -> Iterator[str]:
    """Kernels beside what the core can do."""
    core, rows = found["core"], found["rows"]
    peak, read = core["gflops"], core["read_gbs"]
    yield (
        f"One core of {found['hardware']}: {peak:.0f} GFLOP/s of float32 multiply-adds in "
        f"registers, {read:.1f} GB/s read from memory, measured by a few lines of C (`peak.c`) in "
        "the same run. GFLOP/s count the nonzero weights only; in brackets, how many times faster "
        "than the dense layer in torch."
    )
    products = [r for r in rows if r["kind"] != "row"]
    shares = sorted({r["zeros"] for r in products})
    yield table(
        ("layer", *(f"{z} %" for z in shares), "least share of the peak"),
        [
            (
                _layer(kind, shape),
                *(f"{r['gflops']:.0f} ({r['dense_ms'] / r['sparse_ms']:.1f}x)" for r in same),
                f"{min(r['gflops'] for r in same) / peak:.0%}",
            )
            for kind, shape, same in _groups(products, shares)
        ],
    )
    yield (
        "One row of activations, weights read from memory: milliseconds, in brackets GB/s of what "
        "the format reads."
    )
    single = [r for r in rows if r["kind"] == "row"]
    for size in dict.fromkeys(tuple(r["shape"]) for r in single):
        some = [r for r in single if tuple(r["shape"]) == size]
        yield table(
            (f"{size[0]} x {size[1]}", *(f"{z} %" for z in sorted({r["zeros"] for r in some}))),
            [
                (name, *(f"{r['ms']:.2f} ({r['gbs']:.1f})" for r in _sorted(some, name)))
                for name in dict.fromkeys(r["format"] for r in some)
            ],
        )


def _layer(kind: str, shape: list[int]) -> str:
    if kind == "linear":
        return f"linear {shape[1]} to {shape[0]}, {shape[2]} rows"
    channels, rows, kernel, stride, size = shape
    return f"{kernel}x{kernel} convolution {channels} to {rows}, stride {stride}, {size} x {size}"


def _groups(
    rows: list[dict[str, Any]], shares: list[int]
) -> Iterator[tuple[str, list[int], list[dict[str, Any]]]]:
    """Rows of one layer, by zeros, where all were measured."""
    for kind, shape in dict.fromkeys((r["kind"], tuple(r["shape"])) for r in rows):
        same = [r for r in rows if (r["kind"], tuple(r["shape"])) == (kind, shape)]
        if len(same) == len(shares):
            yield kind, list(shape), sorted(same, key=lambda r: int(r["zeros"]))


def _sorted(rows: list[dict[str, Any]], name: str) -> list[dict[str, Any]]:
    return sorted((r for r in rows if r["format"] == name), key=lambda r: int(r["zeros"]))


def seed(found: Any) -> Iterator[str]:
    """Half of every convolution masked, end to end."""
    yield (
        "`prune.l1_unstructured(..., 0.5)` and `prune.remove` on every convolution, random "
        f"weights, {found['hardware']}. What must hold: a file of at most 0.56 of `torch.save`'s, "
        "a pass in at most 0.65 of eager torch's time, outputs equal to 1e-5 of the largest. "
        "Quartiles over rounds in which both take turns."
    )
    lines = []
    for r in found["rows"]:
        for way in ("sparsify", "compiled"):
            if way in r:
                it = r[way]
                lines.append((
                    f"{r['network']}, batch {r['batch']}, {r['threads']} thread(s)", way,
                    f"{r['file_share']:.2f}",
                    f"{it['share']:.2f} ({it['share_low']:.2f} to {it['share_high']:.2f})",
                    f"{it['difference']:.0e}",
                ))  # fmt: skip
    yield table(("network", "way", "file", "time", "difference"), lines)


def _gains(row: dict[str, Any], kind: str) -> dict[str, float]:
    """Engine -> times as fast as eager."""
    base = row.get("eager", {}).get(kind, {}).get("least")
    if not base:
        return {}
    return {name: base / it[kind]["least"] for name, it in row.items() if kind in it}


def _cell(name: str, times: dict[str, float]) -> str:
    if name not in times:
        return "-"
    text = f"{times[name]:.2f}"
    if name not in OWN:
        return text
    others = {n: t for n, t in times.items() if n not in OWN}
    plain = max((t for n, t in others.items() if "bf16" not in n), default=0.0)
    short = max((t for n, t in others.items() if "bf16" in n), default=0.0)
    text = f"**{text}**" if times[name] > plain else text
    return text + "\\*" * (0 < short < times[name])


def _place(key: str) -> tuple[int, int, int]:
    """Rows by network, batch, zeros."""
    net, zeros, batch, _ = key.split(" | ")
    return list(TITLES).index(net), int(batch), int(zeros)


def _absent(rows: dict[str, Any]) -> Iterator[str]:
    """Engines that did not run, and why."""
    reasons: dict[str, list[str]] = {}
    for key, row in rows.items():
        for name, it in row.items():
            why = it.get("missing") or it.get("failed")
            if why:
                reasons.setdefault(f"{name}: {why}", []).append(key)
    if reasons:
        lines = [f"- {why} ({len(keys)} rows)" for why, keys in reasons.items()]
        yield "Not run:\n\n" + "\n".join(lines)
