"""The form of the messages that announce new entries to live readers. The log is authoritative.

A push may be lost, duplicated or late: a reader detects that by the gapless entry ids and reads the log. Pure.
"""

from collections.abc import Sequence

import msgspec

Push = tuple[str, int, int, list[bytes]]
"""Request id, attempt, seq of the first entry, and the entries that follow one another from there, as in the log."""

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(list[Push])


def encode_pushes(pushes: Sequence[tuple[str, int, int, Sequence[bytes]]]) -> bytes:
    """One message on a channel, with the entries of any number of requests; msgpack."""
    return _encoder.encode(pushes)


def decode_pushes(message: bytes) -> list[Push]:
    """Reads a message of a channel.

    Raises:
        ValueError: it is not a message of this form.
    """
    try:
        return _decoder.decode(message)
    except msgspec.MsgspecError as error:
        raise ValueError(f"not a push: {error}") from error
