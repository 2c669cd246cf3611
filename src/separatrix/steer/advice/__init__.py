"""What to change next in a training, and what that is expected to give, with numbers."""

from separatrix.steer.advice._advising import advise, advisers
from separatrix.steer.advice._types import Advice, Adviser, Advising, Expected

__all__ = ["Advice", "Adviser", "Advising", "Expected", "advise", "advisers"]
