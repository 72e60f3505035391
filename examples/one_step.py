"""Draw one damped Gauss-Newton step on Rosenbrock's function, for the documentation.

    python examples/one_step.py [--output output]

L = |r|^2 / 2 with r = (10 (y - x^2), 1 - x), from a point away from the valley. Shown are the curve
of all steps d(lambda) = -(J^T J + lambda I)^-1 J^T r, a step with a small lambda, after which
the loss is higher, and where the second-order correction takes it. The losses are printed.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import torch
from torch import Tensor

from torch_newton import jacobian

START = (-0.6, 0.9)
SMALL = 1e-3
"""The lambda of the step that is drawn, in units of the largest eigenvalue of J^T J."""


def residuals(p: Tensor) -> Tensor:
    """r at a point, 2 entries."""
    return torch.stack([10 * (p[1] - p[0] ** 2), 1 - p[0]])


class Step:
    """The damped Gauss-Newton steps from a point p."""

    def __init__(self, p: Tensor) -> None:
        self.p = p.clone().requires_grad_()
        r = residuals(self.p)
        self.r, self.J = r.detach(), jacobian(r, [self.p]).dense()
        self.scale = float(torch.linalg.matrix_norm(self.J, 2) ** 2)

    def solved(self, damping: float, target: Tensor) -> Tensor:
        """-(J^T J + lambda I)^-1 J^T target."""
        matrix = self.J.T @ self.J + damping * torch.eye(2, dtype=self.J.dtype)
        return -torch.linalg.solve(matrix, self.J.T @ target)

    def plain(self, damping: float) -> Tensor:
        """d."""
        return self.solved(damping, self.r)

    def corrected(self, damping: float) -> Tensor:
        """d and a second solve, for e = r(p + d) - r - J d."""
        d = self.plain(damping)
        e = residuals(self.p.detach() + d) - self.r - self.J @ d
        return d + self.solved(damping, e)


def loss(p: Tensor) -> float:
    return float(residuals(p).square().sum() / 2)


def draw(step: Step, path: Path) -> None:
    mpl.rcParams.update({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False})
    figure, axes = plt.subplots(figsize=(6, 3.8), layout="constrained")
    sides = torch.linspace(-1, 1.3, 300), torch.linspace(-2.1, 1.5, 300)
    x, y = torch.meshgrid(*sides, indexing="ij")
    values = (residuals(torch.stack([x, y])).square().sum(0) / 2).log10()
    axes.contour(x, y, values, levels=14, cmap="Greys_r", linewidths=0.7)

    start = step.p.detach()
    dampings = torch.logspace(3, -7, 200, dtype=torch.float64) * step.scale
    curve = start + torch.stack([step.plain(float(c)) for c in dampings])
    axes.plot(
        *curve.T, color="tab:blue", label=r"$\theta + d(\lambda)$, from $\lambda=\infty$ to 0"
    )
    damping = SMALL * step.scale
    end, corrected = start + step.plain(damping), start + step.corrected(damping)
    marks = (("start", start, "ko"), ("step", end, "bs"), ("corrected", corrected, "r^"))
    for name, p, mark in marks:
        axes.plot(*p, mark, markersize=6, label=f"{name}: L = {loss(p):.3g}")
        print(f"{name}: L = {loss(p):.3g}")
    axes.annotate("", corrected, end, arrowprops={"arrowstyle": "->", "color": "tab:red"})
    axes.plot(1, 1, "*", color="tab:green", markersize=10, label="minimum: L = 0")
    axes.set(xlabel=r"$\theta_1$", ylabel=r"$\theta_2$", xlim=(-1, 1.3), ylim=(-2.1, 1.5))
    axes.legend(frameon=False, loc="lower left")
    figure.savefig(path, dpi=110)
    print(f"picture: {path}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--output", type=Path, default=Path("output"), help="folder for the picture"
    )
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    draw(Step(torch.tensor(START, dtype=torch.float64)), arguments.output / "one_step.png")


if __name__ == "__main__":
    main()
