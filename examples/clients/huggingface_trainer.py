"""Hugging Face's Trainer, which calls ``optimizer.step()`` without a closure.

``python -m examples.clients.huggingface_trainer`` trains a small vision transformer on the digits
of scikit-learn, in mini-batches, with RegNewton and with the trainer's own AdamW for as long.
"""

from __future__ import annotations

import time
from typing import Any

import torch
from sklearn.datasets import load_digits
from torch.utils.data import Dataset
from transformers import Trainer, TrainerCallback, TrainingArguments, ViTConfig
from transformers import ViTForImageClassification as Classifier

from torch_newton import RegNewton


class SteppedByTrainer(RegNewton):
    """Lets pass the call of ``step()`` that the trainer makes after `training_step`."""

    def step(self, closure: Any = None) -> Any:
        return None if closure is None else super().step(closure)


class NewtonTrainer(Trainer):
    """Takes the step in `training_step`, where the batch is at hand for a second evaluation."""

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> Any:
        losses: list[torch.Tensor] = []

        def closure() -> Any:
            model.zero_grad()
            losses.append(
                super(NewtonTrainer, self).training_step(model, inputs, num_items_in_batch)
            )
            return losses[-1]

        self.optimizer.step(closure)  # accelerate's wrapper of the optimizer, which returns nothing
        return losses[0].detach()


class Digits(Dataset):
    def __init__(self) -> None:
        x, y = load_digits(return_X_y=True)
        self.x = torch.tensor(x, dtype=torch.float32).view(-1, 1, 8, 8) / 16
        self.y = torch.tensor(y)

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, i: int) -> dict[str, torch.Tensor]:
        return {"pixel_values": self.x[i], "labels": self.y[i]}


class StopAfter(TrainerCallback):
    def __init__(self, seconds: float) -> None:
        self.end = time.perf_counter() + seconds

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        control.should_training_stop |= time.perf_counter() > self.end


def network(seed: int) -> Classifier:
    torch.manual_seed(seed)
    config = ViTConfig(
        image_size=8, patch_size=2, num_channels=1, hidden_size=24, num_hidden_layers=2,
        num_attention_heads=2, intermediate_size=48, num_labels=10, attn_implementation="eager",
        initializer_range=0.2,
    )  # fmt: skip
    return Classifier(config)


def arguments(steps: int, **options: Any) -> TrainingArguments:
    return TrainingArguments(
        output_dir="/tmp/trainer", per_device_train_batch_size=128, max_steps=steps,
        report_to=[], save_strategy="no", logging_strategy="no", disable_tqdm=True, use_cpu=True,
        **options,
    )  # fmt: skip


def loss_of(model: Classifier) -> float:
    """Of all digits."""
    data = Digits()
    with torch.no_grad():
        return float(model.eval()(pixel_values=data.x, labels=data.y).loss)


def train_newton(steps: int, seed: int = 0) -> tuple[float, float]:
    """Loss of all digits, and seconds."""
    model, begin = network(seed), time.perf_counter()
    optimizer = SteppedByTrainer(model.parameters(), curvature="kronecker")
    # Neither a schedule made for Adam's learning rates nor clipping: a step has its own length.
    options = arguments(steps, lr_scheduler_type="constant", max_grad_norm=0.0)
    NewtonTrainer(model, options, train_dataset=Digits(), optimizers=(optimizer, None)).train()
    return loss_of(model), time.perf_counter() - begin


def train_default(seconds: float, seed: int = 0, **options: Any) -> float:
    """The loss that the trainer's AdamW comes to."""
    model = network(seed)
    arguments_ = arguments(100_000, lr_scheduler_type="constant", **options)
    Trainer(model, arguments_, train_dataset=Digits(), callbacks=[StopAfter(seconds)]).train()
    return loss_of(model)


if __name__ == "__main__":
    for seed in range(3):
        loss, seconds = train_newton(100, seed)
        print(f"seed {seed}, {seconds:.0f} s each: RegNewton {loss:.2e}", end=", ")
        print(f"AdamW at the trainer's 5e-5 {train_default(seconds, seed):.2e}", end=", ")
        print(f"at 1e-3 {train_default(seconds, seed, learning_rate=1e-3):.2e}")
