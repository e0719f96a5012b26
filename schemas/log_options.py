"""The choices that settings and logging share: the format of log lines, and the lowest level that is written."""

from typing import Literal

LogFormat = Literal["human", "json"]
LogLevel = Literal["debug", "info", "warning", "error"]
