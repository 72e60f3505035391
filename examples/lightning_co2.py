"""Watch the curvature of a network's loss while it learns the CO2 record under Lightning.

    python examples/lightning_co2.py --optimizer newton     # or adam, or lbfgs

A Trainer with a `CurvatureMonitor` and a CSV logger fits the weekly Mauna Loa record. Printed are
the errors of the fit and the curvature at the end; saved are the CSV log, and a picture drawn
from it: the smallest eigenvalues of H and of H + lambda I, and the extreme ones of the neural
tangent kernel and of its Newton counterpart. Three more pictures show all eigenvalues: those of H
over the training, its margin of definiteness, and both kernels at three steps. With RegNewton,
lambda is that of the step before each measurement; for the other optimizers it is the fixed one
that the width rule gives.
"""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path

import matplotlib as mpl
import pandas as pd
import pytorch_lightning as pl
import torch
from co2_record import Record, load_co2, network
from matplotlib import pyplot as plt
from torch import Tensor
from torch.nn.functional import mse_loss
from torch.utils.data import DataLoader

from lightning_callbacks import CurvatureMonitor
from torch_newton import RegNewton

NAMES = {"adam": "Adam", "lbfgs": "L-BFGS", "newton": "RegNewton"}
OPTIMIZERS = {
    "adam": lambda params: torch.optim.Adam(params, lr=1e-2),
    "lbfgs": lambda params: torch.optim.LBFGS(params, line_search_fn="strong_wolfe"),
    "newton": RegNewton,
}


class Regression(pl.LightningModule):
    """An ordinary module: nothing in it is there for the sake of RegNewton or of the monitor."""

    def __init__(self, optimizer: str) -> None:
        super().__init__()
        self.net = network()
        self.optimizer = optimizer

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        inputs, targets = batch
        loss = mse_loss(self.net(inputs), targets)
        self.log("loss", loss, prog_bar=True)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        # The one line that differs between Adam, L-BFGS and RegNewton.
        return OPTIMIZERS[self.optimizer](self.parameters())


