"""Reads the state at the end of a campaign. Checks nothing."""

import time
from typing import Any

from redis.asyncio import Redis

from tailrace.broker import keys
from tests.fault.campaign.history import KeyLeft, UpstreamCall
from tests.fault.campaign.plan import Plan

_PAGE = 200


async def statuses(redis: Redis, ids: list[str]) -> dict[str, str | None]:
    """Returns the status of each record, None where there is none."""
    async with redis.pipeline(transaction=False) as pipe:
        for request_id in ids:
            pipe.execute_command("HGET", keys.rec_key(request_id), "status")
        answers = await pipe.execute()
    return {
        request_id: None if status is None else status.decode() for request_id, status in zip(ids, answers, strict=True)
    }


async def queue(redis: Redis) -> list[str]:
    """Returns the ids in the queue."""
    found: list[bytes] = await redis.execute_command("ZRANGE", keys.QUEUE, 0, -1)
    return [member.decode() for member in found]


async def dead(redis: Redis) -> list[str]:
    """Returns the ids in the dead-letter list."""
    found: list[bytes] = await redis.execute_command("ZRANGE", keys.DEAD, 0, -1)
    return [member.decode() for member in found]


async def records(redis: Redis, plan: Plan) -> dict[str, dict[str, str]]:
    """Returns the record of each request, without the request itself."""
    found: dict[str, dict[str, str]] = {}
    for planned in plan.requests:
        fields = await redis.hgetall(keys.rec_key(planned.id))
        if fields:
            found[planned.id] = {name.decode(): value.decode() for name, value in fields.items() if name != b"request"}
    return found


async def logs(redis: Redis, plan: Plan) -> dict[str, list[tuple[str, bytes]]]:
    """Returns every entry of each request's log."""
    field = keys.ENTRY_FIELD.encode()
    found: dict[str, list[tuple[str, bytes]]] = {}
    for planned in plan.requests:
        entries = await redis.xrange(keys.log_key(planned.id), "-", "+")
        if entries:
            found[planned.id] = [(entry_id.decode(), fields[field]) for entry_id, fields in entries]
    return found


async def keys_left(redis: Redis) -> list[KeyLeft]:
    """Returns every key of the server with its type and lifetime."""
    names = sorted(await redis.keys())
    found: list[KeyLeft] = []
    for first in range(0, len(names), _PAGE):
        page = names[first : first + _PAGE]
        async with redis.pipeline(transaction=False) as pipe:
            for name in page:
                pipe.execute_command("TYPE", name)
                pipe.execute_command("PTTL", name)
            answers = await pipe.execute()
        found += [
            KeyLeft(name.decode(), kind.decode(), ttl_ms)
            for name, kind, ttl_ms in zip(page, answers[::2], answers[1::2], strict=True)
        ]
    return found


def calls(ledger: dict[str, Any]) -> list[UpstreamCall]:
    """Returns the simulator's ledger, with its monotonic times as seconds since 1970."""
    epoch = time.time() - time.monotonic()
    return [
        UpstreamCall(
            entry["key"],
            entry["call"],
            entry["path"],
            entry["status"],
            entry["ended"],
            entry["started_s"] + epoch,
            None if entry["ended_s"] is None else entry["ended_s"] + epoch,
        )
        for entry in ledger["requests"]
    ]
