"""Plain PyTorch: cut a network in four steps, train between them, save it, load it.

    python examples/plain.py

Handwritten digits of 8 by 8 pixels (scikit-learn brings them along), seconds on a CPU.
"""

from __future__ import annotations

import copy
import tempfile
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional

import excise
from excise.recover import distill_loss

KEEP, STEPS, BATCH = 0.25, 4, 64


def network() -> nn.Module:
    """A small convolutional network."""
    layers: list[nn.Module] = []
    for before, after in ((1, 32), (32, 64), (64, 64)):
        layers += [nn.Conv2d(before, after, 3, padding=1), nn.BatchNorm2d(after), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(256, 10))


def digits() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Images and labels to train on, and to test on."""
    found = load_digits()
    order = torch.randperm(len(found.target))
    images = torch.tensor(found.images, dtype=torch.float32)[order, None] / 16
    labels = torch.tensor(found.target)[order]
    return images[:1200], labels[:1200], images[1200:], labels[1200:]


def accuracy(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Share of right answers."""
    with torch.no_grad():
        return float((model.eval()(images).argmax(1) == labels).float().mean())


def train(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    images: Tensor,
    labels: Tensor,
    teacher: nn.Module | None = None,
) -> None:
    """One epoch, toward the labels and, if there is one, the teacher."""
    model.train()
    for chosen in torch.randperm(len(images)).split(BATCH):
        found = model(images[chosen])
        loss = functional.cross_entropy(found, labels[chosen])
        if teacher is not None:
            with torch.no_grad():
                wanted = teacher(images[chosen])
            loss = loss + distill_loss(found, wanted, temperature=2.0)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def main() -> None:
    """Train, cut and train in turns, save, load."""
    torch.manual_seed(0)
    images, labels, *held = digits()
    model = network()
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    for _ in range(8):
        train(model, optimizer, images, labels)
    print(f"dense: {accuracy(model, *held):.1%} right")

    teacher = copy.deepcopy(model).eval()
    steps = excise.schedule(
        model, images[:1], keep_macs=KEEP, steps=STEPS, optimizer=optimizer,
        calibration=images.split(BATCH), samples=512,
    )  # fmt: skip
    for step in steps:
        cut = accuracy(model, *held)
        for _ in range(2):
            train(model, optimizer, images, labels, teacher)
        print(f"{step}; {cut:.1%} right, trained {accuracy(model, *held):.1%}")

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "digits.safetensors"
        excise.save(model, step.plan, path)
        again = excise.load(path, build=network).eval()
    print(f"loaded: {accuracy(again, *held):.1%} right")


if __name__ == "__main__":
    main()
