"""`tailrace.gateway`: what an application imports to mount the gateway, without paying for it before it is used."""

import subprocess
import sys

import pytest

import tailrace.gateway
from tailrace.producers.gateway.app import Gateway


def test_the_gateway_is_imported_by_its_public_name() -> None:
    assert tailrace.gateway.Gateway is Gateway
    assert set(tailrace.gateway.__all__) == set(dir(tailrace.gateway))


def test_importing_the_module_loads_no_web_library() -> None:
    program = "import sys, tailrace.gateway; sys.exit('starlette' in sys.modules or 'redis' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], timeout=30).returncode == 0


def test_other_names_are_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Server'"):
        getattr(tailrace.gateway, "Server")  # noqa: B009 - pyright rejects the plain form
