"""Lightning callbacks that show the curvature of a loss while any optimizer trains."""
