"""What the theory says of Newton's method on wide networks, measured."""
