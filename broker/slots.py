"""The slot of a key in a Redis Cluster.

Source: Redis, "Redis cluster specification" (key distribution model, hash tags).
"""

from binascii import crc_hqx

SLOTS = 16_384


def slot_of(key: bytes) -> int:
    """The slot of a key: the CRC16 (XMODEM) of its hash tag, or of the whole key if it has none or an empty one."""
    start = key.find(b"{") + 1
    end = key.find(b"}", start)
    return crc_hqx(key[start:end] if start and end > start else key, 0) % SLOTS
