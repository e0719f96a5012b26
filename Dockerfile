# One image for worker, gateway, sink, simulator and command line. Packages come from the lock file, verified by hash.
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
# From the verified wheels pip installs only what the project needs at run time, without test and lint tools.
RUN --mount=type=bind,from=build,source=/wheels,target=/wheels \
    pip install --no-cache-dir --no-index -f /wheels 'tailrace[web,sql,otel,top]'
RUN useradd --system --uid 10001 --no-create-home tailrace
USER tailrace
ENV PYTHONUNBUFFERED=1
# On SIGTERM the worker drains: it claims no new requests and lets running ones finish for a grace period.
STOPSIGNAL SIGTERM
# Healthy: the worker on this host has recently recorded its health in Redis.
HEALTHCHECK --interval=15s --timeout=10s --start-period=20s --retries=3 CMD ["tailrace", "worker", "--check"]
ENTRYPOINT ["tailrace"]
CMD ["worker"]
