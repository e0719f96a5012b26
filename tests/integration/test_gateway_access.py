"""Access to the gateway: keys, tenants, tokens, origins, limits, and secrets that are not logged."""

import asyncio
import logging
import os
import time
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from tailrace.producers.client import Client
from tailrace.producers.gateway import server
from tailrace.producers.gateway.access.api_keys import new_key
from tailrace.producers.gateway.app import Gateway
from tailrace.producers.gateway.parameters import MAX_BODY_BYTES, MAX_HEAD_BYTES
from tailrace.producers.options import ClientOptions
from tailrace.producers.tokens import Grant, TokenSigner
from tailrace.schemas.errors import SettingsError, UnknownRequest
from tailrace.schemas.settings import Settings
from tests.gateway_rig import SECRET, Served, events, gateway
from tests.rig import request_for, rig
from tests.until import until

EVERY_ROUTE = (("GET", ""), ("GET", "/events"), ("POST", "/cancel"))


def bearer(credentials: str) -> dict[str, str]:
    return {"authorization": f"Bearer {credentials}"}


async def test_a_submit_belongs_to_the_keys_tenant(redis_url: str, tmp_path: Path) -> None:
    async with gateway(redis_url, tmp_path) as served, Client(redis_url) as client:
        submitted = await served.submit(request_for())
        assert (await client.status(submitted["id"])).tenant == "acme"
        same = await served.submit(request_for(tenant="acme"))
        assert (await client.status(same["id"])).tenant == "acme"
        refused = await served.http.post("/v1/streams", json=request_for(tenant="initech"))
        assert refused.status_code == 403


@pytest.mark.parametrize(("method", "path"), EVERY_ROUTE)
async def test_another_tenants_request_looks_like_an_unknown_one(
    redis_url: str, tmp_path: Path, method: str, path: str
) -> None:

    async with gateway(redis_url, tmp_path) as served, Client(redis_url) as client:
        others = [(await client.submit(request_for(tenant=tenant))).id for tenant in ("initech", None)]
        nothing = await served.http.request(method, f"/v1/streams/nothing{path}")
        assert nothing.status_code == 404
        for request_id in others:
            answer = await served.http.request(method, f"/v1/streams/{request_id}{path}")
            assert answer.status_code == 404
            assert answer.text.replace(request_id, "nothing") == nothing.text
            assert (await client.status(request_id)).status == "queued"
        assert (await served.http.get(f"/v1/events?ids={others[0]}")).status_code == 404


@pytest.mark.parametrize(
    "credentials", [{}, {"authorization": "Basic abc"}, bearer("trk_0123456789ab_" + 43 * "A"), bearer("x")]
)
async def test_without_valid_credentials_every_route_is_a_401(
    redis_url: str, tmp_path: Path, credentials: dict[str, str]
) -> None:
    async with gateway(redis_url, tmp_path) as served:
        submitted = await served.submit(request_for())
        del served.http.headers["authorization"]
        for method, path in (("POST", "/v1/streams"), *((m, submitted["links"]["self"] + p) for m, p in EVERY_ROUTE)):
            answer = await served.http.request(method, path, headers=credentials, json=request_for())
            assert answer.status_code == 401
            assert answer.headers["www-authenticate"] == "Bearer"
        # an API key in the query is not accepted, because proxies log addresses
        answer = await served.http.get(f"{submitted['links']['self']}?token={served.key}")
        assert answer.status_code == 401


async def test_keys_are_added_and_removed_without_a_restart(redis_url: str, tmp_path: Path) -> None:
    async with gateway(redis_url, tmp_path) as served:
        shown, kept = new_key("acme")
        submitted = await served.submit(request_for())
        path = submitted["links"]["self"]

        async def answers(status: int, key: str) -> bool:
            return (await served.http.get(path, headers=bearer(key))).status_code == status

        old = served.keys_file.read_text()
        served.keys_file.write_text(f"{old}{kept.line}\n")
        await until(lambda: answers(200, shown))
        assert await answers(200, served.key)
        served.keys_file.write_text(f"{kept.line}\n")
        await until(lambda: answers(401, served.key))
        assert await answers(200, shown)
        # when the file becomes unreadable, the keys read before stay valid
        served.keys_file.write_text("broken\n")
        os.utime(served.keys_file, (1, 1))
        await asyncio.sleep(1.1)
        assert await answers(200, shown)


