"""The residuals at one point, in JAX: for each problem one function of a field for each term.

A field maps a point, of shape (d,), to a number. `tests/records/test_peers.py` compares with the
residuals in PyTorch.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

Field = Callable[[jax.Array], jax.Array]
Residual = Callable[[Field, jax.Array], jax.Array]


def d(field: Field, axis: int) -> Field:
    """The derivative along an axis, by forward mode."""

    def derivative(x: jax.Array) -> jax.Array:
        return jax.jvp(field, (x,), (jnp.zeros_like(x).at[axis].set(1.0),))[1]

    return derivative


def second(field: Field, axis: int) -> Field:
    return d(d(field, axis), axis)


def sines(x: jax.Array) -> jax.Array:
    return jnp.prod(jnp.sin(jnp.pi * x))


def poisson(u: Field, x: jax.Array) -> jax.Array:
    return second(u, 0)(x) + second(u, 1)(x) + 2 * jnp.pi**2 * sines(x)


def heat(u: Field, tx: jax.Array) -> jax.Array:
    return d(u, 0)(tx) - second(u, 1)(tx) / 4


def cooling_sine(tx: jax.Array) -> jax.Array:
    return jnp.exp(-(jnp.pi**2) * tx[0] / 4) * jnp.sin(jnp.pi * tx[1])


def burgers(u: Field, tx: jax.Array) -> jax.Array:
    return d(u, 0)(tx) + u(tx) * d(u, 1)(tx) - 0.01 * second(u, 1)(tx)


def helmholtz(u: Field, x: jax.Array) -> jax.Array:
    exact = jnp.sin(jnp.pi * x[0]) * jnp.sin(4 * jnp.pi * x[1])
    return second(u, 0)(x) + second(u, 1)(x) + u(x) - (1 - 17 * jnp.pi**2) * exact


POISSON: tuple[Residual, ...] = (poisson, lambda u, x: u(x) - sines(x))
BURGERS: tuple[Residual, ...] = (burgers, lambda u, tx: u(tx) + jnp.sin(jnp.pi * tx[1]))

EQUATIONS: dict[str, tuple[Residual, ...]] = {
    "poisson-2d": POISSON,
    "poisson-2d-deep": POISSON,
    "heat-1d": (heat, lambda u, tx: u(tx) - cooling_sine(tx)),
    "burgers": BURGERS,
    "burgers-9216": BURGERS,
    "burgers-siren": BURGERS,
    "helmholtz": (helmholtz,),
}
