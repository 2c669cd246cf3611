"""A real browser."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def browser() -> Iterator[object]:
    """Headless Chromium of this system; nothing is ever downloaded."""
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    named = os.environ.get("CHROMIUM", "")
    found = next((p for p in (named, *map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))) if p), None)
    if found is None or not Path(found).exists():
        pytest.skip("no chromium on this machine: install the package chromium, or name it in CHROMIUM")
    with api.sync_playwright() as playwright:
        arguments = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        opened = playwright.chromium.launch(executable_path=found, args=arguments)
        yield opened
        opened.close()
