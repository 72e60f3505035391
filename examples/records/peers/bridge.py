"""A `Training` in JAX: its network, parameters, points and loss."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import torch
from torch import Tensor, nn

from ...networks import Sine
from ..networks import Periodic, PeriodicInAll
from ..problem import Training
from .equations import Residual

Params = list[jax.Array]
"""Weights and biases, in the order of ``net.parameters()``."""


def array(tensor: Tensor) -> jax.Array:
    return jnp.asarray(tensor.detach().cpu().numpy())


def forward(net: nn.Module) -> Callable[[Params, jax.Array], jax.Array]:
    """The network as a function of its parameters and one point, to a number."""
    if isinstance(net, Periodic):
        inner, frequency = forward(net.net), net.frequency

        def periodic(params: Params, tx: jax.Array) -> jax.Array:
            t, x = tx[0:1], frequency * tx[1:2]
            return inner(params, jnp.concatenate([t, jnp.sin(x), jnp.cos(x)]))

        return periodic
    if isinstance(net, PeriodicInAll):
        whole, w = forward(net.net), net.frequency

        def periodic_in_all(params: Params, x: jax.Array) -> jax.Array:
            return whole(params, jnp.concatenate([jnp.sin(w * x), jnp.cos(w * x)]))

        return periodic_in_all
    if not isinstance(net, nn.Sequential):
        raise TypeError(f"no translation of {type(net).__name__} into JAX")
    return _layers(net)


def _layers(net: nn.Sequential) -> Callable[[Params, jax.Array], jax.Array]:
    steps: list[Any] = []
    for layer in net:
        if isinstance(layer, nn.Linear):
            steps.append(None)
        elif isinstance(layer, nn.Tanh):
            steps.append(jnp.tanh)
        elif isinstance(layer, Sine):
            steps.append(lambda x, w=layer.frequency: jnp.sin(w * x))
        else:
            raise TypeError(f"no translation of {type(layer).__name__} into JAX")

    def apply(params: Params, x: jax.Array) -> jax.Array:
        remaining = iter(params)
        for step in steps:
            x = next(remaining) @ x + next(remaining) if step is None else step(x)
        return x[0]

    return apply


class InJax:
    """The problem for a JAX method.

    Attributes:
        params: where it starts.
        terms: (residual of params and a point, points, weight) with the loss
            sum_k weight_k / 2 sum_i r_k(x_i)^2, as `randngd` counts.
    """

    def __init__(self, training: Training, equations: tuple[Residual, ...]) -> None:
        self.training = training
        self.params: Params = [array(p) for p in training.net.parameters()]
        network = forward(training.net)

        def at_point(equation: Residual) -> Callable[[Params, jax.Array], jax.Array]:
            return lambda params, x: equation(lambda y: network(params, y), x)

        self.terms = [
            (at_point(equation), array(points), 2 * w / len(points))
            for equation, points, w in zip(
                equations, training.points, training.weights, strict=True
            )
        ]

    def residuals(self, params: Params) -> jax.Array:
        """The R numbers of whose squares the loss is the sum."""
        return jnp.concatenate(
            [
                jnp.sqrt(weight / 2) * jax.vmap(residual, (None, 0))(params, points)
                for residual, points, weight in self.terms
            ]
        )

    def loss(self, params: Params) -> jax.Array:
        return jnp.sum(self.residuals(params) ** 2)

    def write(self, params: Params) -> None:
        """Put parameters into the PyTorch network, whose error is then measured."""
        with torch.no_grad():
            for param, value in zip(self.training.net.parameters(), params, strict=True):
                param.copy_(torch.tensor(jax.device_get(value)))