async def test_a_token_reads_or_cancels_one_request_until_it_expires(redis_url: str, tmp_path: Path) -> None:
    signer = TokenSigner([SECRET])
    async with gateway(redis_url, tmp_path) as served, Client(redis_url, ClientOptions(tokens=signer)) as client:
        reads, cancels, other = [
            await served.http.post(f"/v1/streams?grant={grant}", json=request_for())
            for grant in ("read", "cancel", "none")
        ]
        assert "token" not in other.json()
        del served.http.headers["authorization"]
        read, cancel, path = reads.json(), cancels.json(), reads.json()["links"]
        assert (await served.http.get(path["self"], headers=bearer(read["token"]))).status_code == 200
        for method in ("GET", "HEAD"):
            answer = await served.http.request(method, f"{path['self']}?token={read['token']}")
            assert answer.status_code == 200
        assert (await served.http.post(path["cancel"], headers=bearer(read["token"]))).status_code == 403
        assert (await served.http.post(path["cancel"], headers=bearer(cancel["token"]))).status_code == 404
        assert (await served.http.post(f"{path['cancel']}?token={cancel['token']}")).status_code == 401
        assert (
            await served.http.post("/v1/streams", headers=bearer(cancel["token"]), json=request_for())
        ).status_code == 403
        assert (await served.http.post(cancel["links"]["cancel"], headers=bearer(cancel["token"]))).status_code == 200

        minted = await client.tail_token(read["id"], may_cancel=True)
        assert (await served.http.post(path["cancel"], headers=bearer(minted))).status_code == 200
        ended = await client.tail_token(read["id"], lifetime_s=-1)
        assert (await served.http.get(path["self"], headers=bearer(ended))).status_code == 401
        # a token for the same id of another tenant, whose request has expired, does not read this one
        stale = signer.mint(Grant(read["id"], "initech", may_cancel=True, expires_s=int(time.time()) + 60))
        assert (await served.http.get(path["self"], headers=bearer(stale))).status_code == 404
        with pytest.raises(UnknownRequest):
            await client.tail_token("nothing")


async def test_a_client_without_secrets_cannot_mint_tokens(redis_url: str) -> None:
    async with Client(redis_url) as client:
        submitted = await client.submit(request_for())
        with pytest.raises(SettingsError, match="TAILRACE_TOKEN_SECRETS"):
            await client.tail_token(submitted.id)


async def test_idempotency_keys_of_different_tenants_are_separate(redis_url: str, tmp_path: Path) -> None:
    async with gateway(redis_url, tmp_path) as served:
        shown, kept = new_key("initech")
        first = await served.submit(request_for(), **{"idempotency-key": "order 1"})
        again = await served.submit(request_for(), **{"idempotency-key": "order 1"})
        assert (first["already_exists"], again["already_exists"]) == (False, True)
        assert again["id"] == first["id"]
        conflict = await served.http.post(
            "/v1/streams", json=request_for(user="x"), headers={"idempotency-key": "order 1"}
        )
        assert conflict.status_code == 409
        assert conflict.json()["error"]["code"] == "request_conflict"
        served.keys_file.write_text(f"{served.keys_file.read_text()}{kept.line}\n")
        await until(lambda: _is_known(served, shown))
        others = await served.submit(request_for(user="x"), **{"idempotency-key": "order 1", **bearer(shown)})
        assert (others["already_exists"], others["id"] == first["id"]) == (False, False)
        for headers, body in (({"idempotency-key": 256 * "x"}, request_for()), ({}, request_for(id="mine"))):
            assert (await served.http.post("/v1/streams", json=body, headers=headers)).status_code == 400


