"""The gateway's JSON: every response matches the OpenAPI document; health; mounting in an application."""

import asyncio
from pathlib import Path
from typing import Any

import httpx2
import msgspec
import uvicorn
from jsonschema import Draft202012Validator
from starlette.applications import Starlette
from starlette.routing import Mount

from tailrace.demo.valkey import EmbeddedValkey
from tailrace.producers.answers import Status
from tailrace.producers.gateway.app import Gateway
from tailrace.producers.gateway.openapi import document
from tailrace.producers.gateway.server import listen
from tailrace.schemas.settings import Settings
from tests.gateway_rig import WAIT_S, events, gateway, reading
from tests.rig import request_for, rig
from tests.until import until

SLOW = {"steps": [{"kind": "text", "chunks": 1000}], "pace": {"chunks_per_s": 20}}


def check_schema(schema: dict[str, Any], content: Any) -> None:
    """Checks the content against the schema."""
    whole: Any = Draft202012Validator({**schema, "components": document()["components"]})
    assert [error.message for error in whole.iter_errors(content)] == []


def check(answer: httpx2.Response, method: str, path: str) -> None:
    """Checks a response against the document: its status, its type and its body."""
    responses = document()["paths"][path][method.lower()]["responses"]
    described = responses[str(answer.status_code)]
    content: dict[str, Any] = described.get("content", {})
    if not content:
        assert answer.content == b""
        return
    kind = answer.headers["content-type"].partition(";")[0]
    schema = content[kind]["schema"]
    if kind == "application/json":
        check_schema(schema, answer.json())


async def test_every_response_matches_the_document(redis_url: str, tmp_path: Path) -> None:
    streams, one, cancel, watch, several = (
        *("/v1/streams", "/v1/streams/{id}", "/v1/streams/{id}/cancel"),
        *("/v1/streams/{id}/events", "/v1/events"),
    )
    async with rig(redis_url) as tailrace, gateway(redis_url, tmp_path) as served:
        http = served.http
        key = {"idempotency-key": "1"}
        check(accepted := await http.post(streams, json=request_for(), headers=key), "post", streams)
        assert accepted.status_code == 202
        assert accepted.headers["location"] == accepted.json()["links"]["self"]
        check(await http.post(streams, json=request_for(user="x"), headers=key), "post", streams)
        check(await http.post(streams, json={"model": "sim"}), "post", streams)
        check(await http.post(streams, json=request_for(), headers={"authorization": ""}), "post", streams)
        path = accepted.json()["links"]["self"]
        check(await http.get(path), "get", one)
        await tailrace.outcome(accepted.json()["id"])
        check(found := await http.get(path), "get", one)
        assert found.json()["outcome"]["status"] == found.json()["state"]["status"] == "completed"
        check(await http.get("/v1/streams/nothing"), "get", one)
        check(again := await http.post(f"{path}/cancel"), "post", cancel)
        assert again.json()["verdict"] == "finished"
        check(await http.get(f"{path}/events"), "get", watch)
        check(await http.get(f"{path}/events?after=x"), "get", watch)
        check(await http.get(f"{path}/events?after=1-900000"), "get", watch)
        check(await http.get(f"/v1/events?ids={accepted.json()['id']}"), "get", several)
        check(await http.get("/v1/events?ids="), "get", several)
        check(await http.get("/v1/events?ids=nothing"), "get", several)
        for health in ("/healthz", "/readyz", "/openapi.json"):
            check(answer := await http.get(health, headers={"authorization": ""}), "get", health)
            assert answer.status_code == 200
        assert (await http.get("/openapi.json")).content == msgspec.json.encode(document())
        schemas = document()["components"]["schemas"]
        for event in await events(http, f"{path}/events"):
            of = next(
                s
                for s in schemas.values()
                if event.name in s.get("properties", {}).get("message_type", {}).get("enum", ())
            )
            check_schema(of, event.entry)
        (snapshot, *_) = await events(http, f"{path}/events?snapshot=1")
        check_schema(schemas["Snapshot"], snapshot.entry)


def test_the_document_describes_exactly_the_routes() -> None:
    gateway = Gateway(Settings(), is_open=True)
    routes = {
        (route.path, method.lower()) for route in gateway.routes for method in route.methods or () if method != "HEAD"
    } - {("/", "get")}  # the page to watch
    described = {
        (path, method) for path, item in document()["paths"].items() for method in item if method != "parameters"
    }
    assert described == routes
    for schema in document()["components"]["schemas"].values():
        Draft202012Validator.check_schema(schema)


async def test_unknown_routes_and_methods_are_answered(redis_url: str, tmp_path: Path) -> None:
    async with gateway(redis_url, tmp_path) as served:
        for nowhere in ("/nowhere", "/v1/streams/", "/healthz/"):
            assert (await served.http.get(nowhere)).json()["error"]["code"] == "not_found"
        flood = [(f"x-{number}", "y") for number in range(5_000)]
        assert (await served.http.get("/healthz", headers=flood)).status_code == 431
        wrong = await served.http.put("/v1/streams")
        assert (wrong.status_code, wrong.headers["allow"]) == (405, "POST")
        head = await served.http.head("/v1/streams/nothing/events")
        assert head.status_code == 200


