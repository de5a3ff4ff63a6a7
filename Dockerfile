# The released image: two static binaries and nothing else, the operator and the drain hook, which replicas copy from it. The binaries are built outside (see .github/workflows/release.yml) and lie in
# dist/amd64 and dist/arm64.
FROM scratch
ARG TARGETARCH
COPY dist/${TARGETARCH}/bytebase-operator dist/${TARGETARCH}/bytebase-drain /
USER 65532:65532
ENTRYPOINT ["/bytebase-operator"]
