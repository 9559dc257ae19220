"""Fixtures that test modules share."""

import os
import secrets

import pytest
import torch
from fault_server import fault_server

__all__ = ["fault_server"]


@pytest.fixture
def seed() -> int:
    """Fresh inputs each time; set ZVL_TEST_SEED to the printed number to see a failure again."""
    value = int(os.environ.get("ZVL_TEST_SEED") or secrets.randbelow(2**31))
    print(f"ZVL_TEST_SEED={value}")
    torch.manual_seed(value)
    return value