async def test_a_cancel_reaches_the_worker_and_the_stream(redis_url: str, tmp_path: Path) -> None:
    async with rig(redis_url), gateway(redis_url, tmp_path) as served:
        submitted = await served.submit(request_for(SLOW))
        async with reading(served.http, submitted["links"]["events"]) as reader:
            names: list[str] = []
            async for event in reader:
                names.append(event.name)
                if event.id == "1-2":
                    answer = await served.http.post(submitted["links"]["cancel"])
                    assert (answer.status_code, answer.json()["verdict"]) == (202, "signalled")
    assert names[-1] == "cancelled"


async def test_without_redis_calls_get_503_and_an_event_source_gets_a_retry_hint(tmp_path: Path) -> None:
    with EmbeddedValkey() as valkey:
        async with gateway(valkey.url, tmp_path) as served:
            submitted = await served.submit(request_for())
            valkey.kill()
            path = submitted["links"]["events"]
            for away in (submitted["links"]["self"], path):
                answer = await served.http.get(away)
                assert (answer.status_code, answer.headers["retry-after"]) == (503, "2")
                assert str(valkey.port) not in answer.text
            assert (await served.http.get("/readyz")).status_code == 503
            assert (await served.http.get("/healthz")).status_code == 200
            # an EventSource gives up on any status but 200, so it gets an empty stream with a retry hint
            async with reading(served.http, path) as reader:
                assert reader.status == 200
                assert await reader.all() == []
                assert reader.retries
            valkey.start()

            async def is_ready() -> bool:
                return (await served.http.get("/readyz")).status_code == 200

            await until(is_ready)


async def test_the_number_of_open_streams_is_limited(redis_url: str, tmp_path: Path) -> None:
    async with gateway(redis_url, tmp_path, gateway_max_streams=1) as served:
        path = (await served.submit(request_for()))["links"]["events"]
        async with reading(served.http, path) as first:
            assert (await anext(aiter(first))).id == "0-1"
            async with reading(served.http, path) as second:
                assert await second.all() == []
                assert second.retries == [5000]
            assert (await served.http.get(path)).status_code == 503
        await until(lambda: not served.gateway.streams.is_full)


async def test_the_limit_holds_for_readers_that_connect_at_once(redis_url: str, tmp_path: Path) -> None:

    async with gateway(redis_url, tmp_path, gateway_max_streams=3) as served:
        path = (await served.submit(request_for()))["links"]["events"]
        open_now, retries = list[int](), list[int]()

        async def one() -> None:
            async with reading(served.http, path) as reader:
                async for _ in reader:
                    open_now.append(1)
                    await until(lambda: len(open_now) + len(retries) == 20)
                    return
                retries.extend(reader.retries)

        async with asyncio.timeout(WAIT_S):
            await asyncio.gather(*(one() for _ in range(20)))
        assert (len(open_now), retries) == (3, 17 * [5000])


async def test_a_stream_that_opens_during_the_stop_ends_at_once(redis_url: str, tmp_path: Path) -> None:
    async with gateway(redis_url, tmp_path) as served:
        path = (await served.submit(request_for()))["links"]["events"]
        client = await served.gateway.client()
        status = client.status

        async def stop_meanwhile(request_id: str) -> Status:
            served.gateway.stop()
            return await status(request_id)

        client.status = stop_meanwhile
        async with reading(served.http, path) as reader:
            assert await reader.all() == []
            assert len(reader.retries) == 1


async def test_an_application_mounts_the_gateway(redis_url: str, tmp_path: Path) -> None:
    # The application runs on its own server, which has none of the gateway's extensions.
    mine = Gateway(Settings(redis_url=redis_url), is_open=True)
    server = uvicorn.Server(
        uvicorn.Config(Starlette(routes=[Mount("/llm", mine)]), log_config=None, access_log=False, lifespan="on")
    )
    with listen("127.0.0.1", 0) as listener:
        at = f"http://127.0.0.1:{listener.getsockname()[1]}"
        serving = asyncio.create_task(server.serve([listener]))
        async with rig(redis_url), httpx2.AsyncClient(base_url=at, timeout=WAIT_S) as http:
            submitted = (await http.post("/llm/v1/streams", json=request_for())).json()
            assert submitted["links"]["self"] == f"/llm/v1/streams/{submitted['id']}"
            assert (await events(http, submitted["links"]["events"]))[-1].name == "completed"
            # when the application stops the gateway, an open stream ends with a hint when to reconnect
            waiting = (await http.post("/llm/v1/streams", json=request_for(SLOW))).json()
            async with reading(http, waiting["links"]["events"]) as reader:
                items = aiter(reader)
                assert (await anext(items)).id == "0-1"
                mine.stop()
                async with asyncio.timeout(WAIT_S):
                    assert "completed" not in [event.name async for event in items]
                assert len(reader.retries) == 2
            await http.post(waiting["links"]["cancel"])
        server.should_exit = True
        await serving
        await mine.close()


async def test_the_page_is_served_only_where_it_is_switched_on(redis_url: str, tmp_path: Path) -> None:
    for is_open, is_on in ((False, False), (False, True), (True, False)):
        async with gateway(redis_url, tmp_path, is_open=is_open, gateway_page=is_on) as served:
            answer = await served.http.get("/", headers={"authorization": ""})
            if not is_open and not is_on:
                assert answer.status_code == 404
                continue
            assert answer.status_code == 200
            assert answer.headers["content-type"] == "text/html; charset=utf-8"
            assert answer.headers["content-security-policy"].startswith("default-src 'none'; script-src 'sha256-")
            assert answer.headers["cache-control"] == "no-store"
            assert (await served.http.head("/")).status_code == 200
            assert (await served.http.post("/")).status_code == 405
