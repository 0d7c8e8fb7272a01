"""Each test starts without gin bindings, in the member's wheel as well as in the workspace."""

from collections.abc import Iterator

import gin
import pytest


@pytest.fixture(autouse=True)
def no_bindings() -> Iterator[None]:
    """Clear the configuration before and after each test."""
    gin.clear_config()
    yield
    gin.clear_config()
