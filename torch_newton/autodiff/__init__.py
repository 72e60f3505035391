"""Derivatives of a loss by automatic differentiation, as products with vectors."""
