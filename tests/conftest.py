"""Fixtures shared by all tests: where the real test media lie, and one torch thread so that runs repeat."""

import os
from pathlib import Path

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
# Sums depend on the number of threads; and the tests run in several processes.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder with real test media (face clips, RAVDESS), beside the checkout or named by HF_EMOTION_TEST_DATA."""
    folder = Path(os.environ.get("HF_EMOTION_TEST_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"real test media not found at {folder}; set HF_EMOTION_TEST_DATA to their folder")
    return folder
