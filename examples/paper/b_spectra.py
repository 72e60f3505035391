"""Spectra of the tangent kernel and of the Newton tangent kernel.

python -m examples.paper b
"""

from __future__ import annotations

import matplotlib.pyplot as plt
import torch

from torch_newton.limit import LimitEquation, limit_kernel

from .problems import kernel, newton_kernel_at, paper_damping, training, width_study
from .report import LOOKS, Claim, Result

TITLE = "Spectra of NTK and NNTK"
BETA, GAMMAS = 0.52, (1e-2, 1e-4, 1e-6, 1e-8)
PUBLISHED = (55.7, 3.95, 0.114, 1.05e-2, 7.5e-4, 8.7e-5)
"""Leading eigenvalues of J J^T that the paper reports for its training problem, N = 1000."""


def training_spectrum(seeds: range = range(5)) -> torch.Tensor:
    """Eigenvalues of J J^T on that problem, seeds x M, descending."""
    problem = training()
    nets = [problem.network(1000, BETA, seed) for seed in seeds]
    grams = torch.stack([128 * kernel(net, problem) for net in nets])
    return torch.linalg.eigvalsh(grams).flip(1)


def damped_spectrum_error(gamma: float, width: int = 1000) -> tuple[float, torch.Tensor]:
    """How far eig NNTK is from kappa / (kappa + lambda) at finite width, Gauss-Newton form."""
    problem = width_study()
    net = problem.network(width, BETA, seed=0)
    damping = paper_damping(gamma, width, BETA)
    nntk = newton_kernel_at(net, problem, damping, "gauss_newton")
    kappa = torch.linalg.eigvalsh(kernel(net, problem))
    found = torch.linalg.eigvalsh(nntk)
    return float((found - kappa / (kappa + damping)).abs().max()), found


def measure() -> Result:
    B = limit_kernel(width_study().x)
    kappa = LimitEquation.newton(B, 1.0).kappa
    spectra = training_spectrum()
    low, high = spectra.amin(0), spectra.amax(0)
    claims = [
        Claim(
            f"training problem, eigenvalue {j + 1} of JJᵀ, range over 5 seeds",
            f"{low[j]:.3g} to {high[j]:.3g}",
            f"{value:.3g} (published), within a factor 2 of the range",
            float(low[j]) / 2 <= value <= 2 * float(high[j]),
        )
        for j, value in enumerate(PUBLISHED)
    ]
    spread = float(kappa[0] / kappa[7])
    claims.append(
        Claim("NTK: κ₁/κ₈ of the limit kernel, M = 16", f"{spread:.2g}", "> 1e6", spread > 1e6)
    )
    for gamma in GAMMAS:
        rates = LimitEquation.newton(B, gamma).rates
        ratio, bound = float(rates[0] / rates[7]), float((kappa[7] + gamma) / kappa[7])
        claims.append(
            Claim(
                f"NNTK, γ = {gamma:.0e}: ratio of the same two modes",
                f"{ratio:.3g}",
                f"<= (κ₈ + γ)/κ₈ = {bound:.3g}",
                ratio <= bound * (1 + 1e-9),
            )
        )
    error, found = damped_spectrum_error(1e-2)
    claims.append(
        Claim(
            "N = 1000: eig NNTK = κ/(κ + γ_N), all in (0, 1)",
            f"error {error:.1e}, up to {float(found.max()):.3f}",
            "< 1e-8, below 1",
            error < 1e-8 and float(found.max()) < 1,
        )
    )

    figure, (left, right) = plt.subplots(1, 2, figsize=(8, 3.1))
    index = range(1, 13)
    left.semilogy(index, kappa[:12], label="NTK, $\\kappa_j$ of $B^*$", **LOOKS[4])
    for gamma, look in zip(GAMMAS, LOOKS, strict=False):
        exponent = round(torch.log10(torch.tensor(gamma)).item())
        rates = LimitEquation.newton(B, gamma).rates
        left.semilogy(index, rates[:12], label=f"NNTK, $\\gamma = 10^{{{exponent}}}$", **look)
    left.set(
        xlabel="mode $j$", ylabel="eigenvalue", ylim=(1e-13, 3), title="infinite width, $M$ = 16"
    )
    left.legend(fontsize=8)
    shown = range(1, len(PUBLISHED) + 1)
    right.fill_between(shown, low[:6], high[:6], color="0.8", label="measured, 5 seeds")
    right.semilogy(shown, PUBLISHED, label="published", **{**LOOKS[0], "linestyle": "none"})
    right.set(
        xlabel="mode $j$",
        ylabel="eigenvalue of $JJ^T$",
        title="training problem, $N$ = 1000, $M$ = 128",
    )
    right.legend()
    return Result(claims, figure)
