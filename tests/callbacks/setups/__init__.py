"""Ordinary set-ups of training, some of them hard to measure, each small enough for a test."""

from importlib import import_module

from tests.callbacks.setups.setup import Setup

KINDS = (
    "networks", "sequences", "operators", "parameters", "backward", "losses", "objectives",
    "physics", "noise", "batches", "loaders", "optimizers", "manual", "trainers", "habits",
    "hooks", "callbacks", "failures", "processes",
)  # fmt: skip

BY_KIND: dict[str, list[Setup]] = {
    kind: import_module(f"{__name__}.{kind}").SETUPS for kind in KINDS
}
SETUPS: dict[str, Setup] = {setup.name: setup for kind in KINDS for setup in BY_KIND[kind]}

__all__ = ["BY_KIND", "SETUPS", "Setup"]
