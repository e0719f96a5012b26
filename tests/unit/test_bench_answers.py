"""The answers that `bench interface` reads: if they were wrong, it would measure something else."""

import msgspec
import pytest

from bench.answers import KINDS, Kind
from tailrace.schemas.errors import UpstreamError
from tailrace.worker.interface.stream_decoder import StreamDecoder


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
@pytest.mark.parametrize("chunks", [100, 1_000])
def test_an_answer_has_its_chunks_and_is_whole(kind: Kind, chunks: int) -> None:
    # given a kind of answer, if it is made in a length, expect so many chunks, and an outcome without a complaint
    answer = kind.make(chunks)
    assert len(answer.data) == chunks + 2  # opening and end
    reader = StreamDecoder("chat", kind.options)
    deltas = [delta for event in answer.events for delta in reader.feed(event)]
    deltas += reader.close()
    outcome = reader.finish()
    assert reader.failure is None
    assert outcome.status == "completed"
    assert len(deltas) > chunks * 0.85  # nearly every chunk is worth a delta: none is measured that does nothing
    if answer.arguments:
        assert len(answer.arguments) == chunks
        assert [call.arguments for call in outcome.tool_calls] == ["".join(answer.arguments)]
        assert msgspec.json.decode("".join(answer.arguments)).keys() == {
            "inner_thoughts",
            "message",
            "request_heartbeat",
        }
    else:
        assert len(outcome.content or outcome.reasoning or "") >= chunks * 4


def test_a_failure_is_not_measured() -> None:
    # given a stream that fails, if it is read, expect the reader to say so: the benchmark raises that
    reader = StreamDecoder("chat", KINDS[0].options)
    reader.feed(b'data: {"error": {"message": "no"}}\n\n')
    assert isinstance(reader.failure, UpstreamError)
