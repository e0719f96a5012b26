"""Whether Redis has an outbox, that is, whether outcomes must be kept until they are in a database.

The queue's scripts and the sink set it; the store of requests reads it when a request ends. Does no I/O.
"""

from tailrace.broker.keys import OUTBOX_LIFETIME_S


class OutboxState:
    """What this process knows of the outbox.

    Attributes:
        exists: whether there was an outbox when Redis was last asked.
    """

    def __init__(self) -> None:
        self.exists = False

    @property
    def keep_record_ms(self) -> int:
        """Milliseconds that a record must be kept after its end for the database; 0 without an outbox."""
        return OUTBOX_LIFETIME_S * 1000 if self.exists else 0
