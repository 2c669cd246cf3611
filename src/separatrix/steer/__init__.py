"""Steers trainings: optimizers in `separatrix.steer.optim`."""
