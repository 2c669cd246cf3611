"""Writes docs/theories.md anew: `python -m tests.theory`."""

from __future__ import annotations

from tests.theory._page import PAGE, page

from separatrix.theory import theories

if __name__ == "__main__":
    PAGE.write_text(page(theories()), encoding="utf-8")
