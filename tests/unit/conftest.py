"""What the unit tests share beside tests/conftest.py."""

import pytest

from attributary.attribution.open import open_engine


@pytest.fixture(scope="session")
def tiny_engine(tiny_bundle_dir):
    """An engine on the tiny bundle, in this process."""
    return open_engine(tiny_bundle_dir)
