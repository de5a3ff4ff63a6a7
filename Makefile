# One command proves the tree: `make test`. Every target can be run alone; `make help` lists them.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
# The parts share two resources, cargo's lock and the processors; in order is fastest.
.NOTPARALLEL:

E2E := cargo run --quiet --package bytebase-e2e --bin e2e --
# Scenarios to run, by name; all of them if empty.
SCENARIO ?=

.PHONY: help
help: ## List the targets
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

.PHONY: setup
setup: ## Install and build what tests and demo need; says what it does
	@e2e/setup.sh

.PHONY: lint
lint: ## Formatting and lints
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings
	@# A workspace of its own, which nothing else compiles.
	cargo check --quiet --locked --manifest-path operator/fuzz/Cargo.toml --target-dir target/fuzz

.PHONY: unit
unit: ## Tests that need no cluster
	cargo test --workspace --quiet

# Tools that setup.sh found or built.
TOOL = $$(sed -n 's/^$(1)=//p' .cache/setup.env)
OPERATOR := cargo run --quiet --package bytebase-operator --
GENERATED := crds/bytebaseclusters.bytebase.com.yaml charts/bytebase-operator/files/crd.yaml config/crd/bytebaseclusters.bytebase.com.yaml \
	config/rbac/rbac.yaml config/manager/manager.yaml docs/reference.md charts/bytebase-operator/README.md
# Where `generate` writes.
OUT ?= .

.PHONY: generate
generate: setup ## Write CRDs, kustomize objects, the reference page and the chart's README from the types and the chart
	mkdir -p $(OUT)/crds $(OUT)/charts/bytebase-operator/files $(OUT)/config/crd $(OUT)/docs
	$(OPERATOR) crd > $(OUT)/.crd.yaml
	mv $(OUT)/.crd.yaml $(OUT)/crds/bytebaseclusters.bytebase.com.yaml
	cp $(OUT)/crds/bytebaseclusters.bytebase.com.yaml $(OUT)/charts/bytebase-operator/files/crd.yaml
	cp $(OUT)/crds/bytebaseclusters.bytebase.com.yaml $(OUT)/config/crd/bytebaseclusters.bytebase.com.yaml
	$(OPERATOR) reference > $(OUT)/.reference.md
	mv $(OUT)/.reference.md $(OUT)/docs/reference.md
	HELM=$(call TOOL,HELM) charts/render-config.sh $(abspath $(OUT))/config
	charts/render-readme.sh > $(OUT)/.readme.md
	mv $(OUT)/.readme.md $(OUT)/charts/bytebase-operator/README.md

.PHONY: generated
generated: ## Check that everything generated is up to date
	@fresh=$$(mktemp -d); trap 'rm -rf "$$fresh"' EXIT; \
	$(MAKE) --no-print-directory --silent generate OUT="$$fresh"; \
	for file in $(GENERATED); do diff -u "$$file" "$$fresh/$$file" || { echo "$$file is out of date: run make generate" >&2; exit 1; }; done; \
	echo "generated files: up to date"

.PHONY: install-forms
install-forms: setup ## Render the chart and the kustomize configuration, and check what comes out
	HELM=$(call TOOL,HELM) KUBECTL=$(call TOOL,KUBECTL) charts/test.sh
	$(OPERATOR) check $$(ls config/samples/*.yaml | grep -v -e kustomization -e high-availability)
	@# A license cannot be shipped: the placeholder for it is the one thing that may be wrong with this sample.
	@found=$$($(OPERATOR) check config/samples/high-availability.yaml 2> /dev/null || true); echo "$$found"; \
	grep -q '^bytebase-ha: spec.license.secretRef: .*(InvalidSecret)$$' <<< "$$found"; test "$$(wc -l <<< "$$found")" = 1

.PHONY: model
model: ## Check the rules of operator and drain hook in every state of a model of their world, and that planted bugs are found
	cargo run --quiet --package operator-model

.PHONY: model-small
model-small: ## The same in a smaller world: five to six minutes
	cargo run --quiet --package operator-model -- quick

.PHONY: fuzz
fuzz: ## Fuzz each parser, the login and its relay, for a minute
	@command -v cargo-fuzz > /dev/null || { echo "installing cargo-fuzz"; cargo install --quiet --locked cargo-fuzz; }
	cd operator && for target in certificate external_url license login pg_url relay version; do RUSTC_BOOTSTRAP=1 cargo fuzz run $$target -- -max_total_time=60; done

.PHONY: postgres
postgres: ## Tests of probe, login and drain hook on PostgreSQL 14 to 18 (VERSIONS="14 18" for some)
	@testkit/postgres-versions.sh $(VERSIONS)

.PHONY: e2e
e2e: setup ## Scenarios on a real cluster (SCENARIO="name …" for some, E2E_KEEP=1 to keep the cluster)
	$(E2E) test $(SCENARIO)

.PHONY: scenarios
scenarios: ## List the scenarios
	@$(E2E) test --list

PARTS := setup lint unit model-small generated install-forms e2e

.PHONY: test
test: ## Everything: formatting, lints, unit tests, generated files, chart, scenarios
	@# The table of times is printed also where a part fails.
	@times= start=0 part=; \
	trap 'code=$$?; printf "make test: %d s\n%s" $$SECONDS "$$times"; \
		test $$code = 0 || printf "%6d s  %s, which failed\n" $$((SECONDS - start)) "$$part"' EXIT; \
	for part in $(PARTS); do \
		start=$$SECONDS; $(MAKE) --no-print-directory $$part; \
		times+=$$(printf '%6d s  %s' $$((SECONDS - start)) $$part)$$'\n'; \
	done

.PHONY: image
image: ## Build the image that ships with docker or podman (IMAGE=registry.example.com/bytebase-operator:dev)
	./image.sh "$(IMAGE)"

.PHONY: bench
bench: setup ## Measure speed and cost (CLUSTERS=1000 QUIET=600 GROWTH=10,100,1000,5000): a table, no verdict
	@echo "harness: building it (minutes at the first time, then a moment)"
	@# Optimised, as the operator is: the loops that it is compared with are part of it.
	@$(E2E:--quiet=--quiet --release) bench

.PHONY: soak
soak: setup ## Shake clusters at random (MINUTES=10, CLUSTERS=3, TASKS=20 a minute, SEED=… to replay) and keep the books
	@echo "harness: building it (minutes at the first time, then a moment)"
	@$(E2E) soak

.PHONY: demo
demo: setup ## Make a cluster to try things on, and leave it running
	@echo "harness: building it (minutes at the first time, then a moment)"
	@$(E2E) demo

.PHONY: demo-down
demo-down: ## Take the demo down
	@$(E2E) demo-down

.PHONY: e2e-down
e2e-down: ## Take down the cluster that E2E_KEEP=1 left
	$(E2E) down
