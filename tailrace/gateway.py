"""The gateway, to mount in an application of your own: `from tailrace.gateway import Gateway`.

Needs the extra `web`, which is imported with the first name that is used.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tailrace.producers.gateway.app import Gateway as Gateway
    from tailrace.schemas.settings import Settings as Settings

__all__ = ["Gateway", "Settings"]

_MODULES = {"Gateway": "tailrace.producers.gateway.app", "Settings": "tailrace.schemas.settings"}


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_MODULES[name]), name)
    return value


def __dir__() -> list[str]:
    return __all__
