# kvstored and kvctl, and the libraries they need, on nothing: no shell, no package manager.
#
#   docker build -t kvstored .
#   docker run --read-only --cap-drop ALL -p 127.0.0.1:9400:9400 -p 127.0.0.1:9401:9401 kvstored
#
# There is no authentication yet (SECURITY.md): publish the ports on loopback or a private network.
# HEALTHCHECK is part of Docker's image format (buildah: --format docker).
ARG BASE=debian:bookworm-slim

FROM ${BASE} AS build
WORKDIR /source
# The packages first: this layer stays while the sources change.
COPY scripts/install scripts/install
RUN scripts/install build && rm -rf /var/lib/apt/lists/*
COPY . .
RUN cmake --preset release && cmake --build --preset release --target kvstored kvctl
RUN tools/collect_runtime.sh /root-of-image build/bin/kvstored build/bin/kvctl \
    && install -D -m 0644 LICENSE /root-of-image/usr/share/doc/kvstored/LICENSE \
    && install -d -m 1777 /root-of-image/tmp \
    && install -d -o 65532 -g 65532 -m 0700 /root-of-image/data

FROM scratch AS cpu
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="kvstored" \
      org.opencontainers.image.description="A parameter server: push gradients, pull weights, by gRPC" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
COPY --from=build /root-of-image/ /
USER 65532:65532
VOLUME /data
EXPOSE 9400 9401
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=5s --retries=3 \
    CMD ["/usr/bin/kvctl", "health"]
ENTRYPOINT ["/usr/bin/kvstored"]
CMD ["--grpc-address", "0.0.0.0:9400", "--http-address", "0.0.0.0:9401", \
     "--insecure-allow-remote", "--data-dir", "/data"]
