"""Rules of parametrization, one a file."""
