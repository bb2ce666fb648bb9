"""Bad input: the right error, in words that help, and nothing changed."""

from __future__ import annotations

import pickle
from collections import Counter
from pathlib import Path

import pytest
import torch

import excise
from excise.errors import ExciseError
from tests.errors.bench import Bench, Case, fingerprint
from tests.errors.cases import CASES


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_is_refused_and_nothing_changes(case: Case, tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    act = case.ready(bench)
    before, files = bench.state(), _files(tmp_path)
    with pytest.raises(ExciseError) as caught:
        act()
    error = caught.value
    assert type(error) is case.error
    assert case.mentions in str(error)
    assert "\n  do: " in str(error)
    assert str(error).endswith(".")
    assert bench.state() == before
    assert _files(tmp_path) == files
    again = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own bytes
    assert type(again) is type(error)
    assert str(again) == str(error)


def _files(folder: Path) -> dict[str, bytes]:
    return {str(p): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_there_are_enough_cases_and_no_name_twice() -> None:
    assert len(CASES) >= 60
    assert not [name for name, count in Counter(c.name for c in CASES).items() if count > 1]


def test_every_error_has_a_case() -> None:
    """All but what only the command line or a bug of excise can cause, or takes several ranks."""
    raised = {case.error for case in CASES}
    leaves = {kind for kind in _tree(ExciseError) if not kind.__subclasses__()}
    names = ("RequestError", "NotExactError", "RanksError")
    assert leaves - raised == {getattr(excise.errors, name) for name in names}


def _tree(kind: type[ExciseError]) -> set[type[ExciseError]]:
    return {kind}.union(*(_tree(below) for below in kind.__subclasses__()))


@pytest.mark.parametrize(
    "change",
    [
        lambda b: b.model[3].weight.data.view(-1)[5].add_(1e-6),
        lambda b: b.model[1].running_mean.add_(1e-6),
        lambda b: b.model[3].weight.grad.mul_(2),
        lambda b: b.model.eval(),
        lambda b: b.model[3].register_forward_hook(lambda *_: None),
        lambda b: setattr(b.model[3], "out_channels", 13),
        lambda b: b.model[0].bias.requires_grad_(requires_grad=True),
        lambda b: setattr(b.model[0], "weight", torch.nn.Parameter(b.model[0].weight.detach())),
        lambda _: torch.rand(1),
        lambda b: b.model.zero_grad(),
    ],
)  # fmt: skip
def test_a_change_would_be_seen(change: object, tmp_path: Path) -> None:
    """Meta-test: the state is not blind."""
    bench = Bench(tmp_path)
    before = bench.state()
    assert before == bench.state()
    change(bench)  # type: ignore[operator]
    assert before != bench.state()


def test_two_benches_differ_only_in_identity(tmp_path: Path) -> None:
    assert fingerprint(Bench(tmp_path).model) != fingerprint(Bench(tmp_path).model)
