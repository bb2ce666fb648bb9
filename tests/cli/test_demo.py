"""The demo: its claims hold, and it fails when one does not."""

from __future__ import annotations

import sys

import pytest
import torch
from torch import nn

from excise.demo import Claim, story
from excise.demo.data import Split, digits
from excise.demo.mask import masked, zeros
from excise.demo.network import Digits
from tests.cli.call import call, succeed

pytest.importorskip("sklearn")


def test_a_claim_that_does_not_hold_fails_the_demo(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without fine-tuning the accuracy does not come back: said, and exit code 1."""
    few = Split(*(part[:128] for part in digits()))
    monkeypatch.setattr(story, "digits", lambda: few)
    for name in ("_EPOCHS", "_TUNING", "_ROUNDS"):
        monkeypatch.setattr(story, name, 1)
    monkeypatch.setattr(story, "_LOSS", -100.0)
    monkeypatch.setattr(story, "_SLACK", 0.0)
    threads = torch.get_num_threads()
    said = call("demo", "--json")
    assert said.code == 1
    assert torch.get_num_threads() == threads
    data = said.data()
    assert data["command"] == "demo"
    assert data["holds"] is False
    failed = [claim["text"] for claim in data["claims"] if not claim["holds"]]
    assert {text for text in failed if "accuracy" in text or "faster" in text} == set(failed)
    assert any("accuracy" in text for text in failed)
    names = [stage["name"] for stage in data["stages"]]
    assert names == [story.TRAINED, story.ATTACHED, story.MASKED, story.CUT, story.TUNED]
    assert data["verdict"]["passed"] is True


@pytest.mark.slow
def test_every_claim_holds() -> None:
    said = succeed("demo")
    assert said.out.count("holds: ") == 8
    assert "FAILS" not in said.out
    assert "excise: training" in said.err


def test_masks_leave_every_shape() -> None:
    torch.manual_seed(0)
    model = Digits()
    after = masked(model)
    assert zeros(after) == pytest.approx(51, abs=1)
    assert zeros(model) == 0
    shapes = [p.shape for p in model.parameters()]
    assert sorted(p.shape for p in after.parameters()) == sorted(shapes)
    attached: nn.Module = masked(model, permanent=False)
    assert any(name.endswith("weight_mask") for name, _ in attached.named_buffers())


def test_a_claim_says_whether_it_holds() -> None:
    assert str(Claim("it works", holds=True, evidence="1 ms")) == "holds: it works (1 ms)"
    assert str(Claim("it works", holds=False, evidence="1 ms")).startswith("FAILS: ")


def test_without_the_digits_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    said = call("demo")
    assert said.code == 2
    assert "pip install 'excise[demo]'" in said.err
