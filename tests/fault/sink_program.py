"""`tailrace worker` or `tailrace sink`, which kills itself at one place, the first time it comes there.

Called with the command and the place: `acknowledge` (the request has ended, and is not in the outbox), `commit` (it was
written, and nothing is committed) or `settle` (all is committed, and the outbox does not know).
"""

import os
import signal
import sys
from typing import Any, NoReturn

from tailrace.producers.cli.root import main
from tailrace.worker.queue.queue_store import QueueStore
from tailrace.worker.results.database import Database
from tailrace.worker.results.outbox import OutcomeOutbox


def die() -> NoReturn:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("still alive")


async def deadly(*_: Any, **__: Any) -> NoReturn:
    die()


def arm(place: str) -> None:
    """Puts death where it is wanted."""
    match place:
        case "acknowledge":
            QueueStore.acknowledge = deadly
        case "settle":
            OutcomeOutbox.settle = deadly
        case "commit":
            write = Database._write  # pyright: ignore[reportPrivateUsage] - inside its transaction

            async def killed(self: Database, rows: Any) -> None:
                execute = self._check  # pyright: ignore[reportPrivateUsage]

                async def after(connection: Any) -> None:
                    await execute(connection)
                    await connection.execute(self._upsert, [dict(row) for row in rows])  # pyright: ignore[reportPrivateUsage]
                    die()

                self._check = after  # pyright: ignore[reportPrivateUsage]
                await write(self, rows)

            Database._write = killed  # pyright: ignore[reportPrivateUsage]
        case _:
            raise ValueError(place)


if __name__ == "__main__":
    arm(sys.argv[2])
    sys.exit(main([sys.argv[1]]))
