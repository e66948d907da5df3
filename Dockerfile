# The image of Tidewatch: one binary on a small Debian, as a user of its own.
#
#   docker build -t tidewatch:0.1.0 .
#
# Nothing is installed from a distribution's mirrors, so the same base images and lock files give the same packages: crates
# by Cargo.lock, npm packages by dashboard/web/package-lock.json. Dependencies are compiled in a layer of their own
# (cargo-chef), which stays until Cargo.lock changes.

ARG RUST=1.95.0
ARG NODE=22.23.1
ARG DEBIAN=12.12

FROM node:${NODE}-bookworm-slim AS node

FROM rust:${RUST}-bookworm AS chef
ARG RUST
# The toolchain of the image, so that rust-toolchain.toml does not have rustup fetch lints and formatting too.
ENV RUSTUP_TOOLCHAIN=${RUST} CARGO_INCREMENTAL=0 CARGO_TERM_COLOR=never
RUN cargo install --locked cargo-chef@0.1.78
# The page is built by the crate `dashboard`, with Node.
COPY --from=node /usr/local/bin/node /usr/local/bin/node
COPY --from=node /usr/local/lib/node_modules/npm /usr/local/lib/node_modules/npm
RUN ln -s ../lib/node_modules/npm/bin/npm-cli.js /usr/local/bin/npm \
    && ln -s ../lib/node_modules/npm/bin/npx-cli.js /usr/local/bin/npx \
    && node --version && npm --version
WORKDIR /build

FROM chef AS plan
COPY . .
RUN cargo chef prepare --recipe-path recipe.json

FROM chef AS build
# No path of the building machine in the binary.
ENV RUSTFLAGS="--remap-path-prefix=/build=tidewatch --remap-path-prefix=/usr/local/cargo=cargo"
COPY --from=plan /build/recipe.json recipe.json
RUN cargo chef cook --release --locked --package tidewatch --recipe-path recipe.json
COPY . .
RUN cargo build --release --locked --package tidewatch --bin tidewatch \
    && install -D -m 0755 target/release/tidewatch /out/tidewatch \
    && strip /out/tidewatch \
    && /out/tidewatch --version

FROM debian:${DEBIAN}-slim
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
RUN groupadd --system --gid 10001 tidewatch \
    && useradd --system --uid 10001 --gid 10001 --home-dir /var/lib/tidewatch --shell /usr/sbin/nologin tidewatch \
    && install -d -o 10001 -g 10001 -m 0750 /var/lib/tidewatch
COPY --from=build /out/tidewatch /usr/local/bin/tidewatch
USER 10001:10001
WORKDIR /var/lib/tidewatch
STOPSIGNAL SIGTERM
ENTRYPOINT ["/usr/local/bin/tidewatch"]
CMD ["--help"]
