"""One Newton step solves a quadratic: whether the installed package works at all."""

import torch

import torch_newton

x = torch.nn.Parameter(torch.tensor([3.0, -1.0], dtype=torch.float64))
optimizer = torch_newton.RegNewton([x], damping=0.0)


def closure() -> torch.Tensor:
    """Evaluate a quadratic with its minimum at (1, -1)."""
    optimizer.zero_grad()
    loss: torch.Tensor = (x[0] - 1) ** 2 + 5 * (x[1] + x[0]) ** 2
    loss.backward()
    return loss


optimizer.step(closure)
assert torch.allclose(x, torch.tensor([1.0, -1.0], dtype=x.dtype)), x
print("torch_newton", torch_newton.__version__, "solves a quadratic in one step")
