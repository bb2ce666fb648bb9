"""Other people's networks: cut, proved, saved, and loaded with the factory of the original."""

from __future__ import annotations

import pytest
import vision
from attempt import VERIFIED, attempt

MODELS = (
    ("torchvision", "mobilenet_v3_small"),
    ("torchvision", "swin_t"),
    ("torchvision", "segmentation/lraspp_mobilenet_v3_large"),
    ("timm", "convnext_atto"),
    ("timm", "vit_tiny_patch16_224"),
    ("transformers", "llama"),
)


@pytest.mark.zoo
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize(("suite", "name"), MODELS)
def test_a_cut_model_loads_with_its_factory(suite: str, name: str) -> None:
    try:
        vision.prepare()
    except ModuleNotFoundError:
        pytest.skip("torchvision is not installed")
    pytest.importorskip(suite)
    row = attempt(suite, name)
    assert row["outcome"] in VERIFIED, row
    assert row["loads"] == "loads"
    assert row.get("generate", "runs") == "runs"
    assert row.get("uniform", "reloads") == "reloads"
