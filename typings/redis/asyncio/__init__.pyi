from redis.asyncio.client import Redis as Redis
from redis.asyncio.client import from_url as from_url
from redis.asyncio.connection import BlockingConnectionPool as BlockingConnectionPool
from redis.asyncio.connection import Connection as Connection
from redis.asyncio.connection import ConnectionPool as ConnectionPool
from redis.asyncio.connection import SSLConnection as SSLConnection
from redis.asyncio.connection import UnixDomainSocketConnection as UnixDomainSocketConnection
from redis.asyncio.sentinel import Sentinel as Sentinel
