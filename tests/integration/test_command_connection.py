"""Commands on a connection taken over from redis-py: replies in their order, and how a lost connection is reported."""

import asyncio

import pytest
from redis import exceptions as redis_errors
from redis.asyncio import Connection, Redis
from redis.asyncio.connection import parse_url

from tailrace.broker.wire import CommandConnection, packed

PING = packed(b"PING")


class LostAtOnce(Connection):
    """A connection that is lost in the moment it is open, the first time."""

    times = 1

    async def connect(self) -> None:
        """Opens it, and aborts it the first time."""
        await super().connect()
        if self.times and self._writer is not None:
            self.times -= 1
            self._writer.transport.abort()


async def test_replies_come_in_the_order_of_the_commands(redis_url: str) -> None:
    # given commands whose replies are discarded, and one that Redis refuses, expect each call to get its own replies
    connection = CommandConnection(Connection(**parse_url(redis_url)))
    try:
        connection.send(PING, 1)  # it is not open yet
        assert await connection.ask(packed(b"ECHO", b"one") + PING, 2) == [b"one", b"PONG"]
        connection.send(packed(b"ECHO", b"discarded") * 3, 3)
        refused, two = await connection.ask(packed(b"NO-COMMAND") + packed(b"ECHO", b"two"), 2)
        assert isinstance(refused, redis_errors.ResponseError)
        assert two == b"two"
    finally:
        await connection.close()


async def test_a_connection_lost_before_it_is_taken_over_is_reported(redis_url: str) -> None:
    # given a connection that is lost as soon as it is open, expect an error in place of a wait, then a new connection
    connection = CommandConnection(LostAtOnce(**parse_url(redis_url)))
    try:
        async with asyncio.timeout(5):
            with pytest.raises(redis_errors.ConnectionError, match="as soon as it was open"):
                await connection.ask(PING, 1)
            await connection.close()
            assert await connection.ask(PING, 1) == [b"PONG"]
    finally:
        await connection.close()


async def test_a_connection_lost_meanwhile_is_reported_until_it_is_closed(redis_url: str, redis: Redis) -> None:
    connection = CommandConnection(Connection(**parse_url(redis_url)))
    try:
        (number,) = await connection.ask(packed(b"CLIENT", b"ID"), 1)
        waiting = asyncio.create_task(connection.ask(packed(b"BLPOP", b"never", b"0"), 1))
        await asyncio.sleep(0)
        await redis.client_kill_filter(_id=str(number))
        for call in (waiting, connection.ask(PING, 1)):
            with pytest.raises(redis_errors.ConnectionError, match="was lost"):
                await call
        connection.send(PING, 1)  # goes nowhere
        await connection.close()
        assert await connection.ask(PING, 1) == [b"PONG"]
    finally:
        await connection.close()
