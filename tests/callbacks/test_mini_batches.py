"""Mini-batches of an ordinary DataLoader under Lightning, with what others do to a training run."""

from __future__ import annotations

from typing import Any

import lightning as pl
import pytest
import torch
from lightning.pytorch.callbacks import (
    EMAWeightAveraging,
    StochasticWeightAveraging,
)
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from torch_newton import Path, RegNewton

pytestmark = pytest.mark.filterwarnings("ignore")


class Classifier(pl.LightningModule):
    """Which coordinate is the largest?"""

    def __init__(self, curvature: str, norm: type[nn.Module]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(5, 24), norm(24), nn.Tanh(), nn.Linear(24, 5))
        self.curvature = curvature
        self.paths: list[Path] = []

    def training_step(self, batch: Any, _: int) -> Tensor:
        loss = F.cross_entropy(self.net(batch[0]), batch[1])
        self.log("loss", loss)
        return loss

    def on_train_batch_end(self, *_: Any) -> None:
        step = self.trainer.optimizers[0].last_step  # type: ignore[attr-defined]
        self.paths.append(step.path)

    def configure_optimizers(self) -> Any:
        optimizer = RegNewton(self.parameters(), curvature=self.curvature)
        plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0, threshold=0.9)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": plateau, "monitor": "loss", "interval": "epoch"},
        }


@pytest.mark.parametrize("curvature", ["auto", "kronecker"])
@pytest.mark.parametrize("averaging", [None, "ema", "swa"])
def test_it_trains_beside_schedulers_and_averages(
    curvature: str, averaging: str | None, tmp_path: Any
) -> None:
    x = torch.randn(480, 5, generator=torch.Generator().manual_seed(0))
    loader = DataLoader(TensorDataset(x, x.argmax(1)), batch_size=48, shuffle=True)
    callbacks: list[Any] = {
        None: [],
        "ema": [EMAWeightAveraging(decay=0.9)],
        "swa": [StochasticWeightAveraging(swa_lrs=0.5, swa_epoch_start=2)],
    }[averaging]
    # Where there is batch norm, Lightning's SWA ends with an epoch of steps without a gradient,
    # for its statistics, which a Newton step refuses.
    norm = nn.LayerNorm if averaging == "swa" else nn.BatchNorm1d
    model = Classifier(curvature, norm)
    trainer = pl.Trainer(
        max_epochs=5, accelerator="cpu", logger=False, callbacks=callbacks,
        enable_progress_bar=False, enable_model_summary=False, default_root_dir=tmp_path,
        enable_checkpointing=False,
    )  # fmt: skip
    trainer.fit(model, loader)
    assert Path.KRONECKER in model.paths
    model.eval()
    with torch.no_grad():
        right = (model.net(x).argmax(1) == x.argmax(1)).float().mean()
    assert right > 0.7
    if averaging != "swa":
        assert trainer.optimizers[0].param_groups[0]["lr"] < 1, "the scheduler has acted"
