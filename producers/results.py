"""Reads the database of outcomes, for requests that Redis no longer has. Imported only if `results_url` is set."""

import asyncio

from sqlalchemy import select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import create_async_engine

from tailrace.schemas.errors import ResultsUnavailable, SettingsError
from tailrace.schemas.results import SQL_MISSING, Stored, check_results_url, results_place, stored_of
from tailrace.schemas.results_table import engine_options, results

CONNECTIONS = 5
CLOSE_S = 2.0


class Results:
    """Outcomes by request id. Connects when it is first used.

    Args:
        url: `postgresql+asyncpg://...` or `sqlite+aiosqlite:///...`.
        timeout_s: limit for each answer, including connecting.

    Raises:
        SettingsError: the URL cannot be used, or the extra for it is not installed.
    """

    def __init__(self, url: str, *, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        try:
            self.place = results_place(check_results_url(url))
            options = engine_options(url, timeout_s=timeout_s, connections=CONNECTIONS)
            self._engine = create_async_engine(url, isolation_level="AUTOCOMMIT", **options)
        except ImportError as error:
            raise SettingsError(SQL_MISSING) from error
        except (SQLAlchemyError, ValueError, TypeError) as error:
            reason = str(error) if type(error) is ValueError else "cannot be used as it is"
            raise SettingsError(f"results_url: {reason}") from None  # other messages may quote the URL

    async def find(self, request_id: str) -> Stored | None:
        """The row of a request; None if there is none.

        Raises:
            ResultsUnavailable: the database is unreachable, or it refuses.
        """
        try:
            async with asyncio.timeout(self._timeout_s), self._engine.connect() as connection:
                wanted = select(results).where(results.c.request_id == request_id)
                row = (await connection.execute(wanted)).mappings().one_or_none()
        except TimeoutError as error:
            raise ResultsUnavailable(f"{self.place} did not answer within {self._timeout_s:g} s") from error
        except (SQLAlchemyError, OSError, ValueError, TypeError) as error:
            said = str(getattr(error, "orig", None) or error).splitlines()
            raise ResultsUnavailable(f"{self.place}: {said[0] if said else type(error).__name__}") from None
        return None if row is None else stored_of({str(name): value for name, value in row.items()})

    async def close(self) -> None:
        """Closes every connection; does not wait for one that hangs."""
        closing = asyncio.wait_for(self._engine.dispose(), CLOSE_S)
        await asyncio.gather(closing, return_exceptions=True)
