"""The neural tangent kernel and the Newton neural tangent kernel."""
