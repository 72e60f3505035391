r"""The spectral density of a symmetric operator, by stochastic Lanczos quadrature.

For a vector v the measure :math:`\mu_v = \sum_i (u_i \cdot v)^2 \delta_{\lambda_i}`, u_i being
the eigenvectors, is known by its Gauss quadrature, which k Lanczos steps from v give. For a random
v its mean is the density of the eigenvalues (Ubaru, Chen, Saad 2017, *Fast estimation of tr(f(A))
via stochastic Lanczos quadrature*).

How much of :math:`\mu_v` lies below a number x is bounded, not estimated, by the Gauss-Radau rule
with a node at x: no more than its weights up to x, and no less than those before x (Chebyshev,
Markov, Stieltjes; Szego 1975, *Orthogonal polynomials*, section 3.41).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from .eigenvalue_signs import Fraction
from .lanczos import Lanczos, Process
from .operators import LinearOperator

MARGIN = 1e-7
"""Distance to x, in the largest eigenvalue, within which an eigenvalue may be counted on either
side: twice `NEAR`, so that no node that counts as x can lie beyond it."""

NEAR = 5e-8
"""Distance to x, in the largest entry of T, within which a node of the Gauss-Radau rule is the
one prescribed at x. Rounding may move it by 2e-8, one unit of rounding of `LARGEST_ENTRY`."""

LARGEST_ENTRY = 1e8
"""The largest last entry, in the largest of T, that a Gauss-Radau rule may have. It is infinite
where an eigenvalue of T lies at x already. At 1e8 one lies within about 1e-8 of x, and rounding,
which grows with the entry, is no larger than that: the two errors are alike."""

HALVINGS = 60
"""Of an interval of length one at most, which leave less than the spacing of doubles near one."""


@dataclass(frozen=True)
class SpectralDensity:
    """The density of n eigenvalues as point masses, from m random vectors.

    Attributes:
        nodes: Ritz values of all m processes, ascending, float64.
        weights: their masses, which sum to one.
        processes: the Lanczos process of each random vector.
        squares: the squared length of each random vector.
        size: n.
        rounding: how far rounding may move an eigenvalue.
    """

    nodes: Tensor
    weights: Tensor
    processes: list[Lanczos]
    squares: Tensor
    size: int
    rounding: float

    def __call__(self, x: Tensor, width: float) -> Tensor:
        """The density at x, per unit of eigenvalue, each mass widened to a Gaussian.

        Args:
            x: any number of points.
            width: the standard deviation of the Gaussians.
        """
        distance = (x[:, None] - self.nodes) / width
        bell = torch.exp(-0.5 * distance.square()) / (width * math.sqrt(2 * math.pi))
        return bell @ self.weights

    def below(self, x: float, confidence: float = 0.95) -> Fraction:
        r"""The share of eigenvalues below x, with a confidence interval that holds for every n.

        Each process bounds :math:`\mu_v(-\infty, x)`. Their mean over Gaussian vectors, weighted
        by :math:`|v|^2`, is a Beta variable of parameters :math:`mk/2, m(n - k)/2` where k
        eigenvalues lie below x; by Chernoff's bound it differs from p = k/n in the direction of q
        or farther with a probability of at most :math:`e^{-(mn/2)\,\mathrm{KL}(p\|q)}`. The
        interval is that of all p which this does not exclude, and the value the middle of the
        bounds. Eigenvalues nearer to x than `MARGIN` times the largest, or than rounding, may
        be counted on either side.

        Args:
            x: the number that eigenvalues are compared with.
            confidence: the probability with which the share lies within the interval.

        Raises:
            ValueError: `confidence` is not between 0 and 1.
        """
        if not 0 < confidence < 1:
            raise ValueError(f"confidence must lie between 0 and 1, not {confidence}")
        scale = float(self.nodes.abs().max())
        margin = max(MARGIN * scale, self.rounding)
        mass = self.squares / self.squares.sum()
        low, high = 0.0, 0.0
        for share, process in zip(mass.tolist(), self.processes, strict=True):
            low += share * _masses(process, x - margin)[0]
            high += share * _masses(process, x + margin)[1]
        budget = math.log(2 / (1 - confidence)) / (len(self.processes) * self.size / 2)
        n = self.size
        # Shares are multiples of 1/n; the slack of 1e-6 eigenvalues is for rounding in the
        # quadrature, which is far smaller for any n that fits into memory.
        least = math.ceil(n * _farthest(low, budget, down=True) - 1e-6) / n
        most = math.floor(n * _farthest(high, budget, down=False) + 1e-6) / n
        return Fraction((low + high) / 2, least, most, confidence)


def spectral_density(
    A: LinearOperator, *, probes: int = 4, steps: int = 30, seed: int = 0
) -> SpectralDensity:
    """The density of A's eigenvalues, by `probes` Lanczos processes of `steps` products each.

    The processes advance together, so that products are taken in blocks where that is faster.
    With `steps` of n or more the quadrature is exact for each random vector.

    Args:
        A: symmetric, n x n.
        probes: m, random vectors.
        steps: Lanczos steps for each; ``probes * steps`` vectors of n entries are held. The
            defaults are chosen by cost: 120 products, that of 240 gradients.
        seed: of the random vectors.

    Raises:
        ValueError: A is not square; `probes` or `steps` is not positive.
    """
    if probes < 1:
        raise ValueError(f"probes must be positive, not {probes}")
    processes, squares = [], []
    for probe in range(probes):
        generator = torch.Generator().manual_seed(seed + probe)
        v = torch.randn(A.shape[0], generator=generator, dtype=torch.float64)
        squares.append(float(v @ v))
        processes.append(Process(A, steps, v, seed))
    while running := [process for process in processes if not process.finished]:
        products = A @ torch.stack([process.next for process in running], dim=1)
        for process, product in zip(running, products.unbind(1), strict=True):
            process.take(product)
    return density_of(processes, squares)


def density_of(processes: list[Process], squares: list[float]) -> SpectralDensity:
    """The density as Lanczos processes know it so far, each of one step or more.

    Args:
        processes: from Gaussian vectors.
        squares: the squared length of each, its weight.
    """
    A, results = processes[0].A, [process.result() for process in processes]
    mass = torch.tensor(squares, dtype=torch.float64)
    nodes = torch.cat([result.tridiagonal.ritz_values() for result in results])
    weights = torch.cat(
        [m * result.weights() for m, result in zip(mass / mass.sum(), results, strict=True)]
    )
    order = torch.argsort(nodes)
    # A step rounds by a few units of |A|, as in the Lanczos process itself.
    rounding = 10 * max(p.steps for p in processes) * torch.finfo(A.dtype).eps
    scale = max(process.norm for process in processes)
    return SpectralDensity(
        nodes[order], weights[order], results, mass, A.shape[0], rounding * scale
    )


def negative_fraction(
    A: LinearOperator,
    *,
    probes: int = 4,
    steps: int = 30,
    seed: int = 0,
    confidence: float = 0.95,
) -> Fraction:
    """The share of A's eigenvalues that are negative, with a confidence interval.

    Where eigenvalues crowd near zero, as those of a network's Hessian do, the interval is wide
    until `steps` is large enough to distinguish their signs (see `SpectralDensity.below`).
    For a matrix small enough to be formed, `inertia` counts them.

    Args:
        A: symmetric, n x n.
        probes: random vectors.
        steps: Lanczos steps for each, one product apiece.
        seed: of the random vectors.
        confidence: probability with which the share lies within the interval.

    Raises:
        ValueError: A is not square; `probes` or `steps` is not positive, or `confidence` is not
            a probability.
    """
    return spectral_density(A, probes=probes, steps=steps, seed=seed).below(0.0, confidence)


def _masses(process: Lanczos, x: float) -> tuple[float, float]:
    """Bounds of how much of the process's measure lies below x, and of how much up to x."""
    T = process.tridiagonal.dense()
    scale = float(T.abs().max()) or 1.0
    if process.residual > 0:
        # One more row, whose last entry makes x an eigenvalue (Golub 1973, *Some modified matrix
        # eigenvalue problems*, section 7).
        values, vectors = torch.linalg.eigh(T)
        last = process.residual**2 * float((vectors[-1].square() / (values - x)).sum())
        largest = LARGEST_ENTRY * scale
        last = x + min(max(last, -largest), largest) if not math.isnan(last) else x
        k = len(T)
        extended = torch.zeros(k + 1, k + 1, dtype=T.dtype)
        extended[:k, :k] = T
        extended[k, k - 1] = extended[k - 1, k] = process.residual
        extended[k, k] = last
        T = extended
    values, vectors = torch.linalg.eigh(T)
    weights = vectors[0].square()
    near = NEAR * scale
    below = float(weights[values < x - near].sum())
    return below, below + float(weights[(values - x).abs() <= near].sum())


def _farthest(q: float, budget: float, *, down: bool) -> float:
    """The p farthest from q in one direction with KL(p || q) <= budget."""
    q = min(max(q, 0.0), 1.0)
    end = 0.0 if down else 1.0
    if q == end or _divergence(end, q) <= budget:
        return end
    inside, outside = q, end
    for _ in range(HALVINGS):
        middle = (inside + outside) / 2
        if _divergence(middle, q) <= budget:
            inside = middle
        else:
            outside = middle
    return outside


def _divergence(p: float, q: float) -> float:
    """KL(p || q) of two Bernoulli variables, in nats."""
    total = 0.0
    for a, b in ((p, q), (1 - p, 1 - q)):
        if a > 0:
            total += a * math.log(a / b) if b > 0 else math.inf
    return total
