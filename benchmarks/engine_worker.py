"""One engine with one network in a process of its own; runs when it is told, and times itself.

Lives in the environment of its engine, which may have no torch: everything is imported where it is
used. Reads a number of seconds for each turn from its input, writes a line of JSON for each.

    python benchmarks/engine_worker.py "OpenVINO" resnet50 FOLDER 1
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

Call = Callable[[], Any]
FEWEST = 2  # calls of a turn


def _torch(threads: int) -> Any:
    import torch  # noqa: PLC0415

    torch.set_num_threads(threads)
    torch.set_grad_enabled(False)
    return torch


def _loaded(name: str, folder: Path) -> tuple[Any, Any]:
    import engine_nets  # noqa: PLC0415

    return engine_nets.load(name, folder)


def eager(name: str, folder: Path, threads: int) -> Call:
    """Torch as it is."""
    _torch(threads)
    model, x = _loaded(name, folder)
    return lambda: model(x)


def channels_last(name: str, folder: Path, threads: int) -> Call:
    """Torch with images in the order that its convolutions like best."""
    torch = _torch(threads)
    model, x = _loaded(name, folder)
    model = model.to(memory_format=torch.channels_last)
    x = x.to(memory_format=torch.channels_last)
    return lambda: model(x)


def inductor(name: str, folder: Path, threads: int) -> Call:
    """`torch.compile` with constants folded and weights packed beforehand."""
    torch = _torch(threads)
    from torch._inductor import config  # noqa: PLC0415

    config.freezing = True
    model, x = _loaded(name, folder)
    compiled = torch.compile(model)
    return lambda: compiled(x)


def sparsify(name: str, folder: Path, threads: int) -> Call:
    """`excise.sparsify`."""
    _torch(threads)
    import excise  # noqa: PLC0415

    model, x = _loaded(name, folder)
    made = excise.sparsify(model, x)
    del model
    small = made.model
    return lambda: small(x)


def backend(name: str, folder: Path, threads: int) -> Call:
    """`torch.compile(backend="excise")`.

    Raises:
        NotImplementedError: there is no such backend.
    """
    torch = _torch(threads)
    torch.compiler.list_backends()  # loads the compiler, which an excise on the path alone tells of
    import excise  # noqa: F401, PLC0415

    if "excise" not in torch.compiler.list_backends(exclude_tags=()):
        raise NotImplementedError('no backend "excise" in this version')
    model, x = _loaded(name, folder)
    compiled = torch.compile(model, backend="excise")
    return lambda: compiled(x)


def onnxruntime(name: str, folder: Path, threads: int) -> Call:
    """ONNX Runtime."""
    del name
    ort: Any = importlib.import_module("onnxruntime")

    options = ort.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 3
    session = ort.InferenceSession(str(folder / "model.onnx"), options, ["CPUExecutionProvider"])
    fed = {"x": np.load(folder / "example.npy")}
    return lambda: session.run(None, fed)[0]


def _openvino(folder: Path, threads: int, precision: str) -> Call:
    ov: Any = importlib.import_module("openvino")

    core = ov.Core()
    asked = {
        "INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1, "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": precision,
    }  # fmt: skip
    request = core.compile_model(str(folder / "model.onnx"), "CPU", asked).create_infer_request()
    request.set_input_tensor(ov.Tensor(np.load(folder / "example.npy")))

    def call() -> Any:
        request.infer()
        return request.get_output_tensor().data

    return call


def openvino(name: str, folder: Path, threads: int) -> Call:
    """OpenVINO in float32."""
    del name
    return _openvino(folder, threads, "f32")


def openvino_bf16(name: str, folder: Path, threads: int) -> Call:
    """OpenVINO in bfloat16, dense."""
    del name
    return _openvino(folder, threads, "bf16")


def deepsparse(name: str, folder: Path, threads: int) -> Call:
    """DeepSparse, which knows zeros."""
    del name
    it: Any = importlib.import_module("deepsparse")

    fed = [np.load(folder / "example.npy")]
    engine = it.compile_model(str(folder / "model.onnx"), len(fed[0]), num_cores=threads)
    return lambda: engine.run(fed, val_inp=False)[0]


ENGINES: dict[str, Callable[[str, Path, int], Call]] = {
    "eager": eager, "eager channels_last": channels_last, "inductor": inductor,
    "excise": sparsify, "excise compiled": backend, "ONNX Runtime": onnxruntime,
    "OpenVINO": openvino, "OpenVINO bf16": openvino_bf16, "DeepSparse": deepsparse,
}  # fmt: skip


def difference(found: Any, folder: Path) -> float:
    """The worst difference from eager's output, as a share of its largest element."""
    wanted = np.load(folder / "output.npy")
    given = np.asarray(found.float() if hasattr(found, "float") else found)
    if given.shape != wanted.shape or not np.isfinite(given).all():
        return float("inf")
    return float(np.abs(given - wanted).max() / np.abs(wanted).max())


def turn(call: Call, seconds: float) -> dict[str, list[float]]:
    """Wall and processor milliseconds of as many calls as fit.

    The first, which finds the caches as another engine left them, is not counted, unless it alone
    takes as long as a turn.
    """
    wall: list[float] = []
    busy: list[float] = []
    first = True
    while first or len(wall) < FEWEST or sum(wall) < 1e3 * seconds:
        begun, used = time.perf_counter(), time.process_time()
        call()
        spent = 1e3 * (time.perf_counter() - begun)
        if not first or spent >= 1e3 * seconds:
            busy.append(1e3 * (time.process_time() - used))
            wall.append(spent)
        if first and wall:
            break
        first = False
    return {"wall": wall, "cpu": busy}


def main() -> None:
    """Prepare, say so, take turns until the input ends."""
    engine, name, folder, threads = sys.argv[1:5]
    told = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what engines print of their own is no answer

    def tell(row: dict[str, Any]) -> None:
        told.write(json.dumps(row) + "\n")
        told.flush()

    start = time.perf_counter()
    try:
        call = ENGINES[engine](name, Path(folder), int(threads))
        worst = difference(call(), Path(folder))
    except NotImplementedError as error:
        tell({"missing": str(error)})
        return
    except Exception as error:  # noqa: BLE001 - whatever an engine raises is its row
        first = (str(error).strip().splitlines() or [""])[0]
        tell({"failed": f"{type(error).__name__}: {first[:300]}"})
        return
    tell({"difference": worst, "prepared_s": time.perf_counter() - start})
    for line in sys.stdin:
        tell(turn(call, float(line)))


if __name__ == "__main__":
    main()
