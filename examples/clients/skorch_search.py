"""skorch in a scikit-learn pipeline and a grid search: ``optimizer=RegNewton`` is all.

``python -m examples.clients.skorch_search`` fits the diabetes data, searches a width by
cross-validation, and trains skorch's own default, SGD at a learning rate of 0.01, for as long.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch
from sklearn.datasets import load_diabetes
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler
from skorch import NeuralNetRegressor
from skorch.callbacks import Callback
from torch import Tensor, nn

from torch_newton import RegNewton


class Network(nn.Module):
    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(10, width), nn.Tanh(), nn.Linear(width, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class StopAfter(Callback):
    def __init__(self, seconds: float = 1.0) -> None:
        self.seconds = seconds

    def on_train_begin(self, net: Any, **_: Any) -> None:
        self.end = time.perf_counter() + self.seconds

    def on_epoch_end(self, net: Any, **_: Any) -> None:
        if time.perf_counter() > self.end:
            raise KeyboardInterrupt  # which skorch takes for the end of training


def data() -> tuple[np.ndarray, np.ndarray]:
    x, y = load_diabetes(return_X_y=True)
    return x.astype("float32"), ((y - y.mean()) / y.std()).astype("float32")[:, None]


def pipeline(steps: int, **options: Any) -> Pipeline:
    """Full batches, and `lr` as skorch passes it to the optimizer: 1 is Newton's method."""
    settings = {"optimizer": RegNewton, "lr": 1.0, "batch_size": -1} | options
    net = NeuralNetRegressor(Network, max_epochs=steps, train_split=None, verbose=0, **settings)
    return Pipeline([("scale", StandardScaler()), ("net", net)])


def loss_of(fitted: Pipeline) -> float:
    x, y = data()
    return float(np.mean((fitted.predict(x) - y) ** 2))


def train_newton(steps: int, seed: int = 0) -> tuple[float, float]:
    """Final loss, and seconds."""
    torch.manual_seed(seed)
    begin = time.perf_counter()
    fitted = pipeline(steps).fit(*data())
    return loss_of(fitted), time.perf_counter() - begin


def train_default(seconds: float, seed: int = 0) -> float:
    """The loss that skorch's default comes to, with its batches of 128."""
    torch.manual_seed(seed)
    options = {"optimizer": torch.optim.SGD, "lr": 0.01, "batch_size": 128}
    return loss_of(pipeline(10**6, callbacks=[StopAfter(seconds)], **options).fit(*data()))


def search(steps: int, seed: int = 0) -> dict[str, Any]:
    """The best width by cross-validation, and its mean squared error there."""
    torch.manual_seed(seed)
    grid = GridSearchCV(
        pipeline(steps),
        {"net__module__width": [1, 2, 4]},
        cv=3,
        scoring="neg_mean_squared_error",
    )
    grid.fit(*data())
    return {**grid.best_params_, "error": -grid.best_score_}


if __name__ == "__main__":
    for seed in range(3):
        loss, seconds = train_newton(100, seed)
        default = train_default(seconds, seed)
        print(f"seed {seed}, {seconds:.1f} s each: RegNewton {loss:.4f}, SGD {default:.4f}")
    print("cross-validation:", search(20))
