"""The parts that all attempts of a process share. The composition root makes them once."""

from collections.abc import Callable
from dataclasses import dataclass, field
from time import monotonic
from uuid import uuid4

from tailrace.worker.attempt.fair_scheduling import FairScheduler
from tailrace.worker.attempt.request_store import Store
from tailrace.worker.observe.attempt_observer import AttemptObservers
from tailrace.worker.publish.cluster_publisher import ClusterPublisher
from tailrace.worker.publish.publisher import Publisher
from tailrace.worker.upstream.upstream_client import UpstreamClient


@dataclass(frozen=True)
class Services:
    """The services of a process.

    Attributes:
        store: runs the scripts on records and logs.
        publisher: writes entries into logs.
        upstream: the model's server.
        observers: make the observer of each attempt.
        scheduler: shares the event loop between the attempts that read answers.
        clock: monotonic seconds.
        uuid: returns a new random UUID as text.
    """

    store: Store
    publisher: Publisher | ClusterPublisher
    upstream: UpstreamClient
    observers: AttemptObservers = field(default_factory=AttemptObservers)
    scheduler: FairScheduler = field(default_factory=FairScheduler)
    clock: Callable[[], float] = monotonic
    uuid: Callable[[], str] = lambda: str(uuid4())
