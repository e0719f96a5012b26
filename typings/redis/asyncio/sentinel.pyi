from typing import Any

from redis.asyncio.client import Redis

class Sentinel:
    def __init__(
        self, sentinels: list[tuple[str, int]], min_other_sentinels: int = ..., **connection_kwargs: Any
    ) -> None: ...
    def master_for(self, service_name: str, **kwargs: Any) -> Redis: ...
