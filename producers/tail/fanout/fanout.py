"""All tails of a client on three connections: one receives pushes, two read logs (on a cluster: two for each node).

The log is authoritative; pushes are how new entries arrive early. A reader first reads the log. At its end, if
the channel was subscribed before that read, the reader continues with the pushes. It returns to the log when a push is
missing, which the gapless entry ids show, or when it falls behind the buffer. If the last push of a log is lost, no
later one shows it, so the ends of quiet logs are checked at intervals, many in one round trip.

Knows which reader waits for what. `live_log.py` knows how pushes continue a log, `log_tail.py` what entries mean, and
`push_line.py` and `log_lines.py` the connections.
"""

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import suppress
from math import inf
from typing import Any, NamedTuple

from redis.exceptions import NoScriptError

from tailrace.broker import scripts
from tailrace.broker.keys import lane_of, log_key, push_shard, rec_key
from tailrace.broker.script import Argument, Verdict
from tailrace.broker.script_runner import run_script_by
from tailrace.broker.scripts import SignsStatus
from tailrace.broker.wire import encoded
from tailrace.producers.store import PAGE_ENTRIES, LogBounds, ProducerStore, RawEntry
from tailrace.producers.tail.fanout.cluster_lines import lines_of
from tailrace.producers.tail.fanout.live_log import Live
from tailrace.producers.tail.fanout.log_lines import CLOSED, LogLines
from tailrace.producers.tail.fanout.push_line import PushLine
from tailrace.schemas.errors import StoreError, StoreRefused, StoreUnavailable
from tailrace.schemas.ids import EntryId
from tailrace.schemas.outcome import ENDED
from tailrace.schemas.priority import DEFAULT_PRIORITY
from tailrace.schemas.push import Push, decode_pushes

_PAGE = b"%d" % PAGE_ENTRIES
_RETRY_PAUSE_S = 0.05
_TICK_S = 0.25
_SIGNS_FIELDS = ("attempt", "submitted_ms", "tenant", "priority")
_LOOKS_AT_ONCE = 1_000
"""How many logs are checked in one round trip."""


class Following(NamedTuple):
    """How much a client follows.

    Attributes:
        tails: how many tails are running.
        requests: how many requests they follow.
        fell_behind: how often a tail was too slow for the pushes so far, and continued from the log.
    """

    tails: int
    requests: int
    fell_behind: int


