# The image: the program and an empty journal directory, for a user without rights.
#
#   docker build -t tandem .
#   docker run -v ./tandem.toml:/etc/tandem/tandem.toml:ro -v journal:/var/lib/tandem tandem
ARG RUST_IMAGE=rust:1.95-bookworm
ARG RUNTIME_IMAGE=gcr.io/distroless/cc-debian12:nonroot

FROM ${RUST_IMAGE} AS build
WORKDIR /build
# The dependencies first: this layer stays until the lock file changes.
COPY Cargo.toml Cargo.lock ./
RUN mkdir src && echo 'fn main() {}' >src/main.rs && touch src/lib.rs \
    && cargo build --release --locked \
    && rm -r src target/release/tandem target/release/deps/tandem-* \
             target/release/deps/libtandem-* target/release/.fingerprint/tandem-*
COPY src src
RUN cargo build --release --locked \
    && mkdir -p /out/usr/local/bin /out/var/lib/tandem /out/etc/tandem \
    && cp target/release/tandem /out/usr/local/bin/

FROM ${RUNTIME_IMAGE}
LABEL org.opencontainers.image.title="tandem" \
      org.opencontainers.image.description="Two-way sync between unmodified Redis or Valkey servers" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build /out/usr /usr
# The journal must be writable by the user below, also as a fresh named volume.
COPY --from=build --chown=65532:65532 /out/var/lib/tandem /var/lib/tandem
COPY --from=build /out/etc/tandem /etc/tandem
USER 65532:65532
ENV TANDEM_CONFIG=/etc/tandem/tandem.toml
VOLUME /var/lib/tandem
# The link, and the HTTP interface for operators.
EXPOSE 7480 9480
# The program handles SIGTERM itself: it stops reading, drains the link, closes the journal.
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=10s --retries=3 \
    CMD ["/usr/local/bin/tandem", "healthcheck", "--config", "/etc/tandem/tandem.toml"]
ENTRYPOINT ["/usr/local/bin/tandem"]
CMD ["run", "--config", "/etc/tandem/tandem.toml"]
