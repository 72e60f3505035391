"""The curvature of the loss along the gradient and along the last step."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..point import Point
from ..stability import stability_limit
from .base import Measured, Need, Quantity


class GradientSharpness(Quantity):
    r"""The curvature along the gradient, :math:`g^T H g / g^T g`.

    Costs one product with H, about two gradients. It lies between the smallest and the largest
    eigenvalue of H. Gradient descent with learning rate :math:`\eta` increases a quadratic loss
    when it exceeds :math:`2/\eta`, which is logged beside it (`stability_limit`). Pan and Li 2023,
    *Toward understanding why Adam converges faster than SGD for Transformers*, call it the
    directional sharpness.
    """

    name = "sharpness"
    needs: frozenset[Need] = frozenset({Need.GRADIENT, Need.HESSIAN})
    light = True
    documentation: tuple[tuple[str, str], ...] = (
        ("sharpness/gradient", "curvature along the gradient, g'Hg / g'g"),
        ("sharpness/limit", "2/lr, above which SGD is unstable; NaN for others"),
    )

    def compute(self, point: Point) -> Measured:
        """The curvature, and what SGD would bear."""
        sharpness = curvature_along(point.gradient, point.gradient_product)
        limit = stability_limit(point.optimizers)
        return Measured({"sharpness/gradient": sharpness, "sharpness/limit": limit})


class StepSharpness(Quantity):
    r"""The curvature along the last step, :math:`d^T H d / d^T d`.

    Here :math:`d = \theta_t - \theta_{t-1}`, and H is that of the point at which the step ended.
    Costs one product with H, about two gradients, and the memory of one vector of P entries from
    step to step. Of a step of any optimizer it says how curved the valley is along which that
    moves (Roulet, Agarwala, Pedregosa 2023, *On the interplay between stepsize tuning and
    progressive sharpening*).
    """

    name = "step_sharpness"
    needs: frozenset[Need] = frozenset({Need.GRADIENT, Need.HESSIAN, Need.STEP})
    light = True
    documentation: tuple[tuple[str, str], ...] = (
        ("sharpness/step", "curvature along the last step, d'Hd / d'd"),
    )

    def compute(self, point: Point) -> Measured:
        """The curvature; NaN where the parameters have not moved."""
        assert point.displacement is not None  # it is among the needs
        d = point.displacement.vector
        if not bool(d.any()):
            return Measured(self.unknown())
        unit = d / torch.linalg.vector_norm(d)  # the square of a short step may underflow
        return Measured({"sharpness/step": curvature_along(unit, point.H @ unit)})


def curvature_along(v: Tensor, product: Tensor) -> float:
    """V'Hv / v'v, from v and H v; NaN where v is zero."""
    v = v.double()
    square = float(v @ v)
    return float(v @ product.double()) / square if square > 0 else math.nan
