"""Long trials of what must never happen, run by `make soak`."""
