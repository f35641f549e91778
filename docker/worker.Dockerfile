# augur-worker, which runs predictions, and augur, for `augur migrate` and `augur doctor`. Built from the repository's root:
# docker build -f docker/worker.Dockerfile .
FROM rust:1.95-slim-bookworm AS build
WORKDIR /src
COPY . .
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target,id=augur-worker-target \
    cargo build --release --locked --package worker --package cli --bin augur-worker --bin augur \
    && cp target/release/augur-worker target/release/augur /usr/local/bin/

FROM debian:bookworm-slim
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --system --uid 10001 --no-create-home augur
COPY --from=build /usr/local/bin/augur-worker /usr/local/bin/augur /usr/local/bin/
COPY models /usr/local/share/augur/models
USER augur
ENV AUGUR_MODELS_DIR=/usr/local/share/augur/models AUGUR_LOG_FORMAT=json
# A worker has no port to ask. Doctor checks what it depends on: database, schema, Redis and model files.
HEALTHCHECK --interval=60s --timeout=20s --start-period=20s --retries=3 CMD ["augur", "doctor"]
CMD ["augur-worker"]
