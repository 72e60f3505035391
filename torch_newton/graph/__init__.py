"""From the autograd graph of a loss to its per-sample Jacobian."""
