"""What tracing needs: inner shapes are not checked, for sizes are unknown there, and its log is not kept."""

import inspect
import logging

import jaxtyping
import pytest

from contextual_rnn.ops import BACKENDS


@pytest.fixture(autouse=True)
def _traceable(monkeypatch):
    jaxtyping.config.update("jaxtyping_disable", True)
    for name in ("reference", "attention"):  # torch before 2.11 cannot trace what is wrapped around them either
        monkeypatch.setitem(BACKENDS, name, inspect.unwrap(BACKENDS[name]))
    trace = logging.getLogger("torch.__trace")
    disabled, trace.disabled = trace.disabled, True
    yield
    trace.disabled = disabled
    jaxtyping.config.update("jaxtyping_disable", False)
