"""The README's code runs as it stands, and its numbers of lines are as promised."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)


def test_the_python_blocks_run_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    scope: dict[str, object] = {}
    for block in BLOCKS:
        exec(compile(block, "README.md", "exec"), scope)  # noqa: S102 - that is the test
    assert (tmp_path / "small.safetensors").exists()
    assert "proved" in capsys.readouterr().out


def test_the_quickstart_is_short() -> None:
    assert len([line for line in BLOCKS[0].splitlines() if line.strip()]) <= 20


def test_the_question_is_answered_in_the_second_paragraph() -> None:
    _, _, second, *_ = README.split("\n\n")
    assert "torch.nn.utils.prune" in second


@pytest.mark.parametrize("link", re.findall(r"\]\((docs/[^)#]*)\)", README))
def test_links_lead_somewhere(link: str) -> None:
    assert (Path(__file__).parents[2] / link).exists()


def test_the_counts_of_networks_are_those_that_were_measured() -> None:
    """The table of README against the rows that `benchmarks/zoo.py` left."""
    folder = Path(__file__).parents[2] / "benchmarks" / "results"
    said = [(int(a), int(b)) for a, b in re.findall(r"\| (\d+) of (\d+) \|", README)]
    found = []
    for suite in ("torchvision", "timm", "transformers", "other", "micro"):
        lines = (folder / f"{suite}.jsonl").read_text("utf-8").splitlines()
        outcomes = [json.loads(line)["outcome"] for line in lines]
        ran = [outcome for outcome in outcomes if outcome != "does not run uncut"]
        found.append((sum(o.startswith("verified") for o in ran), len(ran)))
    assert said == found