async def _is_known(served: Served, shown: str) -> bool:
    return (await served.http.get("/v1/streams/nothing", headers=bearer(shown))).status_code == 404


async def test_submits_are_limited_for_each_tenant(redis_url: str, tmp_path: Path) -> None:
    async with gateway(redis_url, tmp_path, gateway_submits_per_minute=2) as served:
        answers = [await served.http.post("/v1/streams", json=request_for()) for _ in range(3)]
        assert [answer.status_code for answer in answers] == [202, 202, 429]
        assert 1 <= int(answers[2].headers["retry-after"]) <= 30
        path = answers[0].json()["links"]["self"]
        assert (await served.http.get(path)).status_code == 200  # only submits


async def test_cors_is_off_unless_an_origin_is_configured(redis_url: str, tmp_path: Path) -> None:
    page = "https://app.example"
    preflight = {
        "origin": page,
        "access-control-request-method": "POST",
        "access-control-request-headers": "authorization",
    }
    async with gateway(redis_url, tmp_path) as served:
        answer = await served.http.options("/v1/streams", headers=preflight)
        assert not [name for name in answer.headers if name.startswith("access-control")]
        answer = await served.http.get("/healthz", headers={"origin": page})
        assert not [name for name in answer.headers if name.startswith("access-control")]
    async with gateway(redis_url, tmp_path, gateway_origins=page) as served:
        answer = await served.http.options("/v1/streams", headers=preflight)
        assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (200, page)
        submitted = await served.submit(request_for())
        await served.http.post(submitted["links"]["cancel"])
        answer = await served.http.get(submitted["links"]["events"], headers={"origin": page})
        assert answer.headers["access-control-allow-origin"] == page
        assert "access-control-allow-credentials" not in answer.headers
        answer = await served.http.get("/healthz", headers={"origin": "https://evil.example"})
        assert "access-control-allow-origin" not in answer.headers


async def test_bodies_and_headers_are_limited(redis_url: str, tmp_path: Path) -> None:
    async with gateway(redis_url, tmp_path) as served:
        answer = await _response_head(served, f"content-length: {MAX_BODY_BYTES + 1}\r\n\r\n".encode())
        assert answer.startswith(b"HTTP/1.1 413 ")

        # a body without a length is rejected as soon as it is too long, and its sender is disconnected in the end
        chunk = b"100000\r\n" + bytes(1 << 20) + b"\r\n"
        _, writer = await _connect_and_send(served, b"transfer-encoding: chunked\r\n\r\n" + chunk)
        with pytest.raises(ConnectionError):
            await _flood(writer, chunk)
        writer.close()
        answer = await served.http.post("/v1/streams", content=_pieces(MAX_BODY_BYTES + 1))
        assert answer.status_code == 413
        answer = await served.http.get("/healthz", headers={"x": MAX_HEAD_BYTES * "x"})
        assert answer.status_code == 431
        answer = await served.http.post("/v1/streams", content=b"{")
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "request_invalid")
        # endless headers get a response and a closed connection
        answer = await _response_head(served, b"x: " + MAX_HEAD_BYTES * b"x")
        assert answer.startswith(b"HTTP/1.1 431 ")


async def test_headers_that_take_too_long_end_the_connection(
    redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "HEAD_TIMEOUT_S", 0.05)
    async with gateway(redis_url, tmp_path) as served:
        assert (await _response_head(served, b"x: x")).startswith(b"HTTP/1.1 408 ")


async def _flood(writer: asyncio.StreamWriter, chunk: bytes) -> None:
    async with asyncio.timeout(30):
        while True:
            writer.write(chunk)
            await writer.drain()


async def _pieces(size: int) -> AsyncGenerator[bytes, None]:
    while size > 0:
        yield bytes(min(size, 1 << 20))
        size -= 1 << 20


