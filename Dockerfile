# The released image: one static binary and nothing else. The binaries are built outside (see .github/workflows/release.yml) and lie in
# dist/amd64 and dist/arm64.
FROM scratch
ARG TARGETARCH
COPY dist/${TARGETARCH}/bytebase-operator /bytebase-operator
USER 65532:65532
ENTRYPOINT ["/bytebase-operator"]
