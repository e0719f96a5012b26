"""The envelope that producers write is the one that arq writes and reads."""

from arq.jobs import deserialize_job, serialize_job

from tailrace.broker.keys import JOB_FUNCTION
from tailrace.producers.queue.enqueue import job_envelope
from tailrace.schemas.codec import decode_job, encode_job


def test_the_envelope_is_byte_for_byte_that_of_arq() -> None:
    envelope = job_envelope("one", 1_700_000_000_123)
    assert envelope == serialize_job(JOB_FUNCTION, ("one",), {}, None, 1_700_000_000_123, serializer=encode_job)


def test_arq_reads_the_envelope() -> None:
    job = deserialize_job(job_envelope("one", 1_700_000_000_123), deserializer=decode_job)
    assert (job.function, list(job.args), job.kwargs, job.job_try) == (JOB_FUNCTION, ["one"], {}, None)
