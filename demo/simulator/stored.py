"""The stored responses: the state of each at a given time, and its events after any number.

Pure: the caller passes the current time. Nothing runs in the background; the state of a response follows from the time
since its request. A client that disconnects does not change it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator

from tailrace.demo.simulator.errors import ApiError
from tailrace.demo.simulator.playback import Scheduled, schedule
from tailrace.demo.simulator.responses import Answer
from tailrace.demo.simulator.scenario import JsonObject, Scenario

_IN_PROGRESS = 2  # number of the event with which a background response leaves the queue


class Stored:
    """One response, started at `started_s` by the clock of all later times."""

    def __init__(self, answer: Answer, scenario: Scenario, usual_chunks_per_s: float, started_s: float) -> None:
        self.answer, self.scenario = answer, scenario
        self._usual_chunks_per_s = usual_chunks_per_s
        self._started_s = started_s
        self._cancelled_s: float | None = None
        self.attached: set[Callable[[], None]] = set()

    def timeline(self) -> Iterator[tuple[float, JsonObject]]:
        """Each event and when it is due, in seconds after the start."""
        # `first_byte_delay_s` is how long a background response waits in the queue; a foreground one sends nothing.
        waits_s = self.scenario.pace.first_byte_delay_s
        background = self.answer.background
        objects = list(self.answer.objects())
        for (at_s, _), event in zip(
            schedule((b"" for _ in objects), self.scenario, self._usual_chunks_per_s), objects, strict=True
        ):
            at_s += 0.0 if background and event["sequence_number"] < _IN_PROGRESS else waits_s
            if self._cancelled_s is not None and at_s > self._cancelled_s:
                return
            yield at_s, event

    def events(self, after: int, now_s: float) -> Iterator[Scheduled]:
        """The events numbered above `after` as a body that begins now: past events, then future ones.

        A cancel ends it; the function in `attached` has then ended the body.
        """
        passed_s = now_s - self._started_s
        for at_s, event in self.timeline():
            if event["sequence_number"] > after:
                yield max(0.0, at_s - passed_s), self.answer.event(event)

    def snapshot(self, now_s: float) -> JsonObject:
        """The response in its current state."""
        passed_s = now_s - self._started_s
        seen = [event for at_s, event in self.timeline() if at_s <= passed_s]
        standing = self.answer.after(seen)
        if self._cancelled_s is not None:
            return {**standing, "status": "cancelled", "completed_at": None}
        return standing

    def cancel(self, now_s: float) -> JsonObject:
        """Ends a response that runs in the background; does not change one that has ended.

        Raises:
            ApiError: 400, it does not run in the background.
        """
        if not self.answer.background:
            raise ApiError(400, "Cannot cancel a synchronous response.")
        if self.snapshot(now_s)["status"] in ("queued", "in_progress"):
            self._cancelled_s = now_s - self._started_s
            for end_body in tuple(self.attached):
                end_body()
        return self.snapshot(now_s)


class Responses:
    """The last responses by id."""

    def __init__(self, keep: int = 1000) -> None:
        self._keep = keep
        self._by_id: OrderedDict[str, Stored] = OrderedDict()

    def add(self, stored: Stored) -> None:
        self._by_id[stored.answer.id] = stored
        while len(self._by_id) > self._keep:
            self._by_id.popitem(last=False)

    def get(self, id: str) -> Stored:
        """The response with this id.

        Raises:
            ApiError: 404, there is none, or it was not stored.
        """
        if id not in self._by_id:
            raise ApiError(404, f"Response with id '{id}' not found.")
        return self._by_id[id]

    def check_previous(self, id: object) -> None:
        """Checks that a `previous_response_id` is known.

        Raises:
            ApiError: 400.
        """
        if id is not None and id not in self._by_id:
            raise ApiError(400, f"Previous response with id '{id}' not found.",
                           param="previous_response_id", code="previous_response_not_found")  # fmt: skip

    def clear(self) -> None:
        self._by_id.clear()