class Fanout:
    """The tails of one client, in one event loop.

    Args:
        store: the client's Redis. Its `wait_s` is how long a log may be quiet before its end is checked.
    """

    def __init__(self, store: ProducerStore) -> None:
        self._store = store
        self._lines = lines_of(store.link)
        is_one = store.queue.link is store.link
        self._queue_lines = self._lines if is_one else LogLines(store.queue.link)
        self._lives: dict[str, Live] = {}
        self._push_line = PushLine(store.link, self)
        self._tasks: list[asyncio.Task[None]] = []
        self._busy = asyncio.Event()
        self.tick_s = min(_TICK_S, store.wait_s / 2)
        self.ended: StoreError | None = None
        self.fell_behind = 0

    @property
    def following(self) -> Following:
        """How much is followed now."""
        return Following(sum(len(live.readers) for live in self._lives.values()), self.requests, self.fell_behind)

    @property
    def requests(self) -> int:
        """How many requests are followed."""
        return len(self._lives)

    async def close(self) -> None:
        """Closes the connections; running tails fail."""
        self.ended = StoreError(CLOSED)
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        await self._lines.close()
        await self._queue_lines.close()
        for live in self._lives.values():
            live.wake()

    def place(self, request_id: str) -> "Place":
        """A reader of one log for `log_tail.tail`; before its first read it costs nothing."""
        return Place(self, request_id)

    async def log_bounds(self, request_id: str, cursor: EntryId) -> LogBounds | None:
        """One consistent read of a log's bounds; None if there is no log."""
        log, at, began = log_key(request_id).encode(), b"%d-%d" % cursor, b"%d-0" % cursor.attempt
        commands = [
            (b"MULTI",),
            (b"XRANGE", log, b"-", b"+", b"COUNT", b"1"),
            (b"XREVRANGE", log, b"+", b"-", b"COUNT", b"1"),
            (b"XRANGE", log, at, at),
            (b"XRANGE", log, b"(" + at, b"+", b"COUNT", b"1"),
            (b"XRANGE", log, began, began),
            (b"EXEC",),
        ]
        answers = await self._ask(commands, entries=5)
        first, last, *others = (_entries(answer)[0] if answer else None for answer in answers[-1])
        return LogBounds(first, last, *others) if first is not None and last is not None else None

    async def signs(self, request_id: str) -> Verdict[SignsStatus] | None:
        """Whether any worker deals with a request; None if it has ended, or is gone."""
        record = await self.record(request_id, *_SIGNS_FIELDS)
        if record is None or record["status"].decode() in ENDED:
            return None
        found = await self._queue_signs(request_id, record)
        if found.status is SignsStatus.LOST:  # or it has ended meanwhile
            record = await self.record(request_id)
            if record is None or record["status"].decode() in ENDED:
                return None
        return found

    async def _queue_signs(self, request_id: str, record: Mapping[str, bytes]) -> Verdict[SignsStatus]:
        tenant, priority = record.get("tenant"), record.get("priority", DEFAULT_PRIORITY.encode())
        return await run_script_by(
            self._ask_queue,
            scripts.SIGNS,
            request_id,
            lane=lane_of(tenant.decode() if tenant else None, priority.decode()) or "",
            since_ms=record["submitted_ms"] if record["attempt"] == b"0" else 0,
        )

    async def _ask_queue(self, command: Sequence[Argument]) -> Any:
        try:
            (answer,) = await self._queue_lines.ask([[encoded(part) for part in command]], entries=1)
        except StoreRefused as error:
            if isinstance(error.__cause__, NoScriptError):
                raise error.__cause__ from None
            raise
        return answer

    async def record(self, request_id: str, *fields: str) -> dict[str, bytes] | None:
        """As `ProducerStore.record`: the fields that are set; None if there is no record."""
        names = ("status", *fields)
        command = (b"HMGET", rec_key(request_id).encode(), *(name.encode() for name in names))
        (values,) = await self._ask([command], entries=1)
        if values[0] is None:
            return None
        return {name: value for name, value in zip(names, values, strict=True) if value is not None}

    async def page(self, request_id: str, first: EntryId, last: EntryId) -> list[RawEntry]:
        """Up to a page of entries from `first` to `last`, both included."""
        command = (b"XRANGE", log_key(request_id).encode(), b"%d-%d" % first, b"%d-%d" % last, b"COUNT", _PAGE)
        (answer,) = await self._ask([command], entries=PAGE_ENTRIES)
        return _entries(answer)

    async def entries_after(self, request_id: str, after: EntryId) -> list[RawEntry]:
        """Up to a page of entries after `after`. Not retried: the tail has to know of a lost connection."""
        command = (b"XRANGE", log_key(request_id).encode(), b"(%d-%d" % after, b"+", b"COUNT", _PAGE)
        (answer,) = await self._lines.ask([command], entries=PAGE_ENTRIES)
        return _entries(answer)

    async def _ask(self, commands: Sequence[Sequence[bytes]], *, entries: int) -> list[Any]:
        """Retries once if the connection is lost: an idle one may have been closed meanwhile."""
        try:
            return await self._lines.ask(commands, entries=entries)
        except StoreUnavailable:
            await asyncio.sleep(_RETRY_PAUSE_S)
            return await self._lines.ask(commands, entries=entries)

    def join(self, request_id: str, place: "Place") -> Live:
        """Starts following a request for a place."""
        live = self._lives.get(request_id)
        if live is None:
            live = self._lives[request_id] = Live(push_shard(request_id))
            self._push_line.follow_shard(live.shard)
            self._busy.set()
            if not self._tasks and self.ended is None:
                works = (self._push_line.run, self._look_after_quiet, self._tell_time)
                self._tasks = [asyncio.create_task(work(), name=f"tails: {work.__name__}") for work in works]
        live.readers.append(place)
        return live

    def leave(self, request_id: str, place: "Place", live: Live) -> None:
        """Removes a place; the last one of a request removes its buffer too."""
        live.readers.remove(place)
        if not live.readers:
            del self._lives[request_id]
            self._push_line.unfollow_shard(live.shard)

    def receives_pushes(self, live: Live) -> bool:
        """Whether every push for this request will be received from now on."""
        return self._push_line.is_subscribed(live.shard)

    def pushes_received(self, messages: Sequence[bytes]) -> None:
        """Takes the messages of channels: entries of requests, some of which are followed here.

        Consecutive entries of one request are passed on as one run, which wakes each of its readers once.
        """
        lives = self._lives
        runs: dict[str, Push] = {}
        for message in messages:
            with suppress(
                ValueError
            ):  # not one of our messages; if it replaced one, readers find the entries in the log
                for push in decode_pushes(message):
                    request_id, attempt, seq, entries = push
                    if request_id not in lives:
                        continue
                    before = runs.get(request_id)
                    if before is None:
                        runs[request_id] = push
                    elif before[1] == attempt and before[2] + len(before[3]) == seq:
                        before[3].extend(entries)
                    else:
                        lives[request_id].push(*before[1:])
                        runs[request_id] = push
        for request_id, attempt, seq, entries in runs.values():
            lives[request_id].push(attempt, seq, entries)

    def shard_subscribed(self, number: int) -> None:
        """Called when a channel is subscribed: its readers may now read the log and join."""
        self.ended = None
        for live in self._lives.values():
            if live.floor is None and live.shard == number:
                live.wake()

    def push_line_lost(self, refusal: StoreRefused | None) -> None:
        """Called when the push connection is lost. Every reader checks its log: the next server may be another one."""
        self.ended = refusal
        for live in self._lives.values():
            live.lose()
            live.wake()

    async def _look_after_quiet(self) -> None:
        """Checks the ends of logs for which no push arrived for a while, many in one round trip."""
        while True:
            await self._has_work(self._store.wait_s / 2)
            quiet = [(request_id, live) for request_id, live in self._lives.items() if not live.fresh]
            for live in self._lives.values():
                live.fresh = False
            for start in range(0, len(quiet), _LOOKS_AT_ONCE):
                await self._look(quiet[start : start + _LOOKS_AT_ONCE])

    async def _tell_time(self) -> None:
        """One clock for the waits of all readers: a timer for each would cost more than the delta that it waits for."""
        while True:
            await self._has_work(self.tick_s)
            for live in tuple(self._lives.values()):
                for place in live.readers:
                    place.tick()

    async def _has_work(self, pause_s: float) -> None:
        """Pauses, and waits while nothing is followed."""
        if not self._lives:
            self._busy.clear()
            await self._busy.wait()
        await asyncio.sleep(pause_s)

    async def _look(self, quiet: Sequence[tuple[str, Live]]) -> None:
        known = [live.seen for _, live in quiet]
        # If a log cannot be read, each of its readers reads it and gets the error.
        answers = await self._lines.ends([log_key(request_id).encode() for request_id, _ in quiet])
        for (_, live), seen, answer in zip(quiet, known, answers, strict=True):
            if live.fresh:
                continue
            last = _entries(answer)[0].id if answer else None
            if last is None or (seen is not None and last < seen):
                live.lose()
                live.wake()
            elif last != seen:
                live.detach()
                live.wake()


