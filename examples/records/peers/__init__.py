"""Peers written in JAX, on the same points and from the same parameters."""
