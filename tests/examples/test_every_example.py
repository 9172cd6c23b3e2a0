"""No example without a test."""

from pathlib import Path

import pytest
from tests.examples.running import EXAMPLES

PROGRAMS = [path.stem for path in sorted(EXAMPLES.glob("*.py")) if '"__main__"' in path.read_text()]


@pytest.mark.parametrize("name", PROGRAMS)
def test_every_example_has_a_test(name):
    assert any(name in path.read_text() for path in Path(__file__).parent.glob("test_*.py") if path != Path(__file__))
