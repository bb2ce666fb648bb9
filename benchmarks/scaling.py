"""How tracing scales: a LLaMA of 7 billion parameters on the meta device, and 8 to 128 layers.

The model is built on the meta device (no weights), and traced once in this process. Memory is what
the trace adds to the process at its peak; the imports and the model are there before.

    python benchmarks/scaling.py                  # about a minute
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
from job import Limit, peak_mib, work
from suites import transformers as suite

import excise

RESULT = Path(__file__).parent / "results" / "scaling.json"
LAYERS = (8, 16, 32, 64, 128)
SEVEN_BILLION = {
    "hidden_size": 4096, "intermediate_size": 11008, "num_attention_heads": 32,
    "num_key_value_heads": 32, "vocab_size": 32000, "max_position_embeddings": 4096,
}  # fmt: skip
SECONDS, MIB = 10.0, 1024.0
"""What a trace of 32 layers may take."""


def measured(_: str, layers: str) -> dict[str, object]:
    """Trace a model of so many layers; runs in a process of its own."""
    import transformers  # noqa: PLC0415 - imported by the suite already

    config = transformers.LlamaConfig(
        **SEVEN_BILLION, num_hidden_layers=int(layers), use_cache=False
    )
    with torch.device("meta"):
        model = transformers.LlamaForCausalLM(config).eval()
        tokens = torch.zeros(1, 16, dtype=torch.long)
    before, start = peak_mib(), time.perf_counter()
    graph = excise.trace(model, input_ids=tokens, use_cache=False)
    seconds = time.perf_counter() - start
    return {
        "suite": "scaling",
        "model": layers,
        "outcome": "traced",
        "layers": int(layers),
        "params": sum(p.numel() for p in model.parameters()),
        "ops": len(graph.trace.ops),
        "groups": len(graph.groups),
        "trace_s": round(seconds, 3),
        "trace_mib": round(peak_mib() - before, 1),
    }


def main() -> None:
    """Measure, print, write, and say whether the promises hold."""
    argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0]).parse_args()
    torch.set_num_threads(1)
    suite.prepare()
    from transformers.models.llama import modeling_llama  # noqa: F401, PLC0415 - before the forks

    rows = []
    for row in work(measured, [("scaling", str(n)) for n in LAYERS], 1, Limit(600, 20_000)):
        rows.append(row)
        print(
            f"{row['model']:>4s} layers  {row.get('params', 0) / 1e9:6.2f} G params  "
            f"{row.get('ops', 0):6d} ops  {row.get('groups', 0):4d} axes  "
            f"trace {row.get('trace_s', float('nan')):6.2f} s  "
            f"{row.get('trace_mib', float('nan')):6.0f} MiB  {row.get('reason', '')}",
            flush=True,
        )
    x = np.log([row["layers"] for row in rows])
    y = np.log([row["trace_s"] for row in rows])
    power = float(np.polyfit(x, y, 1)[0])
    middle = next(row for row in rows if row["layers"] == 32)  # noqa: PLR2004 - 7 B is 32 layers
    print(f"time grows as layers to the power {power:.2f} (1 is linear)")
    fast = middle["trace_s"] < SECONDS and middle["trace_mib"] < MIB
    print(
        f"7 B: {'holds' if fast else 'DOES NOT HOLD'}: {middle['trace_s']} s (< {SECONDS:.0f} s), "
        f"{middle['trace_mib']} MiB (< {MIB:.0f} MiB)"
    )
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps({"power": round(power, 3), "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
