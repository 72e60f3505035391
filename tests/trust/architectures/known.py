"""Checks that fail because of a known defect: an entry goes when its defect is mended."""

from __future__ import annotations

KNOWN: dict[str, dict[str, tuple[str, ...]]] = {
    "issue 14.1: parameters without influence, or with little, run away under scaled damping": {
        "size": (
            "LSTM each output",
            "Lagrangian network",
            "encoder and decoder",
            "graph attention",
            "squeeze and excite",
        ),
    },
    "issue 14.2: a Hessian that is not one is taken without a word": {
        "direction": (
            "custom function, detached",
            "weight_norm, old",
            "weight_norm, parametrization",
        ),
    },
    "issue 14.3: a reentrant checkpoint is not refused": {
        "descent": (
            "reentrant checkpoint",
            "reentrant checkpoint of the first layer",
        ),
    },
    "issue 14.4: MINRES stops far from the solution, and the step is taken": {
        "direction": ("SIREN from PyTorch's weights",),
    },
    "issue 14.6: the graph is misread, and the error ends the step": {
        "direction": ("Fourier filter, odd offset",),
    },
    "issue 14.7: an exception away from the starting point ends training": {
        "descent": ("an exception away from the start",),
    },
    "issue 14.8: this loss leaves function space, or is taken for a square of fewer outputs": {
        "direction": (
            "mean square, dist squared",
            "mean square, pairwise_distance squared",
        ),
        "path": (
            "Categorical",
            "Charbonnier",
            "Huber by hand",
            "Poisson by hand",
            "RMSE",
            "binary_cross_entropy of sigmoid",
            "cross_entropy, unbatched",
            "fourth power",
            "log of softmax",
            "log of the mean square",
            "log-cosh",
            "log_softmax and gather",
            "logsigmoid by hand",
            "logsumexp",
            "mean square, addcmul",
            "mean square, bmm",
            "mean square, cumsum",
            "mean square, einsum ij,ij->",
            "mean square, einsum ij,ij->i",
            "mean square, exponent of the sum",
            "mean square, inner",
            "mean square, masked_select",
            "mean square, nanmean",
            "mean square, pow of a tensor",
            "mean square, quadratic form",
            "mean square, r.T @ r",
            "mean square, trace",
            "mean square, twice r",
            "mean square, var",
            "mean square, where",
            "multilabel_soft_margin_loss",
            "poisson_nll_loss",
            "relative L2",
            "relative L2 of each sample",
            "soft_margin_loss",
            "softplus of margins",
        ),
    },
    "issue 14.9: a saturated cross-entropy leaves function space": {
        "path": ("cross_entropy, saturated, float32",),
    },
    "issue 14.10: this layer is not read": {
        "path": (
            "many rows: Conv2d",
            "many rows: ConvTranspose2d",
            "many rows: GroupNorm",
            "many rows: KAN, ijk,jlk->ijl",
            "many rows: hypernetwork",
        ),
    },
    "clip_grad_value_ raises where an evaluation without gradients leaves it nothing to clip": {
        "descent": ("clipping by value",),
        "direction": ("clipping by value",),
    },
}
"""By defect and check, the cases."""


def known_defect(case: str, check: str) -> str | None:
    """Why a check of a case is expected to fail; None where it is not."""
    for reason, checks in KNOWN.items():
        if case in checks.get(check, ()):
            return reason
    return None
