"""Models of other libraries, by name; a new library is a row."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from excise.errors import RequestError

Factories = tuple[Callable[[], Any], Callable[[], Any]]
_DECLARED: list[torch.library.Library] = []  # a Library withdraws its ops when it is collected
_STORED = (  # how transformers names the files of a model's own weights
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
_NMS = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"


def torchvision(name: str) -> Factories:
    """A torchvision model by its registered name, with random weights."""
    models = _library("torchvision.models")
    if name not in models.list_models():
        raise _unknown("torchvision", name, models.list_models())
    sizes = {"aux_logits": False} if name in {"googlenet", "inception_v3"} else {}

    def build() -> Any:
        return models.get_model(name, weights=None, **sizes)

    return build, build


def timm(name: str) -> Factories:
    """A timm model by its registered name, with random weights."""
    library = _library("timm")
    if not library.is_model(name):
        raise _unknown("timm", name, library.list_models())

    def build() -> Any:
        return library.create_model(name, pretrained=False)

    return build, build


def transformers(place: str) -> Factories:
    """A Hugging Face model from a folder or a config file on this machine."""
    library = _library("transformers")
    path = Path(place)
    if not path.exists():
        do = "pass a folder with a config.json, or that file; nothing is downloaded"
        raise RequestError(f"there is no {place}", "transformers:", do)
    try:
        config = library.AutoConfig.from_pretrained(place, local_files_only=True)
    except Exception as error:
        do = "pass a config.json that this version of transformers knows"
        raise RequestError.of(error, f"{place} cannot be read", "transformers:", do) from error
    names = [n for n in getattr(config, "architectures", None) or () if hasattr(library, n)]
    known = getattr(library, names[0]) if names else None

    def build() -> Any:
        # from_config has a public spelling only on the Auto classes
        if known is None:
            return library.AutoModel.from_config(config)
        return known._from_config(config)  # noqa: SLF001

    def filled() -> Any:
        if not any((path / name).is_file() for name in _STORED):
            return build()
        return (known or library.AutoModel).from_pretrained(place, local_files_only=True)

    return build, filled


VENDORS: dict[str, Callable[[str], Factories]] = {
    "torchvision": torchvision,
    "timm": timm,
    "transformers": transformers,
}


def _library(name: str) -> ModuleType:
    """Import a library; torchvision and what imports it also beside a CPU build of torch."""
    package = name.partition(".")[0]
    try:
        _declare_ops()
        return importlib.import_module(name)
    except ImportError as error:
        do = f"pip install {package}"
        raise RequestError(f"{package} is not installed", f"import {name}", do) from error


def _declare_ops() -> None:
    """Import torchvision, if it is there.

    Its usual wheel is built against CUDA; beside a CPU build of torch the compiled part does not
    load, and the rest wants to register shape rules for two ops that nobody has declared.
    Declaring them is enough for every model that does not call them.
    """
    try:
        importlib.import_module("torchvision")
    except ModuleNotFoundError:
        return
    except (RuntimeError, ImportError):
        library = torch.library.Library("torchvision", "DEF")  # kept alive below
        for op in ("nms", "qnms"):
            library.define(op + _NMS)
        _DECLARED.append(library)
        importlib.import_module("torchvision")


def _unknown(kind: str, name: str, names: list[str]) -> RequestError:
    close = difflib.get_close_matches(name, names, n=5)
    do = f"did you mean {', '.join(close)}?" if close else f"pass one of {kind}'s names"
    return RequestError(f"{kind} has no model {name!r}", "", do.rstrip("?"))
