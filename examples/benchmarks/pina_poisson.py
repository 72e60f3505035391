"""2-D Poisson in PINA, unmodified: its own problem, model and solver, with RegNewton to train.

    python -m examples.benchmarks.pina_poisson [--seed 0] [--steps 150]

PINA's `Poisson2DSquareProblem` on 17 x 17 points and 20 on each side, two hidden layers of 32 tanh
units, double precision, under its own (Lightning) Trainer. Prints the relative L2 error on 2,000
other points, and which path the last step took. PINA is on PyPI as pina-mathlab.
"""

from __future__ import annotations

import argparse

import torch


def train(seed: int, steps: int) -> tuple[float, str]:
    """The relative L2 error after so many steps of `RegNewton`, and the last step's path."""
    from pina import Trainer
    from pina.model import FeedForward
    from pina.optim import TorchOptimizer
    from pina.problem.zoo import Poisson2DSquareProblem
    from pina.solver import PINN

    from torch_newton import RegNewton

    torch.manual_seed(seed)
    problem = Poisson2DSquareProblem()
    for name in problem.domains:
        problem.discretise_domain(17 if name == "D" else 20, "grid", domains=name)
    model = FeedForward(
        input_dimensions=2, output_dimensions=1, layers=[32, 32], func=torch.nn.Tanh
    )
    solver = PINN(problem, model, optimizer=TorchOptimizer(RegNewton))
    trainer = Trainer(
        solver,
        max_epochs=steps,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.train()
    (optimizer,) = trainer.optimizers
    x = problem.spatial_domain.sample(2000, "random")
    with torch.no_grad():
        exact = problem.solution(x)
        error = solver(x) - exact
    return float(error.norm() / exact.norm()), optimizer.last_step.path.name


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=150)
    options = parser.parse_args()
    torch.set_default_dtype(torch.float64)
    torch.set_num_threads(2)
    error, path = train(options.seed, options.steps)
    print(f"relative L2 error {error:.2e} after {options.steps} steps, {path}")


if __name__ == "__main__":
    main()
