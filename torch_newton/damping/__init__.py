"""Rules for the damping lambda of (H + lambda I) d = -g."""
