"""One step of regularized Newton's method."""
