# One image for every stage (rater, warehouse, scheduler, clock, api) and for `tollgate migrate`.
FROM python:3.13-slim AS build
WORKDIR /build
RUN python -m venv /app
COPY requirements-image.lock ./
RUN /app/bin/pip install --no-cache-dir --require-hashes --only-binary :all: -r requirements-image.lock
COPY . .
RUN /app/bin/pip install --no-cache-dir --no-deps --no-build-isolation .

FROM python:3.13-slim
RUN useradd --system --uid 10001 --no-create-home tollgate \
    && install --directory --owner tollgate --mode 0700 /var/lib/tollgate
COPY --from=build /app /app
ENV PATH=/app/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    TOLLGATE_HOME=/var/lib/tollgate \
    TOLLGATE_LOG_FORMAT=json \
    TOLLGATE_PROBE_HOST=0.0.0.0 \
    TOLLGATE_PROBE_PORT=8080
EXPOSE 8080
USER 10001
WORKDIR /var/lib/tollgate
VOLUME /var/lib/tollgate
ENTRYPOINT ["tollgate"]
CMD ["--help"]
