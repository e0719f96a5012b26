"""Whether outcomes wait in Redis for a database: whoever learns of an outbox notes it here, whoever persists them asks.

Knows nothing of Redis and of databases.
"""

from tailrace.broker.keys import OUTBOX_LIFETIME_S


class Hold:
    """How long a record has to stay after its end.

    Attributes:
        is_on: whether there is an outbox, as was seen last.
    """

    def __init__(self) -> None:
        self.is_on = False

    @property
    def ms(self) -> int:
        """Milliseconds at least; 0 where nothing but readers waits for it."""
        return OUTBOX_LIFETIME_S * 1000 if self.is_on else 0
