"""What calibration costs: seconds against layers and against samples, and a ResNet-50 whole.

Watching, ranking, probing and refitting, of residual networks of growing depth on growing data;
processor time, so that a busy machine does not show. The ResNet-50 has 512 images of 224 x 224 and
two threads; wall time and peak memory of its own process.

    python benchmarks/calibrating.py               # depth and samples, about two minutes
    python benchmarks/calibrating.py --resnet50    # and the ResNet-50
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import torch
import vision
from job import peak_mib
from torch import Tensor, nn

import excise

RESULTS = Path(__file__).parent / "results" / "calibrating.json"
BLOCKS = (4, 8, 16, 32)
SAMPLES = (64, 128, 256, 512)
IMAGES = 512


class Block(nn.Module):
    """Two convolutions beside a stream."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.one, self.two = (nn.Conv2d(width, width, 3, padding=1, bias=False) for _ in range(2))
        self.norm1, self.norm2 = nn.BatchNorm2d(width), nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        """Add the branch."""
        out: Tensor = (x + self.norm2(self.two(self.norm1(self.one(x)).relu()))).relu()
        return out


def network(blocks: int, width: int = 16) -> nn.Module:
    """A plain residual network for small pictures."""
    torch.manual_seed(0)
    body = [Block(width) for _ in range(blocks)]
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 10)]
    return nn.Sequential(nn.Conv2d(3, width, 3, padding=1), *body, *head).eval()


def seconds(blocks: int, samples: int) -> float:
    """Processor seconds of one `prune` with calibration, without proof and timing."""
    model, data = network(blocks), torch.randn(samples, 3, 16, 16)
    start = time.process_time()
    excise.prune(
        model, data[:2], keep_macs=0.5, calibration=data.split(32), verify=False, latency=False
    )
    return time.process_time() - start


def resnet50() -> dict[str, float]:
    """A whole ResNet-50, in this process."""
    vision.prepare()
    from torchvision.models import resnet50 as build  # noqa: PLC0415 - after it is prepared

    torch.set_num_threads(2)
    torch.manual_seed(0)
    model, data = build().eval(), torch.randn(IMAGES, 3, 224, 224)
    start = time.perf_counter()
    excise.prune(
        model, data[:1], keep_macs=0.5, calibration=data.split(32), verify=False, latency=False
    )
    return {"seconds": time.perf_counter() - start, "peak_mib": peak_mib()}


def main() -> None:
    """Measure, print, store."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--resnet50", action="store_true")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    if given.worker:
        print(json.dumps(resnet50()))
        return
    torch.set_num_threads(1)
    found: dict[str, Any] = json.loads(RESULTS.read_text("utf-8")) if RESULTS.exists() else {}
    seconds(2, 64)  # what only the first run does
    found["blocks"] = [(n, seconds(n, 128)) for n in BLOCKS]
    found["samples"] = [(n, seconds(8, n)) for n in SAMPLES]
    if given.resnet50:
        command = [sys.executable, __file__, "--worker"]
        done = subprocess.run(command, capture_output=True, text=True, check=True)  # noqa: S603
        found["resnet50"] = json.loads(done.stdout.splitlines()[-1])
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(found, indent=1) + "\n", "utf-8")
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
