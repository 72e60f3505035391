"""Numerical linear algebra that knows no autograd."""
