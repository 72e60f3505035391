"""A project that its YAML file drives: optimizer, scheduler, callbacks, model and data.

    cd examples/lightning_cli
    python main.py fit --config newton.yaml
    python main.py fit --config newton.yaml --optimizer torch.optim.Adam --optimizer.lr 0.01

Nothing in the Python code knows of RegNewton or of the monitor. The log, with the curvature in it,
is written to lightning_logs/version_*/metrics.csv.
"""

from __future__ import annotations

from pytorch_lightning.cli import LightningCLI
from regression import Regression, Waves


def main() -> None:
    LightningCLI(Regression, Waves, seed_everything_default=0)


if __name__ == "__main__":
    main()
