"""Pick the models that `zoo.py` runs: of timm by size, of transformers what a small config builds.

Rule: all of `timm.list_models()`, grouped by the module of their entrypoint; of each group the
model with the fewest parameters (ties: the first by name), counted after building it on the meta
device. What cannot be built there is listed under "unbuildable", and never picked.

    python benchmarks/families.py                 # minutes; benchmarks/data/timm_families.json
    python benchmarks/families.py transformers    # minutes; ... transformers_families.json
"""

from __future__ import annotations

import json
import sys
import time
import warnings
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch
import vision
from suites import transformers as suite

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


def transformers() -> dict[str, object]:
    """Build every family of transformers that a small configuration makes small."""
    suite.quiet()
    import transformers as library  # noqa: PLC0415
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING  # noqa: PLC0415

    found: list[dict[str, Any]] = []
    without: dict[str, str] = {}
    for name in CONFIG_MAPPING:
        row = _first(name, CONFIG_MAPPING[name])
        if isinstance(row, str):
            without[name] = row
        else:
            found.append(row)
        print(name, row, flush=True)
    return {
        "rule": (suite.__doc__ or "").split("\n\n")[1].replace("\n", " "),
        "transformers": library.__version__,
        "families_considered": len(found) + len(without),
        "without": without,
        "families": found,
    }


def _first(name: str, config: Any) -> dict[str, Any] | str:
    """The first head, configuration and input of a family that run; else the first error."""
    first = ""
    for variant, change in enumerate(suite.VARIANTS):
        for head, auto in suite.heads().items():
            try:
                small = suite.configuration(config, change)
                if type(small) not in auto._model_mapping:  # noqa: SLF001 - has no public name
                    continue
                with torch.device("meta"):
                    count = sum(p.numel() for p in auto.from_config(small).parameters())
                if count > suite.LARGEST:
                    return f"{count / 1e6:.0f} M parameters"
                model = suite.made(name, head, change)
            except Exception as error:  # noqa: BLE001 - listed, with its message
                first = first or _told(error)
                continue
            for number, given in enumerate(suite.candidates(model)):
                try:
                    with torch.no_grad():
                        model(**given)
                except Exception as error:  # noqa: BLE001 - the next input, then
                    first = first or _told(error)
                    continue
                row = {"family": name, "head": head, "variant": variant, "input": number}
                return {**row, "parameters": count}
    return first or "no head that is tried"


def _told(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0][:120]}"


def main() -> None:
    """Pick, and write the list."""
    warnings.simplefilter("ignore")
    if sys.argv[1:] == ["transformers"]:
        torch.set_num_threads(1)
        suite.DATA.write_text(json.dumps(transformers(), indent=1) + "\n")
        return
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
