"""One request, step by step, by the real scripts on a real server, for tests that run every order of the steps.

An `Owner` does what a worker does with each verdict; `failover` resets the server to its state some steps before.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, TypeVar

from redis import Redis
from redis.exceptions import ResponseError

from tailrace.broker import keys, scripts
from tailrace.broker.script import Argument, Script, Verdict
from tailrace.broker.scripts import BeginStatus, CancelStatus
from tailrace.schemas.codec import decode_entry, decode_outcome, encode_entry, encode_outcome
from tailrace.schemas.deltas import (
    FORMAT_VERSION,
    TERMINALS,
    Accepted,
    AssistantDelta,
    AttemptStarted,
    Cancelled,
    MessageIds,
)
from tailrace.schemas.ids import EntryId
from tailrace.schemas.outcome import UNFILLED, Outcome, Status, terminal_of

ID = "one"
LEASE_MS = 60_000
_Reply = TypeVar("_Reply")

_IDS = MessageIds("message-11111111-1111-4111-8111-1111111111ff", "message-22222222-2222-4222-8222-2222222222ff")

Step = Callable[[], None]


class Life:
    """A request on an empty server.

    Attributes:
        owners: all owners, also those whose claim got nothing.
        verdicts: the answers to its cancels.
    """

    def __init__(self, redis: Redis) -> None:
        self.redis = redis
        self.owners: list[Owner] = []
        self.verdicts: list[Verdict[CancelStatus]] = []
        self._past: list[dict[bytes, tuple[int, bytes]]] = []
        redis.flushall()
        accepted = encode_entry(Accepted(FORMAT_VERSION, UNFILLED, "chat", "m"))
        self.run(
            scripts.SUBMIT,
            request=b"r",
            digest="d",
            api="chat",
            model="m",
            timeout_ms=LEASE_MS,
            retention_ms=LEASE_MS,
            accepted=accepted,
        )
        redis.set(keys.job_key(ID), b"envelope", px=2 * LEASE_MS)
        redis.zadd(keys.QUEUE, {ID: 1})

    def run(self, script: Script[_Reply], **given: Argument) -> _Reply:
        """Runs a script for the request."""
        names, values = script.call(ID, **given)
        return script.read(self.redis.eval(script.text, len(names), *names, *values))

    def cancel(self) -> None:
        """Cancels as a producer does; owners that run the request are asked to stop."""
        outcome = Outcome(status="cancelled", request_id=ID, submitted_at=UNFILLED, finished_at=UNFILLED)
        verdict = self.run(
            scripts.CANCEL,
            terminal=encode_entry(Cancelled(0)),
            outcome=encode_outcome(outcome),
        )
        self.verdicts.append(verdict)
        if verdict.status == "signalled":
            for owner in self.owners:
                owner.is_cancelled = True

    def unqueue(self) -> None:
        """Removes the job as a producer does after its cancel ended the request, unless a worker holds it."""
        if self.verdicts[-1:] and self.verdicts[-1].status == "ended":
            self.run(scripts.UNQUEUE, lane="")

    def expire_lease(self) -> None:
        """Expires the lease, as if its time had passed without a renewal."""
        if self.redis.delete(keys.lease_key(ID)):
            for place in (keys.QUEUE, keys.WATCHED):
                self.redis.zadd(place, {ID: 1}, xx=True)

    def snapshot(self) -> None:
        """Saves all keys, for `failover`."""
        names: list[bytes] = self.redis.keys()
        with self.redis.pipeline(transaction=False) as pipe:
            for name in names:
                pipe.pttl(name).dump(name)
            found = pipe.execute()
        lives = [max(life_ms, 0) for life_ms in found[::2]]
        self._past.append(dict(zip(names, zip(lives, found[1::2], strict=True), strict=True)))

    def failover(self, steps: int) -> None:
        """Resets the server to `steps` snapshots ago, as when a replica that lacks the later writes takes over."""
        past = self._past[max(len(self._past) - 1 - steps, 0)]
        with self.redis.pipeline() as pipe:
            pipe.flushall()
            for name, (life_ms, dumped) in past.items():
                pipe.restore(name, life_ms, dumped)
            pipe.execute()
        for owner in self.owners:
            owner.doubtful = True

    def settle(self) -> None:
        """Lets workers run without faults until the queue is empty."""
        for number in range(10):
            if self.redis.zscore(keys.QUEUE, ID) is None:
                return
            self.expire_lease()
            for place in (keys.QUEUE, keys.WATCHED):
                self.redis.zadd(place, {ID: 1}, xx=True)
            Owner(self, f"last-{number}").whole_life()
        raise AssertionError("the job does not leave the queue")

    def check(self) -> Status:
        """Checks the end: one terminal, last in the log, with its outcome; one author per attempt; an empty queue.

        Returns:
            The status.
        """
        log = [(EntryId.parse(entry_id), decode_entry(fields[b"e"])) for entry_id, fields in self._entries()]
        authors = {entry_id.attempt: entry.why for entry_id, entry in log if isinstance(entry, AttemptStarted)}
        for entry_id, entry in log:
            assert not isinstance(entry, AssistantDelta) or entry.content == authors[entry_id.attempt], log
        terminals = [entry for _, entry in log if isinstance(entry, TERMINALS)]
        assert len(terminals) == 1, log
        assert log[-1][1] is terminals[0], log
        status, outcome, attempt = self.redis.hmget(keys.rec_key(ID), "status", "outcome", "attempt")
        ended = decode_outcome(outcome)
        assert ended.status == status.decode() == type(terminals[0]).__name__.lower()
        assert ended.attempt == int(attempt) == log[-1][0].attempt
        for name in (keys.QUEUE, keys.lease_key(ID), keys.job_key(ID), keys.queue_state_key(ID)):
            assert not self.redis.exists(name), name
        for name in (keys.rec_key(ID), keys.log_key(ID)):
            assert self.redis.pttl(name) > 0, name
        return ended.status

    def check_gapless(self) -> None:
        """Checks that the ids of no attempt have a gap."""
        before = EntryId(0, 0)
        for entry_id in (EntryId.parse(entry_id) for entry_id, _ in self._entries()):
            assert entry_id == before.next() or (entry_id.attempt > before.attempt and entry_id.seq == 0)
            before = entry_id

    def _entries(self) -> list[tuple[bytes, dict[bytes, bytes]]]:
        return self.redis.xrange(keys.log_key(ID))


class Owner:
    """A worker with this request. A step that is impossible after the steps before it does nothing.

    Attributes:
        is_cancelled: whether it knows that the request was cancelled.
        doubtful: whether its connection was lost, so that its publisher checks whether the attempt is still current.
    """

    def __init__(self, life: Life, token: str) -> None:
        self._life = life
        self._token = token
        self._attempt = 0
        self._seq: int | None = None
        self._leaves: str | None = None
        self.is_cancelled = self.doubtful = False
        life.owners.append(self)

    def claim(self) -> None:
        """Claims the job if it is due."""
        claim = self._life.run(scripts.CLAIM, limit=1, lease_ms=LEASE_MS, token=self._token, is_repeat=0)
        for job in claim.jobs:
            self._attempt = job.attempt
            self.is_cancelled = False

    def begin(self) -> None:
        """Begins the attempt in the log."""
        if not self._attempt or self._leaves:
            return
        verdict = self._try_to_begin()
        if verdict.status == "stale" and self._mint(above=verdict.number("attempt")):
            verdict = self._try_to_begin()
        match verdict.status:
            case "begun" | "resumed":
                self._seq = 0
                self.is_cancelled = self.is_cancelled or verdict.text("cancel") == "1"
            case "stale":
                self._leaves = "hand_back"
            case _:
                self._leaves = "acknowledge"

    def _try_to_begin(self) -> Verdict[BeginStatus]:
        started = encode_entry(AttemptStarted(FORMAT_VERSION, self._attempt, UNFILLED, self._token, _IDS))
        return self._life.run(scripts.BEGIN, attempt=self._attempt, token=self._token, attempt_started=started)

    def publish(self) -> None:
        """Writes one entry, unless the request was cancelled."""
        if self._seq is None or self._leaves or self.is_cancelled:
            return
        at = self._life.redis.hmget(keys.rec_key(ID), "attempt", "token") if self.doubtful else None
        self.doubtful = False
        if at is not None and at != [b"%d" % self._attempt, self._token.encode()]:
            self._leaves = "hand_back"
            return
        self._seq += 1
        entry_id = EntryId(self._attempt, self._seq)
        entry = encode_entry(AssistantDelta(0, 0, self._token))
        try:
            written = self._life.redis.xadd(keys.log_key(ID), {"e": entry}, str(entry_id), nomkstream=True)
        except ResponseError:  # as the publisher does: it was written before if this attempt wrote the last entry
            last = EntryId.parse(self._life.redis.xrevrange(keys.log_key(ID), count=1)[0][0])
            written = last.attempt == entry_id.attempt and last >= entry_id
        if not written:
            self._leaves = "hand_back"

    def finish(self) -> None:
        """Writes terminal and outcome: `cancelled` if the request was cancelled."""
        if self._seq is None or self._leaves:
            return
        status: Status = "cancelled" if self.is_cancelled else "completed"
        outcome = Outcome(status=status, request_id=ID, attempt=self._attempt, finished_at=UNFILLED)
        verdict = self._life.run(
            scripts.FINISH,
            attempt=self._attempt,
            token=self._token,
            terminal_id=f"{self._attempt}-{self._seq + 1}",
            terminal=encode_entry(terminal_of(outcome, 0)),
            outcome=encode_outcome(outcome),
            status=status,
        )
        self._leaves = "hand_back" if verdict.status in ("gap", "stale") else "acknowledge"

    def next_attempt(self) -> None:
        """Retries on this worker: gets the next attempt number under the same lease."""
        if self._seq is None or self._leaves or self.is_cancelled:
            return
        self._seq = None
        if not self._mint(above=0):
            self._leaves = "hand_back"

    def _mint(self, *, above: int) -> bool:
        """Gets the next number, if the lease is still valid."""
        verdict = self._life.run(scripts.NEXT_ATTEMPT, token=self._token, above=above)
        if verdict.status == "minted":
            self._attempt = verdict.number("attempt")
        return verdict.status == "minted"

    def begin_again(self) -> None:
        """Begins the attempt of `next_attempt`, if it got a number."""
        if self._seq is None:
            self.begin()

    def release(self) -> None:
        """Drains: releases the request, unless it was cancelled."""
        if self._seq is None or self._leaves or self.is_cancelled:
            return
        self._life.run(scripts.RELEASE, attempt=self._attempt, token=self._token)
        self._leaves = "hand_back"

    def leave(self) -> None:
        """Acknowledges or hands back the job, depending on the steps before."""
        who = {"token": self._token, "attempt": self._attempt}
        if self._leaves == "acknowledge" and self._life.run(scripts.ACKNOWLEDGE, **who).status == "unfinished":
            self._leaves = "hand_back"
        if self._leaves == "hand_back":
            self._life.run(scripts.HAND_BACK, **who, delay_ms=0, why="retry")

    def take_over(self) -> None:
        """Claims after the lease has expired."""
        self._life.expire_lease()
        self.claim()

    def end(self) -> None:
        """Finishes the request and leaves."""
        self.finish()
        self.leave()

    def whole_life(self) -> None:
        """Runs from claim to end."""
        self.claim()
        self.begin()
        self.end()


class Order(NamedTuple):
    """One order of all steps."""

    places: tuple[int, ...]

    def of(self, lines: Sequence[Sequence[Step]]) -> Iterator[Step]:
        """Merges the steps of the lines in this order."""
        rest = [iter(line) for line in lines]
        return (next(rest[place]) for place in self.places)


def orders(*lengths: int) -> Iterator[Order]:
    """Yields every way to merge lines of so many steps, each in its own order."""

    def merge(left: list[int], so_far: list[int]) -> Iterator[Order]:
        if not any(left):
            yield Order(tuple(so_far))
        for place, count in enumerate(left):
            if count:
                left[place] -= 1
                so_far.append(place)
                yield from merge(left, so_far)
                so_far.pop()
                left[place] += 1

    return merge(list(lengths), [])
