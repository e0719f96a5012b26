"""What is pushed beside the log to those who follow live. The log alone is the truth.

A push may be lost, doubled or late: a reader knows by the gapless entry ids, and reads from the log what it lacks.
Sends and receives nothing itself.
"""

from collections.abc import Sequence

import msgspec

Push = tuple[str, int, int, list[bytes]]
"""Request id, attempt, seq of the first entry, and the entries that follow one another from there, as in the log."""

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(list[Push])


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
