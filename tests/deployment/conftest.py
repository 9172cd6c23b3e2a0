import pytest


@pytest.fixture(autouse=True)
def _traceable(traceable):
    """Most of these tests trace."""
