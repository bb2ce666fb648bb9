"""Lightning: a callback cuts the network at the beginning of some epochs of one `fit`.

    pip install lightning && python examples/with_lightning.py

Handwritten digits of 8 by 8 pixels (scikit-learn brings them along), seconds on a CPU.
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Iterator
from pathlib import Path

import lightning
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

import excise
from excise.recover import distill_loss


def network() -> nn.Module:
    """A perceptron."""
    layers = [nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 10)]
    return nn.Sequential(nn.Flatten(), *layers)


class Digits(lightning.LightningModule):  # type: ignore[misc]
    """Classifies, with a dense teacher once there is one."""

    def __init__(self) -> None:
        super().__init__()
        self.network = network()
        self.teacher: list[nn.Module] = []  # in a list, so that it is no part of the module

    def training_step(self, batch: list[Tensor]) -> Tensor:
        """Cross-entropy, and the distance from the teacher."""
        images, labels = batch
        found = self.network(images)
        loss = functional.cross_entropy(found, labels)
        for teacher in self.teacher:
            loss += distill_loss(found, teacher(images), temperature=2.0)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """AdamW; a scheduler of learning rates may hold it as well."""
        return torch.optim.AdamW(self.parameters(), lr=1e-3)


class Prune(lightning.Callback):  # type: ignore[misc]
    """From epoch `start` on, cuts before every second epoch."""

    def __init__(self, start: int, steps: int, calibration: DataLoader[tuple[Tensor, ...]]) -> None:
        self.start, self.steps, self.calibration = start, steps, calibration
        self.cuts: Iterator[excise.Step]
        self.plan: excise.Plan

    def on_train_epoch_start(self, trainer: lightning.Trainer, pl_module: Digits) -> None:
        """Cut, if it is time."""
        model, epoch = pl_module.network, trainer.current_epoch
        if epoch == self.start:
            pl_module.teacher = [copy.deepcopy(model).eval().requires_grad_(requires_grad=False)]
            self.cuts = excise.schedule(
                model, next(iter(self.calibration))[0][:1], keep_params=0.2, steps=self.steps,
                optimizer=trainer.optimizers, calibration=self.calibration, samples=512,
            )  # fmt: skip
        if epoch >= self.start and (epoch - self.start) % 2 == 0:
            step = next(self.cuts)
            self.plan = step.plan
            print(f"epoch {epoch}: {step}")


def main() -> None:
    """Train, cut and train in one `fit`; save, load."""
    lightning.seed_everything(0, verbose=False)
    found = load_digits()
    images, labels = torch.tensor(found.images).float() / 16, torch.tensor(found.target)
    loader = DataLoader(TensorDataset(images[:1200], labels[:1200]), batch_size=64, shuffle=True)
    prune, module = Prune(start=8, steps=4, calibration=loader), Digits()
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = lightning.Trainer(max_epochs=16, callbacks=[prune], accelerator="cpu", **quiet)
    trainer.fit(module, loader)

    with tempfile.TemporaryDirectory() as folder:
        excise.save(module.network, prune.plan, Path(folder) / "digits.safetensors")
        again = excise.load(Path(folder) / "digits.safetensors", build=network).eval()
    with torch.no_grad():
        right = (again(images[1200:]).argmax(1) == labels[1200:]).float().mean()
    print(f"loaded: {float(right):.1%} right")


if __name__ == "__main__":
    main()
