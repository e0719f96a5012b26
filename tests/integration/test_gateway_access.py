"""Nobody where they don't belong: keys, tenants, tokens, origins, limits, and what the log does not say."""

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


def bearer(shown: str) -> dict[str, str]:
    return {"authorization": f"Bearer {shown}"}


async def test_a_submit_is_of_the_keys_tenant(redis_url: str, tmp_path: Path) -> None:
    async with gateway(redis_url, tmp_path) as served, Client(redis_url) as client:
        submitted = await served.submit(request_for())
        assert (await client.status(submitted["id"])).tenant == "acme"
        same = await served.submit(request_for(tenant="acme"))
        assert (await client.status(same["id"])).tenant == "acme"
        refused = await served.http.post("/v1/streams", json=request_for(tenant="initech"))
        assert refused.status_code == 403


@pytest.mark.parametrize(("method", "path"), EVERY_ROUTE)
async def test_another_tenants_request_is_as_unknown_as_none(
    redis_url: str, tmp_path: Path, method: str, path: str
) -> None:
    # given requests of others, if a key asks for one, expect what it is told of a request that never was
    async with gateway(redis_url, tmp_path) as served, Client(redis_url) as client:
        others = [(await client.submit(request_for(tenant=tenant))).id for tenant in ("initech", None)]
        nothing = await served.http.request(method, f"/v1/streams/nothing{path}")
        assert nothing.status_code == 404
        for request_id in others:
            told = await served.http.request(method, f"/v1/streams/{request_id}{path}")
            assert told.status_code == 404
            assert told.text.replace(request_id, "nothing") == nothing.text
            assert (await client.status(request_id)).status == "queued"
        assert (await served.http.get(f"/v1/events?ids={others[0]}")).status_code == 404


@pytest.mark.parametrize(
    "shown", [{}, {"authorization": "Basic abc"}, bearer("trk_0123456789ab_" + 43 * "A"), bearer("x")]
)
async def test_without_a_valid_key_there_is_nothing(redis_url: str, tmp_path: Path, shown: dict[str, str]) -> None:
    async with gateway(redis_url, tmp_path) as served:
        submitted = await served.submit(request_for())
        del served.http.headers["authorization"]
        for method, path in (("POST", "/v1/streams"), *((m, submitted["links"]["self"] + p) for m, p in EVERY_ROUTE)):
            told = await served.http.request(method, path, headers=shown, json=request_for())
            assert told.status_code == 401
            assert told.headers["www-authenticate"] == "Bearer"
        # given an API key in an address, where it would be logged, expect it not to count
        told = await served.http.get(f"{submitted['links']['self']}?token={served.key}")
        assert told.status_code == 401


async def test_keys_come_and_go_without_a_restart(redis_url: str, tmp_path: Path) -> None:
    async with gateway(redis_url, tmp_path) as served:
        shown, kept = new_key("acme")
        submitted = await served.submit(request_for())
        path = submitted["links"]["self"]

        async def says(status: int, key: str) -> bool:
            return (await served.http.get(path, headers=bearer(key))).status_code == status

        old = served.keys_file.read_text()
        served.keys_file.write_text(f"{old}{kept.line}\n")
        await until(lambda: says(200, shown))
        assert await says(200, served.key)
        served.keys_file.write_text(f"{kept.line}\n")
        await until(lambda: says(401, served.key))
        assert await says(200, shown)
        # given a file that cannot be read any more, expect the keys to stay as they were
        served.keys_file.write_text("broken\n")
        os.utime(served.keys_file, (1, 1))
        await asyncio.sleep(1.1)
        assert await says(200, shown)


async def test_a_token_reads_or_cancels_one_request_until_its_end(redis_url: str, tmp_path: Path) -> None:
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
            told = await served.http.request(method, f"{path['self']}?token={read['token']}")
            assert told.status_code == 200
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
        # given a token of the right id and another tenant (the id was given out again), expect it not to read
        stale = signer.mint(Grant(read["id"], "initech", may_cancel=True, expires_s=int(time.time()) + 60))
        assert (await served.http.get(path["self"], headers=bearer(stale))).status_code == 404
        with pytest.raises(UnknownRequest):
            await client.tail_token("nothing")


async def test_a_client_without_secrets_mints_nothing(redis_url: str) -> None:
    async with Client(redis_url) as client:
        submitted = await client.submit(request_for())
        with pytest.raises(SettingsError, match="TAILRACE_TOKEN_SECRETS"):
            await client.tail_token(submitted.id)


async def test_an_idempotency_key_is_its_tenants_own(redis_url: str, tmp_path: Path) -> None:
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


async def test_cors_is_closed_unless_an_origin_is_named(redis_url: str, tmp_path: Path) -> None:
    page = "https://app.example"
    asked = {"origin": page, "access-control-request-method": "POST", "access-control-request-headers": "authorization"}
    async with gateway(redis_url, tmp_path) as served:
        told = await served.http.options("/v1/streams", headers=asked)
        assert not [name for name in told.headers if name.startswith("access-control")]
        told = await served.http.get("/healthz", headers={"origin": page})
        assert not [name for name in told.headers if name.startswith("access-control")]
    async with gateway(redis_url, tmp_path, gateway_origins=page) as served:
        told = await served.http.options("/v1/streams", headers=asked)
        assert (told.status_code, told.headers["access-control-allow-origin"]) == (200, page)
        submitted = await served.submit(request_for())
        await served.http.post(submitted["links"]["cancel"])
        told = await served.http.get(submitted["links"]["events"], headers={"origin": page})
        assert told.headers["access-control-allow-origin"] == page
        assert "access-control-allow-credentials" not in told.headers
        told = await served.http.get("/healthz", headers={"origin": "https://evil.example"})
        assert "access-control-allow-origin" not in told.headers


