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

.PHONY: unit
unit: ## Tests that need no cluster
	cargo test --workspace --quiet

.PHONY: e2e
e2e: setup ## Scenarios on a real cluster (SCENARIO="name …" for some, E2E_KEEP=1 to keep the cluster)
	$(E2E) test $(SCENARIO)

.PHONY: scenarios
scenarios: ## List the scenarios
	@$(E2E) test --list

.PHONY: test
test: setup lint unit e2e ## Everything: formatting, lints, unit tests, scenarios

.PHONY: demo
demo: setup ## Make a cluster to look at, and leave it running
	$(E2E) demo

.PHONY: demo-down
demo-down: ## Take the demo down
	$(E2E) demo-down

.PHONY: e2e-down
e2e-down: ## Take down the cluster that E2E_KEEP=1 left
	$(E2E) down
