"""The closure as a function of the parameters."""
