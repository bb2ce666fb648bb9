"""From MODEL on the command line to a module: its architecture, and its weights."""

from __future__ import annotations

import copy
import importlib
import importlib.util
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn

from excise.cli import vendor
from excise.cli.state import load_state
from excise.errors import RequestError

_SEED = 0  # so that two commands on the same MODEL without weights speak of the same weights
_KINDS = "torchvision:NAME, timm:NAME, transformers:DIR, package.module:FACTORY or file.py:FACTORY"


@dataclass(frozen=True)
class Source:
    """Where a model comes from.

    Attributes:
        name: MODEL as it was given.
        architecture: makes the model, without regard to its weights.
        filled: makes it with the weights that lie beside its description, if any do.
        weights: a file to load instead.
    """

    name: str
    architecture: Callable[[], nn.Module]
    filled: Callable[[], nn.Module]
    weights: Path | None = None

    def build(self) -> nn.Module:
        """The architecture in eval mode; random weights come from a fixed seed."""
        return self._made(self.architecture)

    def model(self) -> nn.Module:
        """The model in eval mode, with its weights.

        Raises:
            RequestError: it cannot be made, or the weights do not fit.
        """
        if self.weights is None:
            return self._made(self.filled)
        model = self.build()
        load_state(model, self.weights)
        return model

    def _made(self, factory: Callable[[], Any]) -> nn.Module:
        try:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(_SEED)
                model = factory()
        except RequestError:
            raise
        except Exception as error:
            do = "make the factory callable without arguments, and check the name"
            raise RequestError.of(error, f"{self.name} cannot be built", "", do) from error
        if not isinstance(model, nn.Module):
            do = "name a function or class that returns a torch.nn.Module without arguments"
            what = f"{self.name} makes a {type(model).__name__}, no torch.nn.Module"
            raise RequestError(what, "", do)
        return model.eval()


def resolve(name: str, weights: Path | None = None) -> Source:
    """Find what MODEL names; nothing is built, and nothing downloaded.

    Raises:
        RequestError: it names nothing, or a library that is not installed.
    """
    kind, colon, rest = name.partition(":")
    if not colon or not rest:
        do = f"write MODEL as {_KINDS}"
        raise RequestError(f"{name!r} does not say where the model comes from", "", do)
    if kind in vendor.VENDORS:
        architecture, filled = vendor.VENDORS[kind](rest)
    else:
        place, _, attribute = name.rpartition(":")
        factory = _attribute(place, attribute)
        made = isinstance(factory, nn.Module)
        architecture = (lambda: copy.deepcopy(factory)) if made else factory
        filled = architecture
    return Source(name, architecture, filled, weights)


def _attribute(place: str, attribute: str) -> Any:
    """The object of that name in a module or a file."""
    try:
        module = _file(Path(place)) if place.endswith(".py") else _module(place)
    except RequestError:
        raise
    except Exception as error:
        do = f"write MODEL as {_KINDS}"
        raise RequestError.of(error, f"{place} cannot be imported", "", do) from error
    found = getattr(module, attribute, None)
    if not callable(found):
        names = sorted(n for n, v in vars(module).items() if callable(v) and not n.startswith("_"))
        do = f"name one of {', '.join(names[:12])}" if names else "define a factory there"
        raise RequestError(f"there is no callable {attribute!r} in {place}", "", do)
    return found


def _module(name: str) -> ModuleType:
    here = str(Path.cwd())
    if here not in sys.path:  # `python -m excise` has it, the installed command has not
        sys.path.insert(0, here)
    return importlib.import_module(name)


def _file(path: Path) -> ModuleType:
    if not path.is_file():
        raise RequestError(f"there is no file {path}", "", "check the path before the colon")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise RequestError(f"{path} is no Python file", "", "pass a file that ends in .py")
    module = importlib.util.module_from_spec(spec)
    sys.modules.setdefault(path.stem, module)  # dataclasses and pickles look their module up
    spec.loader.exec_module(module)
    return module