async def test_bodies_and_headers_are_bounded(redis_url: str, tmp_path: Path) -> None:
    async with gateway(redis_url, tmp_path) as served:
        told = await _said(served, f"content-length: {MAX_BODY_BYTES + 1}\r\n\r\n".encode())
        assert told.startswith(b"HTTP/1.1 413 ")

        # given a body without a length, expect it refused as soon as it is too long, and its sender left in the end
        chunk = b"100000\r\n" + bytes(1 << 20) + b"\r\n"
        _, writer = await _sends(served, b"transfer-encoding: chunked\r\n\r\n" + chunk)
        with pytest.raises(ConnectionError):
            await _flood(writer, chunk)
        writer.close()
        told = await served.http.post("/v1/streams", content=_pieces(MAX_BODY_BYTES + 1))
        assert told.status_code == 413
        told = await served.http.get("/healthz", headers={"x": MAX_HEAD_BYTES * "x"})
        assert told.status_code == 431
        told = await served.http.post("/v1/streams", content=b"{")
        assert (told.status_code, told.json()["error"]["code"]) == (400, "request_invalid")
        # given headers without an end, expect an answer and a closed connection, not memory filled
        told = await _said(served, b"x: " + MAX_HEAD_BYTES * b"x")
        assert told.startswith(b"HTTP/1.1 431 ")


async def test_headers_that_do_not_end_in_time_end_the_connection(
    redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "HEAD_TIMEOUT_S", 0.05)
    async with gateway(redis_url, tmp_path) as served:
        assert (await _said(served, b"x: x")).startswith(b"HTTP/1.1 408 ")


async def _flood(writer: asyncio.StreamWriter, chunk: bytes) -> None:
    async with asyncio.timeout(30):
        while True:
            writer.write(chunk)
            await writer.drain()


async def _pieces(size: int) -> AsyncGenerator[bytes, None]:
    while size > 0:
        yield bytes(min(size, 1 << 20))
        size -= 1 << 20


async def _said(served: Served, head: bytes) -> bytes:
    """The head of the answer to a request that sends no more than this."""
    reader, writer = await _sends(served, head)
    async with asyncio.timeout(10):
        told = await reader.readuntil(b"\r\n\r\n")
    writer.close()
    return told


async def _sends(served: Served, head: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
    key = served.key.encode()
    writer.write(b"POST /v1/streams HTTP/1.1\r\nhost: x\r\nauthorization: Bearer " + key + b"\r\n" + head)
    return reader, writer


async def test_the_log_names_no_secret(redis_url: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
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


def test_a_gateway_that_nobody_could_call_is_not_made(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="TAILRACE_GATEWAY_KEYS_FILE"):
        Gateway(Settings())
    with pytest.raises(SettingsError, match="cannot be read"):
        Gateway(Settings(gateway_keys_file=str(tmp_path / "none")))
    (tmp_path / "empty").write_text("# nobody yet\n")
    with pytest.raises(SettingsError, match="no API key"):
        Gateway(Settings(gateway_keys_file=str(tmp_path / "empty")))


async def test_an_open_gateway_asks_nobody(redis_url: str, tmp_path: Path) -> None:
    async with gateway(redis_url, tmp_path, is_open=True) as served, Client(redis_url) as client:
        del served.http.headers["authorization"]
        submitted = await served.submit(request_for(tenant="acme"))
        assert (await client.status(submitted["id"])).tenant == "acme"
        assert (await served.http.get(submitted["links"]["self"])).status_code == 200


ELSEWHERE = (
    *({"origin": "https://evil.example"}, {"origin": "null"}, {"origin": "http://127.0.0.1:1"}),
    *({"host": "evil.example"}, {"host": "127.0.0.1.evil.example"}, {"host": "evil.example@127.0.0.1"}, {"host": ""}),
)


@pytest.mark.parametrize("headers", ELSEWHERE)
async def test_an_open_gateway_answers_no_page_from_elsewhere(
    redis_url: str, tmp_path: Path, headers: dict[str, str]
) -> None:
    # given a gateway that asks for no key, if a foreign page has a browser call it, expect nothing to be done or told
    async with gateway(redis_url, tmp_path, is_open=True) as served:
        submitted = await served.submit(request_for())
        for method, path in (
            ("POST", "/v1/streams"),
            ("GET", "/"),
            *((m, submitted["links"]["self"] + p) for m, p in EVERY_ROUTE),
        ):
            told = await served.http.request(method, path, headers=headers, content=b"{}")
            assert told.status_code == 403, (method, path)
        assert (await served.http.get(submitted["links"]["self"])).json()["state"]["status"] == "queued"


async def test_an_open_gateway_answers_its_own_page_and_those_that_are_named(redis_url: str, tmp_path: Path) -> None:
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
