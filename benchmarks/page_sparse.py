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
        "processor has the instructions: its column stands beside, and says where excise is "
        "ahead of that too by a star."
    )
    threads = sorted({key.split(" | ")[3] for key in rows})
    for number in threads:
        lines = []
        for key, row in rows.items():
            net, zeros, batch, count = key.split(" | ")
            if count == number:
                times = _gains(row, "cpu_ms" if count == "1" else "wall_ms")
                cells = [_cell(name, times) for name in names if name != "eager"]
                lines.append((f"{TITLES[net]}, batch {batch}", f"{zeros} %", *cells))
        yield f"{number} thread{'s' * (number != '1')}:"
        yield table(("network", "zeros", *(n for n in names if n != "eager")), lines)
    yield from _absent(rows)


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
