"""Hugging Face Trainer: a callback cuts the network at the beginning of some epochs.

    pip install transformers accelerate && python examples/with_transformers.py

A small vision transformer on handwritten digits (scikit-learn brings them), seconds on a CPU.
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from transformers import Trainer, TrainerCallback, TrainingArguments, ViTConfig
from transformers import ViTForImageClassification as Vit

import excise
from excise.recover import distill_loss


def network() -> nn.Module:
    """Two layers on patches of 2 by 2 pixels."""
    config = ViTConfig(
        image_size=8, patch_size=2, num_channels=1, hidden_size=64, num_hidden_layers=2,
        num_attention_heads=4, intermediate_size=256, num_labels=10, hidden_dropout_prob=0.0,
    )  # fmt: skip
    return Vit(config)  # type: ignore[no-any-return]


class Distilled(Trainer):  # type: ignore[misc]
    """Adds the distance from a dense teacher to the loss, once there is one."""

    teacher: nn.Module | None = None

    def compute_loss(self, model: nn.Module, inputs: dict[str, Tensor], *_: Any, **__: Any) -> Any:
        """The model's own loss, and the teacher's."""
        out = model(**inputs)
        if self.teacher is None:
            return out.loss
        with torch.no_grad():
            wanted = self.teacher(pixel_values=inputs["pixel_values"]).logits
        return out.loss + distill_loss(out.logits, wanted, temperature=2.0)


class Prune(TrainerCallback):  # type: ignore[misc]
    """From epoch `start` on, cuts before every second epoch."""

    def __init__(self, start: int, steps: int, calibration: list[dict[str, Tensor]]) -> None:
        self.start, self.steps, self.calibration = start, steps, calibration
        self.cuts: Iterator[excise.Step]
        self.plan: excise.Plan
        self.trainer: Distilled

    def on_epoch_begin(self, _args: Any, state: Any, _control: Any, **kept: Any) -> None:
        """Cut, if it is time."""
        epoch, model = round(state.epoch), kept["model"]
        if epoch == self.start:
            self.trainer.teacher = copy.deepcopy(model).eval()
            self.cuts = excise.schedule(
                model, pixel_values=self.calibration[0]["pixel_values"][:1], keep_macs=0.5,
                steps=self.steps, optimizer=kept["optimizer"], calibration=self.calibration,
            )  # fmt: skip
        if epoch >= self.start and (epoch - self.start) % 2 == 0:
            step = next(self.cuts)
            self.plan = step.plan
            print(f"epoch {epoch}: {step}")


def main() -> None:
    """Train, cut and train in one `train`; save, load."""
    torch.manual_seed(0)
    found = load_digits()
    order = torch.randperm(len(found.target))
    images = torch.tensor(found.images, dtype=torch.float32)[order, None] / 16
    labels = torch.tensor(found.target)[order]
    rows = [{"pixel_values": x, "labels": y} for x, y in zip(images, labels, strict=True)]
    prune = Prune(12, 3, [{"pixel_values": x} for x in images[:512].split(64)])
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder, num_train_epochs=18, per_device_train_batch_size=64, learning_rate=2e-3,
            save_strategy="no", report_to=[], disable_tqdm=True, use_cpu=True,
        )  # fmt: skip
        trainer = Distilled(network(), arguments, train_dataset=rows[:1200], callbacks=[prune])
        prune.trainer = trainer
        trainer.train()
        excise.save(trainer.model, prune.plan, Path(folder) / "digits.safetensors")
        again = excise.load(Path(folder) / "digits.safetensors", build=network).eval()
    with torch.no_grad():
        right = (again(images[1200:]).logits.argmax(1) == labels[1200:]).float().mean()
    print(f"loaded: {float(right):.1%} right")


if __name__ == "__main__":
    main()