def some_rows(module: Regression, batch: tuple[Tensor, Tensor]) -> Tensor:
    """Predictions for 64 weeks: the record is smooth, and kernels of more rows nearly singular."""
    inputs, _ = batch
    return module.net(inputs[:: len(inputs) // 64][:64])


class Recorder(pl.Callback):
    """Keeps every spectrum that the monitor before it measures.

    Attributes:
        spectra: the eigenvalues by step, and by ``"hessian"``, ``"ntk"`` and ``"nntk"``.
    """

    def __init__(self) -> None:
        self.spectra: dict[int, dict[str, Tensor]] = {}

    def on_train_batch_end(self, trainer: pl.Trainer, *_: object) -> None:
        (monitor,) = (c for c in trainer.callbacks if isinstance(c, CurvatureMonitor))
        self.spectra.setdefault(monitor.measured_at, dict(monitor.spectra))


def train(
    record: Record, optimizer: str, steps: int, output: Path, recorder: Recorder | None = None
) -> tuple[Regression, Path]:
    """Fit the record in `steps` full-batch steps; returns the module and the CSV log."""
    pl.seed_everything(0, verbose=False)
    module = Regression(optimizer)
    seen = ~record.held_out
    batch = (record.inputs[seen], record.targets[seen])
    # More rows than 64 give kernels that are singular to rounding: the record is smooth.
    monitor = CurvatureMonitor(
        every_n_steps=max(1, steps // 40), outputs=some_rows, max_overhead=None
    )
    logger = pl.loggers.CSVLogger(output, name="lightning_co2", version=optimizer)
    trainer = pl.Trainer(
        max_epochs=1,
        accelerator="cpu",
        precision="64-true",
        callbacks=[monitor, recorder or Recorder()],
        logger=logger,
        log_every_n_steps=1,
        enable_checkpointing=False,
        enable_model_summary=False,
    )
    trainer.fit(module, DataLoader([batch] * steps, batch_size=None))
    return module, Path(logger.log_dir) / "metrics.csv"


def print_numbers(module: Regression, record: Record, log: pd.DataFrame) -> None:
    """Errors of the fit on both parts of the record, and the last line of the log."""
    with torch.no_grad():
        squares = (module.net(record.inputs) - record.targets).square()
    training = float(squares[~record.held_out].mean())
    unseen = float(squares[record.held_out].mean())
    print(f"training loss       {training:.3e}  ({record.error_in_ppm(training):.3f} ppm)")
    print(f"held-out error      {record.error_in_ppm(unseen):.3f} ppm, root mean square")
    last = log.dropna(subset="hessian/lambda_min").iloc[-1]
    for key in log.columns:
        if "/" in key and pd.notna(last[key]):
            print(f"{key:30s} {last[key]: .4e}")


def draw(log: pd.DataFrame, title: str, path: Path) -> None:
    """The picture: definiteness on the left, kernels in the middle and on the right."""
    measured = log.dropna(subset="hessian/lambda_min")
    steps = measured["step"]
    style = {
        "font.size": 9,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "lines.markersize": 3,
        "lines.linewidth": 1.2,
    }
    with mpl.rc_context(style):
        figure, (left, middle, right) = plt.subplots(
            1, 3, figsize=(10.5, 3.4), layout="constrained"
        )
        low, shifted = measured["hessian/lambda_min"], measured["hessian/damped_lambda_min"]
        smallest = min(low.abs().min(), shifted.abs().min())
        left.axhline(0, color="0.6", linewidth=0.8)
        left.plot(steps, shifted, "o-", color="0.0", label=r"$\lambda_{\min}$ of damped $H$")
        left.plot(steps, low, "s--", color="tab:orange", label=r"$\lambda_{\min}(H)$")
        left.set_yscale("symlog", linthresh=10 ** torch.tensor(smallest).log10().floor().item())
        left.set_title("Hessian", pad=20)
        left.set_ylabel("eigenvalue (dimensionless)")
        for axes, name, text in ((middle, "ntk", "NTK"), (right, "nntk", "NNTK")):
            for end, marks, colour in (("largest", "o-", "0.0"), ("smallest", "s--", "tab:orange")):
                values = measured[f"{name}/lambda_{'max' if end == 'largest' else 'min'}"]
                axes.plot(steps, values.where(values > 0), marks, color=colour, label=end)
            axes.set_yscale("log")
            axes.set_title(text, pad=20)
        middle.set_ylabel(r"eigenvalue of $J J^\top$ (dimensionless)")
        right.set_ylabel(r"$\kappa/(\kappa + \lambda)$: share removed per step")
        for axes in (left, middle, right):
            axes.set_xlabel("optimizer step")
            axes.legend(frameon=False, loc="lower center", bbox_to_anchor=(0.5, 0.98), ncols=2)
        figure.suptitle(title)
        figure.savefig(path, dpi=200)
        plt.close(figure)


def draw_spectra(recorder: Recorder, log: pd.DataFrame, stem: Path) -> list[Path]:
    """Three pictures: the Hessian's spectrum over the training, its margin, and the kernels."""
    from lightning_callbacks.figures import heat_map_figure, kernel_figure, margin_figure

    steps = sorted(recorder.spectra)
    spectra = [recorder.spectra[step] for step in steps]
    measured = log.dropna(subset="hessian/lambda_min")
    low, shifted = measured["hessian/lambda_min"], measured["hessian/damped_lambda_min"]
    chosen = [0, len(steps) // 4, len(steps) - 1]
    figures = {
        "spectrum": heat_map_figure(steps, [known["hessian"] for known in spectra]),
        "margin": margin_figure(list(measured["step"]), list(low), list(shifted - low)),
        "kernels": kernel_figure(
            [steps[i] for i in chosen],
            [spectra[i]["ntk"] for i in chosen],
            [spectra[i]["nntk"] for i in chosen],
        ),
    }
    paths = []
    for name, figure in figures.items():
        paths.append(stem.with_name(f"{stem.name}_{name}.png"))
        figure.savefig(paths[-1])
    return paths


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--optimizer", choices=OPTIMIZERS, default="newton")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--output", type=Path, default=Path("output"))
    options = parser.parse_args()

    mpl.use("agg")
    warnings.filterwarnings("ignore", ".*does not have many workers.*")
    warnings.filterwarnings("ignore", ".*logs directory .* exists and is not empty.*")
    warnings.filterwarnings("ignore", ".*LeafSpec.*")
    record = load_co2()
    recorder = Recorder()
    module, csv = train(record, options.optimizer, options.steps, options.output, recorder)
    log = pd.read_csv(csv)
    print_numbers(module, record, log)
    stem = options.output / f"lightning_co2_{options.optimizer}"
    draw(log, f"Weekly CO$_2$ at Mauna Loa, {NAMES[options.optimizer]}", stem.with_suffix(".png"))
    print(f"log      {csv}\npicture  {stem.with_suffix('.png')}")
    for picture in draw_spectra(recorder, log, stem):
        print(f"picture  {picture}")


if __name__ == "__main__":
    main()
