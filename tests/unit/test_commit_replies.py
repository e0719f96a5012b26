"""What a node of a cluster says about an attempt while its slot moves."""

import pytest

from tailrace.broker.cluster import Redirect
from tailrace.worker.publish.commit_replies import AttemptState, Moved, attempt_state

OURS = [b"1", b"token"]
OTHERS = [b"2", b"another"]
GONE = [None, None]
LOG = [(b"1-7", [b"e", b"entry"])]
ASK = Redirect(7, ("b", 6379), asking=True)
ELSEWHERE = Redirect(7, ("b", 6379), asking=False)
KNOWN, FORGOTTEN, HALF_MOVED = AttemptState.KNOWN, AttemptState.FORGOTTEN, AttemptState.HALF_MOVED


@pytest.mark.parametrize(
    ("fields", "last_entry", "moved", "asking", "state"),
    [
        (OURS, LOG, (None, None), False, KNOWN),
        (OURS, "ASK", (None, ASK), False, KNOWN),  # the commit is redirected
        (OURS, LOG, (None, None), True, KNOWN),
        (OTHERS, LOG, (None, None), False, FORGOTTEN),
        (GONE, LOG, (None, None), False, FORGOTTEN),
        (GONE, [], (None, None), False, FORGOTTEN),
        ("MOVED", "MOVED", (ELSEWHERE, ELSEWHERE), False, Moved(ELSEWHERE)),
        ("ASK", "ASK", (ASK, ASK), False, Moved(ASK)),
        ("ASK", LOG, (ASK, None), False, HALF_MOVED),  # the record is over, its log follows
        (GONE, LOG, (None, None), True, HALF_MOVED),  # the log is over, its record follows
        (GONE, [], (None, None), True, FORGOTTEN),
        (OTHERS, LOG, (None, None), True, FORGOTTEN),
    ],
)
def test_attempt_state(
    fields: object, last_entry: object, moved: tuple[Redirect | None, ...], asking: bool, state: object
) -> None:
    assert attempt_state(fields, last_entry, OURS, moved, asking=asking) == state
