"""Redis over TLS: everything works, and a server or client with a wrong certificate is refused."""

from pathlib import Path

import pytest

from tailrace.producers.client import Client
from tailrace.schemas.errors import SettingsError, StoreUnavailable
from tests.rig import rig, shown
from tests.tls_rig import Authority, tls_redis
from tests.until import until

TEXT = "One word after another. " * 20
SLOW = {"steps": [{"kind": "text", "text": TEXT}], "pace": {"chunks_per_s": 40.0}}


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "ca")


async def test_requests_come_to_their_end_over_tls_on_both_sides(tmp_path: Path, authority: Authority) -> None:
    # given a server that shows a certificate and wants one, expect a request streamed to its end, and one cancelled
    certificate, key = authority.issue("client", "DNS:client.example")
    with tls_redis(tmp_path, authority, "IP:127.0.0.1", asks_clients=True) as port:
        options = f"ssl_ca_certs={authority.certificate}&ssl_certfile={certificate}&ssl_keyfile={key}"
        async with rig(f"rediss://127.0.0.1:{port}/0?{options}") as parts:
            request_id = await parts.submit({"steps": [{"kind": "text", "text": TEXT}]})
            assert shown(await parts.entries(request_id))[0] == TEXT
            assert (await parts.outcome(request_id)).content == TEXT
            cancelled = await parts.submit(SLOW)

            async def has_text() -> bool:
                return len(await parts.ids(cancelled)) > 4

            await until(has_text)
            await parts.client.cancel(cancelled)
            assert (await parts.outcome(cancelled)).status == "cancelled"


async def refused(url: str) -> str:
    with pytest.raises(StoreUnavailable) as caught:
        async with Client(url):
            pass
    return str(caught.value)


async def test_a_server_is_who_the_url_says(tmp_path: Path, authority: Authority) -> None:
    # given a certificate of another name, expect it refused unless the URL asks for no check; given one of a CA that is
    # not trusted, the same
    with tls_redis(tmp_path, authority, "DNS:other.example") as port:
        url = f"rediss://127.0.0.1:{port}/0"
        trusting = f"{url}?ssl_ca_certs={authority.certificate}"
        assert "certificate" in await refused(url)
        assert "IP address mismatch" in await refused(trusting)
        for lenient in (f"{trusting}&ssl_check_hostname=no", f"{url}?ssl_cert_reqs=none"):
            async with Client(lenient):
                pass


async def test_an_option_that_cannot_be_is_named() -> None:
    with pytest.raises(SettingsError, match="cannot be used"):
        await Client("rediss://127.0.0.1:1/0?ssl_cert_reqs=maybe").__aenter__()
