"""Fixtures that test modules share."""

from fault_server import fault_server

__all__ = ["fault_server"]
