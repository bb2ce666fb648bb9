"""One-shot zeros in trained networks: the default method beside magnitude, Wanda and SparseGPT.

No fine-tuning, 512 calibration samples at most, the same share of zeros for all; the published
methods with the same share in every layer, as published.

    python benchmarks/zeros.py --only resnet20 vit --limit 2000
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import real
import torch

from excise.zero import zero

RESULT = Path(__file__).parent / "results" / "zeros.json"
NETWORKS = ("resnet20", "resnet56", "vit", "efficientnet_lite0", "stories260k", "dncnn")
ASKED = ((0.5, "unstructured"), (0.7, "unstructured"), (0.8, "unstructured"), (None, "2:4"))
METHODS = ("magnitude", "wanda", "sparsegpt", "excise")


def row(it: Any, name: str, method: str, asked: tuple[float | None, str], limit: int | None) -> Any:
    """One method on one network: zeros, metric, seconds."""
    share, pattern = asked
    example = it.example if isinstance(it.example, tuple) else (it.example,)
    options: dict[str, Any] = {"method": method, "allocation": "uniform"}
    start = time.perf_counter()
    made = zero(
        it.model,
        *example,
        sparsity=share,
        pattern=pattern,
        calibration=[args for args, _ in it.calib],
        samples=512,
        **({} if method == "excise" else options),
    )
    spent = time.perf_counter() - start
    found = it.evaluate(made.model, limit=limit)
    return {
        "network": name, "pattern": pattern, "asked": share or 0.5, "method": method,
        "zeros": made.zeros, "metric": found, "seconds": spent, "limit": limit,
    }  # fmt: skip


def main() -> None:
    """Measure, print, and leave the numbers; rows that are there already are measured again."""
    ask = argparse.ArgumentParser(description=__doc__)
    ask.add_argument("--only", nargs="*", default=NETWORKS)
    ask.add_argument(
        "--limit", type=int, default=None, help="samples to evaluate on; all by default"
    )
    given = ask.parse_args()
    torch.set_num_threads(1)
    rows = json.loads(RESULT.read_text()) if RESULT.exists() else []
    for name in given.only:
        it = real.load(name)
        dense = it.evaluate(it.model, limit=given.limit)
        print(f"{name}: dense {dense:.4g}", flush=True)
        for asked in ASKED:
            for method in METHODS:
                made = row(it, name, method, asked, given.limit) | {"dense": dense}
                key = [made[k] for k in ("network", "pattern", "asked", "method")]
                rows = [
                    r
                    for r in rows
                    if [r[k] for k in ("network", "pattern", "asked", "method")] != key
                ]
                rows.append(made)
                RESULT.write_text(json.dumps(rows, indent=1) + "\n")
                print(
                    f"  {asked[1]} {made['zeros']:.1%} {method:<10} {made['metric']:.4g}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
