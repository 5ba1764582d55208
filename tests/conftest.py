"""Fixtures shared by all tests: where the real test media lie, and one torch thread so that runs repeat."""

import os
import resource
from contextlib import contextmanager
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


@contextmanager
def limit_files(size: int):
    """No file may grow beyond `size` bytes, as on a full disk or under a quota."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.fixture(scope="session")
def files_limited_to():
    """`with files_limited_to(bytes):` stands for a full disk."""
    return limit_files
