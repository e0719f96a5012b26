"""What goes through the pipe between the processes of a fleet arrives whole."""

import os

from tailrace.telemetry import metrics
from tailrace.telemetry.metric_samples import MetricSample, decode_samples, encode_samples, gauge_sample
from tailrace.worker.observe.fleet_metrics import MetricsPipe

PIPE_BYTES = 1 << 16


def test_samples_that_do_not_fit_into_the_pipe_arrive_whole() -> None:
    # given samples larger than the pipe's buffer, if the parent reads slowly, expect one whole line, sent in parts
    labels = [("label" * 20, str(number)) for number in range(2000)]
    samples = [MetricSample(metrics.PROCESSES.name, each, 1.0) for each in labels]
    reading, writing = os.pipe()
    with open(reading, "rb", buffering=0) as reader, open(writing, "wb", buffering=0):
        pipe = MetricsPipe(writing, lambda: samples)
        received = b""
        for _ in range(len(encode_samples(samples)) // PIPE_BYTES + 1):
            pipe.send_samples()
            received += reader.read(PIPE_BYTES)
    assert len(received) > PIPE_BYTES
    assert received.endswith(b"\n")
    assert decode_samples(received) == samples


def test_a_parent_that_has_died_is_no_error() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with open(writing, "wb", buffering=0):
        MetricsPipe(writing, lambda: [gauge_sample(metrics.PROCESSES, 1)]).send_samples()