async def _response_head(served: Served, head: bytes) -> bytes:
    """Sends this and returns the head of the response."""
    reader, writer = await _connect_and_send(served, head)
    async with asyncio.timeout(10):
        answer = await reader.readuntil(b"\r\n\r\n")
    writer.close()
    return answer


async def _connect_and_send(served: Served, head: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
    key = served.key.encode()
    writer.write(b"POST /v1/streams HTTP/1.1\r\nhost: x\r\nauthorization: Bearer " + key + b"\r\n" + head)
    return reader, writer


async def test_the_log_contains_no_secret(redis_url: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with rig(redis_url), gateway(redis_url, tmp_path) as served:
        with caplog.at_level(logging.DEBUG):
            submitted = await served.submit(request_for())
            token = submitted["token"]
            del served.http.headers["authorization"]
            await events(served.http, f"{submitted['links']['events']}?token={token}")
            await served.http.get(f"{submitted['links']['self']}?token={token}x")
            await served.http.get(f"/v1/streams/nothing%0Aforged?token={token}")
            logged = "\n".join(
                f"{record.name} {record.getMessage()}"
                for record in caplog.records
                if record.name.startswith(("tailrace", "uvicorn"))
            )
    assert f"GET {submitted['links']['events']} 200" in logged
    assert "nothing\\nforged 404" in logged
    for secret in (token, token.rpartition(".")[2], served.key, served.key.rpartition("_")[2], SECRET):
        assert secret not in logged
    assert SECRET not in repr(served.settings)


def test_a_gateway_without_keys_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="TAILRACE_GATEWAY_KEYS_FILE"):
        Gateway(Settings())
    with pytest.raises(SettingsError, match="cannot be read"):
        Gateway(Settings(gateway_keys_file=str(tmp_path / "none")))
    (tmp_path / "empty").write_text("# no key yet\n")
    with pytest.raises(SettingsError, match="no API key"):
        Gateway(Settings(gateway_keys_file=str(tmp_path / "empty")))


async def test_an_open_gateway_needs_no_credentials(redis_url: str, tmp_path: Path) -> None:
    async with gateway(redis_url, tmp_path, is_open=True) as served, Client(redis_url) as client:
        del served.http.headers["authorization"]
        submitted = await served.submit(request_for(tenant="acme"))
        assert (await client.status(submitted["id"])).tenant == "acme"
        assert (await served.http.get(submitted["links"]["self"])).status_code == 200


CROSS_SITE = (
    *({"origin": "https://evil.example"}, {"origin": "null"}, {"origin": "http://127.0.0.1:1"}),
    *({"host": "evil.example"}, {"host": "127.0.0.1.evil.example"}, {"host": "evil.example@127.0.0.1"}, {"host": ""}),
)


@pytest.mark.parametrize("headers", CROSS_SITE)
async def test_an_open_gateway_rejects_cross_site_calls(
    redis_url: str, tmp_path: Path, headers: dict[str, str]
) -> None:

    async with gateway(redis_url, tmp_path, is_open=True) as served:
        submitted = await served.submit(request_for())
        for method, path in (
            ("POST", "/v1/streams"),
            ("GET", "/"),
            *((m, submitted["links"]["self"] + p) for m, p in EVERY_ROUTE),
        ):
            answer = await served.http.request(method, path, headers=headers, content=b"{}")
            assert answer.status_code == 403, (method, path)
        assert (await served.http.get(submitted["links"]["self"])).json()["state"]["status"] == "queued"


async def test_an_open_gateway_accepts_its_own_page_and_configured_origins(redis_url: str, tmp_path: Path) -> None:
    app = "http://localhost:3000"
    async with gateway(redis_url, tmp_path, is_open=True, gateway_origins=app) as served:
        here = f"localhost:{served.port}"
        for headers in (
            {"origin": served.url},
            {"origin": app},
            {"host": here, "origin": f"http://{here}"},
            {"host": "[::1]:80"},
        ):
            assert (await served.http.post("/v1/streams", json=request_for(), headers=headers)).status_code == 202
