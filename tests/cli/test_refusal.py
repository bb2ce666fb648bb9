"""Wrong command lines: exit code 2, what and what to do on stderr, nothing on stdout."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from torch import nn

from tests.cli.call import INPUT, NET, call, succeed
from tests.cli.factory import net


class Case(NamedTuple):
    """One row; `words` may need a folder."""

    name: str
    words: Callable[[Path], tuple[object, ...]]
    mentions: str


def _prune(*words: object) -> Callable[[Path], tuple[object, ...]]:
    return lambda _: ("prune", *words)


def _inspect(model: str, *words: object) -> Callable[[Path], tuple[object, ...]]:
    return lambda _: ("inspect", model, *words)


def _weights(write: Callable[[Path], object]) -> Callable[[Path], tuple[object, ...]]:
    def words(folder: Path) -> tuple[object, ...]:
        write(folder / "w.pt")
        return ("inspect", NET, *INPUT, "--weights", folder / "w.pt")

    return words


def _verify(
    change: Callable[[bytes], bytes], *more: object, model: str = NET
) -> Callable[[Path], tuple[object, ...]]:
    def words(folder: Path) -> tuple[object, ...]:
        path = folder / "small.safetensors"
        succeed("prune", NET, *INPUT, "--no-latency", "--keep-macs", 0.5, "-o", path)
        path.write_bytes(change(path.read_bytes()))
        return ("verify", model, path, *INPUT, *more)

    return words


def _bad_source(folder: Path) -> tuple[object, ...]:
    (folder / "bad.py").write_text("import there_is_no_such_package\n")
    return ("inspect", f"{folder / 'bad.py'}:net", *INPUT)


def _config(folder: Path) -> tuple[object, ...]:
    (folder / "config.json").write_text('{"model_type": "no_such_model"}')
    return ("inspect", f"transformers:{folder / 'config.json'}")


class Mean:
    """A class whose pickle would run code."""


HALF = ("--keep-macs", 0.5)
CASES = [
    Case("slower than before", _prune(NET, *INPUT, "--speedup", 0.5), "1 or above"),
    Case("no time at all", _prune(NET, *INPUT, "--latency-ms", 0), "above 0"),
    Case("a speed and a size", _prune(NET, *INPUT, "--speedup", 2, *HALF), "exactly one of"),
    Case("faster than can be", _prune(NET, *INPUT, "--speedup", 1e5), "measured"),
    Case("no colon", _inspect("resnet50"), "where the model comes from"),
    Case("nothing after the colon", _inspect("timm:"), "where the model comes from"),
    Case("an unknown package", _inspect("no_such_package.x:net", *INPUT), "cannot be imported"),
    Case("no such factory", _inspect("tests.cli.factory:resnet", *INPUT), "name one of"),
    Case("no such file", _inspect("nowhere.py:net", *INPUT), "no file nowhere.py"),
    Case("a file that does not import", _bad_source, "there_is_no_such_package"),
    Case("a factory with arguments", _inspect("tests.cli.factory:needy", *INPUT), "width"),
    Case("a factory of no module", _inspect("tests.cli.factory:number", *INPUT), "makes a int"),
    Case("an unknown timm model", _inspect("timm:resnet51"), "did you mean resnet51q"),
    Case("an unknown torchvision model", _inspect("torchvision:resnet51"), "did you mean"),
    Case("no such folder", _inspect("transformers:/no/such/folder"), "nothing is downloaded"),
    Case("an unknown config", _config, "no_such_model"),
    Case("no input known", _inspect(NET), "--input"),
    Case("an input in words", _inspect(NET, "-i", "3 by 8"), "'3 by 8' is no input"),
    Case("an input of another shape", _inspect(NET, "-i", "1x4x8x8"), "module '0'"),
    Case("an input by an unknown name", _inspect(NET, "-i", "image=1x3x8x8"), "image"),
    Case("an input file that is not there", _inspect(NET, "-i", "no.npy"), "no.npy cannot be read"),
    Case("two budgets", _prune(NET, *INPUT, *HALF, "--keep-params", 0.5), "exactly one of"),
    Case("no budget", _prune(NET, *INPUT), "exactly one of"),
    Case("a budget above 1", _prune(NET, *INPUT, "--keep-macs", 50), "(0, 1]"),
    Case("a budget of NaN", _prune(NET, *INPUT, "--keep-macs", "nan"), "nan"),
    Case("out of reach", _prune(NET, *INPUT, "--keep-macs", 0.001), "cannot be reached"),
    Case("an unknown criterion", _prune(NET, *INPUT, *HALF, "--criterion", "l0"), "magnitude"),
    Case("a criterion that needs gradients", _prune(NET, *INPUT, *HALF, "--criterion", "taylor"),
         "excise.prune from Python"),
    Case("a criterion that needs data", _prune(NET, *INPUT, *HALF, "--criterion", "obs"),
         "needs calibration data"),
    Case("protect nothing", _prune(NET, *INPUT, *HALF, "--protect", "head"), "'head'"),
    Case("an output in no folder", _prune(NET, *INPUT, *HALF, "-o", "/no/such/x.safetensors"),
         "no folder"),
    Case("a folder for a model that fills none",
         lambda f: ("prune", NET, *INPUT, *HALF, "--uniform", "-o", f), "save_pretrained"),
    Case("an output that is a folder", lambda f: ("prune", NET, *INPUT, *HALF, "-o", f),
         "is a folder"),
    Case("weights that are not there", lambda f: ("inspect", NET, *INPUT, "-w", f / "no.pt"),
         "there is no file"),
    Case("weights of another model",
         _weights(lambda p: torch.save(nn.Linear(3, 3).state_dict(), p)), "lacks"),
    Case("weights of a wider model",
         _weights(lambda p: torch.save({**net().state_dict(), "7.bias": torch.zeros(6)}, p)),
         "7.bias is (6,) instead of (5,)"),
    Case("one weight too many",
         _weights(lambda p: torch.save({**net().state_dict(), "8.bias": torch.zeros(6)}, p)),
         "too many: 8.bias"),
    Case("a pickled object as weights", _weights(lambda p: p.write_bytes(pickle.dumps(Mean()))),
         "cannot be read"),
    Case("a whole module as weights", _weights(lambda p: torch.save(net(), p)), "cannot be read"),
    Case("a tensor as weights", _weights(lambda p: torch.save(torch.ones(3), p)),
         "holds a Tensor"),
    Case("an empty file as weights", _weights(lambda p: p.write_bytes(b"")), "cannot be read"),
    Case("no small file", lambda f: ("verify", NET, f / "no.safetensors", *INPUT), "No such file"),
    Case("a truncated small file", _verify(lambda raw: raw[:-50]), "tensors"),
    Case("a small file of another model", _verify(bytes, model="torch.nn:ReLU"), "does not fit"),
    Case("report on no small file", lambda f: ("report", NET, f / "no.safetensors", *INPUT),
         "No such file"),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_is_refused_in_words(case: Case, tmp_path: Path) -> None:
    words = case.words(tmp_path)
    files = sorted(tmp_path.rglob("*"))
    said = call(*words)
    assert said.code == 2
    assert said.err.startswith("excise: ")
    assert case.mentions in said.err
    assert "\n  do: " in said.err
    assert "Traceback" not in said.err
    assert said.out == ""
    assert sorted(tmp_path.rglob("*")) == files


@pytest.mark.parametrize("words", [("prune",), ("inspect", NET, "--no-such-option"), ("fly",)])
def test_what_the_parser_refuses(words: tuple[str, ...]) -> None:
    said = call(*words)
    assert said.code == 2
    assert said.out == ""


def test_a_bug_is_not_dressed_up_as_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is no deliberate error keeps its traceback."""

    def broken(*_: object) -> object:
        raise ZeroDivisionError

    monkeypatch.setattr("excise.cli.inspect.trace", broken)
    with pytest.raises(ZeroDivisionError):
        call("inspect", NET, *INPUT)
