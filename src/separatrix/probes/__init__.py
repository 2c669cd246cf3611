"""Probes, one file a family; the recorder finds them by walking this package and the entry points of others.

`compare_representations` compares two networks, or a network and a checkpoint, without a recording.
"""

from separatrix.probes.comparison import Comparison, compare_representations

__all__ = ["Comparison", "compare_representations"]
