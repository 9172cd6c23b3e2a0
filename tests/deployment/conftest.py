"""What tracing needs: inner shapes are not checked, for sizes are unknown there, and its log is not kept."""

import logging

import jaxtyping
import pytest


@pytest.fixture(autouse=True)
def _traceable():
    jaxtyping.config.update("jaxtyping_disable", True)
    trace = logging.getLogger("torch.__trace")
    disabled, trace.disabled = trace.disabled, True
    yield
    trace.disabled = disabled
    jaxtyping.config.update("jaxtyping_disable", False)
