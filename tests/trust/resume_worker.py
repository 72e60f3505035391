"""A run that saves after each step and may be killed at any time: CONFIG FOLDER STEPS LIGHTNING."""

from __future__ import annotations

import copy
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from torch_newton import Adaptive, Nystrom, RegNewton, SampledRows, WidthScaled, from_dense
from torch_newton.damping import DampingRule


def diagonal(loss: Tensor, params: Sequence[Tensor]) -> Any:
    size = sum(p.numel() for p in params)
    return lambda damping: from_dense(
        torch.diag(1 / (damping + torch.linspace(0.1, 2, size, dtype=torch.float64)))
    )


RULES: dict[str, str | float | DampingRule] = {
    "auto": "auto",
    "width": WidthScaled(gamma=5.0),
    "number": 2.0,
    "stochastic": Adaptive(stochastic=True),
    "kernel_min": "kernel_min",
    "residual": "residual",
}
PRECONDITIONERS: dict[str, Any] = {"auto": "auto", "none": None, "callable": diagonal}
OPTIONS: dict[str, dict[str, Any]] = {
    f"{rule}-{preconditioner}-{curvature}": {
        "damping": RULES[rule],
        "preconditioner": PRECONDITIONERS[preconditioner],
        "curvature": curvature,
    }
    for rule in RULES
    for preconditioner in PRECONDITIONERS
    for curvature in ("auto", "hessian", "gauss_newton")
    if rule != "kernel_min" or preconditioner == "auto"  # it takes the rows of the Jacobian
} | {
    "differences": {"hvp": "finite_difference", "preconditioner": None},
    "maximize": {"maximize": True},
    "defaults": {},
    "scaled": {"scaling": "jacobian"},
    "residual": {"damping": "residual"},
    "kernel_min": {"damping": "kernel_min"},
    "nystrom": {"preconditioner": Nystrom(rank=5)},
    "sampled": {"preconditioner": SampledRows(8)},
    "mini_batch": {"damping": "mini_batch"},
    "kronecker": {"curvature": "kronecker"},
    "kronecker_fixed": {"curvature": "kronecker", "damping": 0.1},
    "low_rank": {"max_memory": 1500, "damping": "auto"},
}


def model_of() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(2, 6), nn.Tanh(), nn.BatchNorm1d(6), nn.Dropout(0.1), nn.Linear(6, 1)
    ).double()


def loss_of(model: nn.Module, sign: float = 1.0) -> Tensor:
    """Every step draws its own batch, so that the random state must go on too."""
    x = torch.randn(16, 2, dtype=torch.float64)
    return sign * functional.mse_loss(model(x), torch.sin(x.sum(1, keepdim=True)))


class Run:
    """A plain training loop."""

    def __init__(self, name: str) -> None:
        self.model = model_of()
        self.sign = -1.0 if name == "maximize" else 1.0
        self.optimizer = RegNewton(self.model.parameters(), **copy.deepcopy(OPTIONS[name]))
        self.taken = 0

    def step(self) -> None:
        def closure() -> Tensor:
            self.optimizer.zero_grad()
            loss = loss_of(self.model, self.sign)
            loss.backward()
            return loss

        self.optimizer.step(closure)
        self.taken += 1

    def save(self, path: Path) -> None:
        state = {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "random": torch.get_rng_state(),
            "taken": self.taken,
        }
        torch.save(state, path.with_suffix(".new"))
        os.replace(path.with_suffix(".new"), path)  # a kill leaves the old one or the new one

    def load(self, path: Path) -> None:
        state = torch.load(path, weights_only=True)
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        torch.set_rng_state(state["random"])
        self.taken = state["taken"]

    def end(self) -> list[Tensor]:
        return [*self.model.state_dict().values(), torch.get_rng_state()]


def plain(name: str, folder: Path, steps: int) -> None:
    run, checkpoint = Run(name), folder / "run.pt"
    if checkpoint.exists():
        run.load(checkpoint)
    print("started", flush=True)
    while run.taken < steps:
        run.step()
        run.save(checkpoint)
        print(run.taken, flush=True)
    torch.save(run.end(), folder / "end.pt")


def lightning(folder: Path, steps: int) -> None:
    import pytorch_lightning as pl
    from torch.utils.data import DataLoader, TensorDataset

    class Module(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.net = nn.Sequential(
                nn.Linear(1, 8), nn.Tanh(), nn.BatchNorm1d(8), nn.Linear(8, 1)
            ).double()

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            x, y = batch
            return functional.mse_loss(self.net(x), y)

        def configure_optimizers(self) -> RegNewton:
            return RegNewton(self.parameters())

    class Save(pl.Callback):
        def on_train_batch_end(self, trainer: Any, *args: Any) -> None:
            trainer.save_checkpoint(folder / "new.ckpt")
            os.replace(folder / "new.ckpt", folder / "run.ckpt")
            print(trainer.global_step, flush=True)

    x = torch.linspace(-1, 1, 24, dtype=torch.float64)[:, None]
    loader = DataLoader(TensorDataset(x, torch.sin(3 * x)), batch_size=24)
    module, checkpoint = Module(), folder / "run.ckpt"
    trainer = pl.Trainer(
        max_steps=steps,
        max_epochs=-1,
        accelerator="cpu",
        logger=False,
        callbacks=[Save()],
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
    )
    print("started", flush=True)
    trainer.fit(module, loader, ckpt_path=checkpoint if checkpoint.exists() else None)
    torch.save(list(module.state_dict().values()), folder / "end.pt")


if __name__ == "__main__":
    torch.set_num_threads(1)
    which, where, count = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    if which == "lightning":
        lightning(where, count)
    else:
        plain(which, where, count)
