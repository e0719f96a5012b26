"""The parts of a client. Imported when a client first connects, because Redis and pydantic are slow to import."""

from tailrace.producers.lookup import RequestLookup
from tailrace.producers.options import ClientOptions
from tailrace.producers.queue.cancel import Canceller
from tailrace.producers.queue.dead_letters import DeadLetters
from tailrace.producers.queue.enqueue import Enqueuer
from tailrace.producers.queue.submit import Submitter
from tailrace.producers.store import ProducerStore
from tailrace.producers.tail.fanout.fanout import Fanout
from tailrace.producers.tail.tail import Tail, TailSource
from tailrace.schemas.errors import SettingsError
from tailrace.schemas.results import SQL_MISSING


class ClientParts:
    """The parts of one client, for one event loop. Nothing connects before it is used.

    Args:
        url: the Redis with records and logs.
        options: the client's options.

    Raises:
        SettingsError: a URL cannot be used.
    """

    def __init__(self, url: str, options: ClientOptions) -> None:
        self.results = None
        if options.results_url:
            try:
                from tailrace.producers.results import Results
            except ImportError as error:
                raise SettingsError(SQL_MISSING) from error
            self.results = Results(options.results_url, timeout_s=options.results_timeout_s)
        self.store = ProducerStore(
            url, timeout_s=options.timeout_s, wait_s=options.quiet_log_s, queue_url=options.queue_url
        )
        self.fanout = Fanout(self.store)
        enqueuer = Enqueuer(self.store)
        self.tails = TailSource(self.fanout, enqueuer.enqueue_if_lost, options.away_limit_s, options.stalled_after_s)
        self.submitter = Submitter(
            self.store, enqueuer, run_limit_s=options.run_limit_s, retention_s=options.retention_s
        )
        self.canceller = Canceller(self.store, has_outbox=self.results is not None)
        self.lookup = RequestLookup(self.fanout, self.results, lambda request_id, after: self.tail(request_id, after))
        self.dead = DeadLetters(self.store.queue, self.store, self.submitter.submit_request)

    def tail(self, request_id: str, after: str | None) -> Tail:
        """A tail of a request."""
        return Tail(self.tails, request_id, after)

    async def aclose(self) -> None:
        """Closes all connections; running tails fail."""
        await self.fanout.close()
        await self.store.close()
        if self.results is not None:
            await self.results.close()
