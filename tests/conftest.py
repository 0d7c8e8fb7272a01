"""Each test starts without gin bindings, whatever ran in this process before."""

import gin
import pytest


@pytest.fixture(autouse=True)
def no_bindings():
    gin.clear_config()
    yield
    gin.clear_config()
