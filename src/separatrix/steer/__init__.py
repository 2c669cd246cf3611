"""Steering: parametrizations, schedules, optimizers and tuning that act on what a recording or a theory tells."""
