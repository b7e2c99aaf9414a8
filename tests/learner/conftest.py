"""The real encoder, prepared once and kept beside the test database."""

import getpass
import tempfile
from pathlib import Path

import pytest

from router.encoder import Encoder, load_encoder


@pytest.fixture(scope="session")
def encoder() -> Encoder:
    """all-MiniLM-L6-v2 as it serves."""
    return load_encoder(home=Path(tempfile.gettempdir()) / f"trimtab-tests-{getpass.getuser()}")
