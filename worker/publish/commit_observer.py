"""Measures and logs commits. Does not change them."""

import logging
from collections.abc import Sequence
from time import monotonic

from tailrace.schemas.errors import StoreFull, StoreUnavailable
from tailrace.telemetry.logging import fields
from tailrace.worker.observe.counts import Counts
from tailrace.worker.publish.commit_replies import Rejected, Result
from tailrace.worker.publish.log_buffer import Batch

_logger = logging.getLogger("tailrace.publisher")


class CommitObserver:
    """The observer of one publisher.

    Attributes:
        is_outage: whether the last commit could not be written, for a reason that may pass.
    """

    def __init__(self, counts: Counts) -> None:
        self._counts = counts
        self._outage_began = 0.0
        self.is_outage = False

    def answered(self, batches: Sequence[Batch], began: float) -> None:
        """Called when Redis has answered a commit that was sent at `began`, in monotonic seconds."""
        self._counts.commit_duration.observe(monotonic() - began)
        self._counts.commit_entries.observe(sum(len(batch.entries) for batch in batches))
        self._counts.commit_bytes.observe(sum(batch.size for batch in batches))

    def failed(self) -> None:
        """Called when a commit got no answer."""
        self._counts.commit_failures.value += 1

    def log_outage(self, results: Sequence[Result], buffered_bytes: int) -> None:
        """Logs a line when Redis stops accepting entries, and one when it accepts them again.

        Args:
            results: those of a commit.
            buffered_bytes: how many bytes wait.
        """
        errors = [result.error for result in results if isinstance(result, Rejected)]
        error = next((error for error in errors if isinstance(error, StoreUnavailable | StoreFull)), None)
        if error is not None and not self.is_outage:
            self._outage_began = monotonic()
            _logger.warning(
                "cannot write entries (%s), %d bytes are buffered; trying again",
                error,
                buffered_bytes,
                extra=fields("entries_not_written", buffered_bytes=buffered_bytes, why=error),
            )
        elif error is None and self.is_outage:
            away_s = round(monotonic() - self._outage_began, 1)
            _logger.warning(
                "entries are written again, after %.1f s", away_s, extra=fields("entries_written_again", away_s=away_s)
            )
        self.is_outage = error is not None
