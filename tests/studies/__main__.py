"""Writes docs/studies.md anew: `python -m tests.studies`."""

from __future__ import annotations

from tests.studies._page import PAGE, page

from separatrix.studies import studies

if __name__ == "__main__":
    PAGE.write_text(page(studies()), encoding="utf-8")
