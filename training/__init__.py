"""Training and evaluation of the two networks. Nobody imports this package."""
