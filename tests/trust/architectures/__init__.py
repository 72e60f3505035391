"""Architectures and closures as users write them, each as a small problem."""

from importlib import import_module

from tests.trust.architectures.case import Case

KINDS = (
    "convolutions", "pooling", "normalisation", "embeddings", "recurrent", "attention", "sharing",
    "activations", "graphs", "spectral", "functions", "dynamics", "physics",
    "regression_losses", "spellings", "classification_losses", "metric_losses", "matrices",
    "closures", "special", "many_rows",
)  # fmt: skip

CASES: list[Case] = [case for kind in KINDS for case in import_module(f"{__name__}.{kind}").CASES]

__all__ = ["CASES", "Case"]
