"""Pick the smallest model of every timm source file, and write the list that `zoo.py` runs.

Rule: all of `timm.list_models()`, grouped by the module of their entrypoint; of each group the
model with the fewest parameters (ties: the first by name), counted after building it on the meta
device. What cannot be built there is listed under "unbuildable", and never picked.

    python benchmarks/families.py          # minutes; writes benchmarks/data/timm_families.json
"""

from __future__ import annotations

import json
import time
import warnings
from collections import defaultdict
from pathlib import Path

import torch
import vision

DATA = Path(__file__).parent / "data" / "timm_families.json"


def parameters(name: str) -> int:
    """Number of parameters of a timm model, without memory for them."""
    import timm  # noqa: PLC0415 - after vision.prepare()

    with torch.device("meta"):
        model = timm.create_model(name, pretrained=False)
    return sum(p.numel() for p in model.parameters())


def pick() -> dict[str, object]:
    """Build every model on the meta device and keep the smallest of each source file."""
    vision.prepare()
    import timm  # noqa: PLC0415
    from timm.models import model_entrypoint  # noqa: PLC0415

    files: dict[str, list[tuple[int, str]]] = defaultdict(list)
    unbuildable: dict[str, str] = {}
    for name in timm.list_models():
        try:
            count = parameters(name)
        except Exception as error:  # noqa: BLE001 - listed, with its message
            unbuildable[name] = f"{type(error).__name__}: {str(error).splitlines()[0][:120]}"
            continue
        files[model_entrypoint(name).__module__.rpartition(".")[2]].append((count, name))
    smallest = {module: min(found) for module, found in sorted(files.items())}
    return {
        "rule": (__doc__ or "").split("\n\n")[1].removeprefix("Rule: ").replace("\n", " "),
        "timm": timm.__version__,
        "models_considered": sum(map(len, files.values())),
        "unbuildable": unbuildable,
        "families": [
            {"family": module, "model": name, "parameters": count}
            for module, (count, name) in smallest.items()
        ],
    }


def main() -> None:
    """Pick, and write the list."""
    warnings.simplefilter("ignore")
    start = time.perf_counter()
    found = pick()
    DATA.parent.mkdir(exist_ok=True)
    DATA.write_text(json.dumps(found, indent=1) + "\n")
    families = found["families"]
    assert isinstance(families, list)  # noqa: S101 - for the type checker
    print(
        f"{len(families)} families from {found['models_considered']} models of timm "
        f"{found['timm']} in {time.perf_counter() - start:.0f} s -> {DATA.name}"
    )


if __name__ == "__main__":
    main()
