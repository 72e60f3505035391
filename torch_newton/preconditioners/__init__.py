"""Approximate inverses of H + lambda I."""
