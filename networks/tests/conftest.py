"""Each test starts without gin bindings and from one seed; in the wheel as in the workspace."""

from collections.abc import Iterator

import gin
import pytest
import torch


@pytest.fixture(autouse=True)
def no_bindings() -> Iterator[None]:
    """Clear the configuration before and after each test."""
    gin.clear_config()
    yield
    gin.clear_config()


@pytest.fixture(autouse=True)
def same_numbers() -> None:
    """Draw the same in a test whatever ran before it in this process."""
    torch.manual_seed(0)