class Place:
    """The reader of one tail: takes entries from the pushes, and missing ones from the log."""

    def __init__(self, fanout: Fanout, request_id: str) -> None:
        self._fanout = fanout
        self._request_id = request_id
        self._live: Live | None = None
        self._epoch = 0
        self._ticks = inf
        self._is_live = False
        self._loop = asyncio.get_running_loop()
        self.position = EntryId(0, 0)
        self._waiter: asyncio.Future[Sequence[RawEntry]] | None = None

    async def log_bounds(self, request_id: str, cursor: EntryId) -> LogBounds | None:
        """As `Fanout.log_bounds`."""
        return await self._fanout.log_bounds(request_id, cursor)

    def leave(self) -> None:
        """Ends the reading."""
        live, self._live = self._live, None
        if live is not None:
            self._fanout.leave(self._request_id, self, live)

    def tick(self) -> None:
        """Called at regular intervals."""
        self._ticks -= 1
        if self._ticks <= 0:
            self.wake()

    def hand(self, run: Sequence[RawEntry]) -> bool:
        """Gives it the entries that follow its position, if it waits for them; returns whether it did."""
        waiter, self._waiter = self._waiter, None
        if waiter is None or waiter.done():
            return False
        waiter.set_result(run)
        return True

    def wake(self) -> None:
        """Wakes it, if it waits, to read again."""
        self.hand(())

    async def read(self, request_id: str, after: EntryId, wait_s: float | None) -> Sequence[RawEntry] | None:
        """As `log_tail.LogReader.read`.

        Raises:
            StoreError: Redis is unreachable, or it refuses, or the client is closed.
        """
        self.position = after
        live = self._live
        if live is None:
            live = self._live = self._fanout.join(request_id, self)
            self._epoch = live.epoch
        self._ticks = inf if wait_s is None else wait_s / self._fanout.tick_s
        while self._epoch == live.epoch:
            entries = live.entries_after(after)
            if entries is None:
                if self._is_live and live.floor is not None and live.floor.attempt == after.attempt:
                    self._fanout.fell_behind += 1
                entries = await self._from_log(live, after)
                self._is_live = live.floor is not None and len(entries) < PAGE_ENTRIES
            elif not entries:
                entries = await self._news()
            if entries:
                return entries
            if self._ticks <= 0:
                return None
        self._epoch = live.epoch
        return ()

    async def _from_log(self, live: Live, after: EntryId) -> Sequence[RawEntry]:
        """The entries in the log. After its end the pushes continue it, if every push since then was received."""
        is_subscribed, epoch, floor = self._fanout.receives_pushes(live), live.epoch, live.floor
        entries = await self._fanout.entries_after(self._request_id, after)
        if epoch == live.epoch and floor is live.floor:
            if is_subscribed and not entries:
                live.start(after)
            elif is_subscribed and len(entries) < PAGE_ENTRIES and floor is None:
                live.start(entries[-1].id)
            elif not entries and not self._fanout.receives_pushes(live):
                return await self._news()
        return entries

    def _news(self) -> asyncio.Future[Sequence[RawEntry]]:
        """The next pushed entries after the position; empty if the log must be read or the wait is over."""
        if self._fanout.ended is not None:
            raise self._fanout.ended.with_context()
        self._waiter = self._loop.create_future()
        return self._waiter


def _entries(answer: Sequence[Any]) -> list[RawEntry]:
    entries: list[RawEntry] = []
    for entry_id, fields in answer:
        attempt, _, seq = entry_id.partition(b"-")
        entries.append(RawEntry(EntryId(int(attempt), int(seq)), fields[1]))
    return entries
