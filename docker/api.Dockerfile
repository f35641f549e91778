# augur-api: HTTP in, rows and tickets out. Built from the repository's root: docker build -f docker/api.Dockerfile .
FROM rust:1.95-slim-bookworm AS build
WORKDIR /src
COPY . .
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target,id=augur-api-target \
    cargo build --release --locked --package api --bin augur-api \
    && cp target/release/augur-api /usr/local/bin/augur-api

FROM debian:bookworm-slim
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --system --uid 10001 --no-create-home augur
COPY --from=build /usr/local/bin/augur-api /usr/local/bin/augur-api
COPY --chmod=755 docker/api-healthy /usr/local/bin/api-healthy
USER augur
# A container's network is its own: what of it is published is the caller's decision.
ENV AUGUR_LISTEN=0.0.0.0:8000 AUGUR_ALLOW_REMOTE=true AUGUR_LOG_FORMAT=json
EXPOSE 8000
HEALTHCHECK --interval=5s --timeout=3s --start-period=10s --retries=3 CMD ["api-healthy"]
ENTRYPOINT ["augur-api"]
