from collections.abc import Sequence
from typing import Any

from redis.asyncio.client import Pipeline, Redis

class AsyncScript:
    sha: str
    script: str | bytes
    async def __call__(
        self,
        keys: Sequence[str | bytes] | None = ...,
        args: Sequence[str | bytes | int | float] | None = ...,
        client: Redis | Pipeline | None = ...,
    ) -> Any: ...
