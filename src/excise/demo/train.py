"""Train the demo's network, and test it: an ordinary loop, before the cut and after it."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from excise.demo.data import Split

_BATCH = 64


def train(model: nn.Module, data: Split, *, epochs: int, rate: float) -> None:
    """Adam with one cycle of the learning rate; the same result for the same seed and threads.

    Args:
        model: trained in place, left in eval mode.
        data: the digits.
        epochs: passes over the training images.
        rate: the largest learning rate.
    """
    order = torch.Generator().manual_seed(1)
    optimizer = torch.optim.Adam(model.parameters(), lr=rate)
    steps = epochs * -(-len(data.labels) // _BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=rate, total_steps=steps)
    model.train()
    for _ in range(epochs):
        for batch in torch.randperm(len(data.labels), generator=order).split(_BATCH):
            optimizer.zero_grad()
            loss = functional.cross_entropy(model(data.images[batch]), data.labels[batch])
            loss.backward()
            optimizer.step()
            schedule.step()
    model.eval()


def accuracy(model: nn.Module, data: Split) -> float:
    """Share of the test images that are classified correctly, in percent."""
    with torch.no_grad():
        right = model(data.test_images).argmax(1) == data.test_labels
    return 100.0 * float(right.double().mean())
