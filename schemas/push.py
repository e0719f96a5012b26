"""What is pushed beside the log to those who follow live: which channel, which form. The log alone is the truth.

A push may be lost, doubled or late: a reader knows by the gapless entry ids, and reads from the log what it lacks.
Sends and receives nothing itself.
"""

from collections.abc import Sequence
from hashlib import sha1

import msgspec

from tailrace.schemas import keys

Push = tuple[str, int, int, list[bytes]]
"""Request id, attempt, seq of the first entry, and the entries that follow one another from there, as in the log."""

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(list[Push])


def shard(request_id: str) -> int:
    """Which of the channels a request is pushed on: the first digit of the SHA-1 of its id, modulo their number.

    SHA-1 because Redis' Lua has it too (`append` in `lua/_prelude.lua`): nothing secret hangs on it.
    """
    return int(sha1(request_id.encode(), usedforsecurity=False).hexdigest()[0], 16) % keys.PUSH_SHARDS


def channel(number: int) -> str:
    """The name of a shard's channel."""
    return f"{keys.PUSH}{number}"


def channel_pattern() -> str:
    """All of the channels, as an ACL rule or PSUBSCRIBE names them."""
    return f"{keys.PUSH}*"


def encode_pushes(pushes: Sequence[tuple[str, int, int, Sequence[bytes]]]) -> bytes:
    """What one message on a channel says, of as many requests as there are; msgpack."""
    return _encoder.encode(pushes)


def decode_pushes(message: bytes) -> list[Push]:
    """Reads a message of a channel.

    Raises:
        ValueError: it is none.
    """
    try:
        return _decoder.decode(message)
    except msgspec.MsgspecError as error:
        raise ValueError(f"not a push: {error}") from error
