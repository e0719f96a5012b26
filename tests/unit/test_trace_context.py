"""The trace of a request: the form of a traceparent, derived ids, and that it does not change the digest."""

from typing import Any

import pytest

from tailrace.schemas.errors import RequestRejected
from tailrace.schemas.request import decode_request, parse_request
from tailrace.schemas.trace_context import TraceContext, ids_of, parse_traceparent

GIVEN = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
REQUEST: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "hello"}]}


def test_a_traceparent_is_read_and_written_as_it_was() -> None:
    context = parse_traceparent(GIVEN)
    assert context == TraceContext(0x0AF7651916CD43DD8448EB211C80319C, 0xB7AD6B7169203331, 1)
    assert str(context) == GIVEN


@pytest.mark.parametrize(
    "wrong",
    [
        "",
        GIVEN.upper(),
        GIVEN + "-00",
        GIVEN + "\n",
        "01" + GIVEN[2:],
        "00-" + "0" * 32 + "-b7ad6b7169203331-01",
        "00-0af7651916cd43dd8448eb211c80319c-" + "0" * 16 + "-01",
    ],
)
def test_an_invalid_traceparent_is_rejected_by_name(wrong: str) -> None:
    with pytest.raises(ValueError, match="traceparent"):
        parse_traceparent(wrong)
    with pytest.raises(RequestRejected, match="traceparent"):
        parse_request({**REQUEST, "traceparent": wrong})


def test_a_traceparent_is_stored_is_not_sent_upstream_and_does_not_change_the_digest() -> None:
    plain, traced = parse_request(REQUEST), parse_request({**REQUEST, "traceparent": GIVEN})
    assert decode_request(traced.encoded()).traceparent == GIVEN
    assert traced.digest() == plain.digest()
    assert traced.upstream_parameters() == plain.upstream_parameters()


def test_ids_of_a_request_are_its_own_and_always_the_same() -> None:
    assert ids_of("one") == ids_of("one")
    assert len({*ids_of("one"), *ids_of("two")}) == 4
    assert all(0 < trace_id < 2**128 and 0 < span_id < 2**64 for trace_id, span_id in map(ids_of, "abcdef"))
