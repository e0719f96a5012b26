# One image for worker, gateway, sink, simulator and command line. What is installed is what the lock names, checked by its hashes.
FROM python:3.12-slim AS build
WORKDIR /src
COPY requirements.lock ./
RUN pip wheel --no-cache-dir --require-hashes -r requirements.lock -w /wheels
COPY pyproject.toml README.md ./
COPY tailrace tailrace
COPY schemas schemas
COPY broker broker
COPY telemetry telemetry
COPY worker worker
COPY producers producers
COPY demo demo
RUN pip install --no-cache-dir --no-index -f /wheels hatchling \
 && pip wheel --no-cache-dir --no-index --no-deps --no-build-isolation -w /wheels .

FROM python:3.12-slim
# From the checked wheels pip takes only what the project needs at run time: no test or lint tool comes along.
RUN --mount=type=bind,from=build,source=/wheels,target=/wheels \
    pip install --no-cache-dir --no-index -f /wheels 'tailrace[web,sql,otel,top]'
RUN useradd --system --uid 10001 --no-create-home tailrace
USER tailrace
ENV PYTHONUNBUFFERED=1
# The worker drains on SIGTERM: no new requests, a grace period for those that run.
STOPSIGNAL SIGTERM
# Healthy: the worker on this host has recorded its health in Redis recently.
HEALTHCHECK --interval=15s --timeout=10s --start-period=20s --retries=3 CMD ["tailrace", "worker", "--check"]
ENTRYPOINT ["tailrace"]
CMD ["worker"]
