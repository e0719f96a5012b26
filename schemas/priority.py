"""Priority classes."""

from typing import Literal

Priority = Literal["high", "normal", "low"]
"""Requests of a higher class are always served first."""

DEFAULT_PRIORITY = "normal"
