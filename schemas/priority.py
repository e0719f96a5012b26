"""The classes of priority in which requests wait."""

from typing import Literal

Priority = Literal["high", "normal", "low"]
"""A higher class is always served first."""

DEFAULT_PRIORITY = "normal"
