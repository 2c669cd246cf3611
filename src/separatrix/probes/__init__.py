"""Probes, one file a family; the recorder finds them by walking this package and the entry points of others."""
