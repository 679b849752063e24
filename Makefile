# why502: every target sets up what it needs. `make` lists them.

CARGO ?= cargo
# The binaries of `make run`, `make demo` and `make bench`: optimised, without the long link of a release.
BUILD := target/quick

.PHONY: help run demo test lint bench release deps-build deps-test

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

run: deps-build ## explain this machine's 502s: collector, agent, page, live view; Ctrl-C ends it
	@echo "building (the first time takes some minutes)"
	@$(CARGO) build --profile quick -p why502-agent -p why502-collector
	@packaging/run-here $(BUILD)

demo: deps-test ## see one explained: two throw-away hosts, nginx, a service that runs out of memory
	@$(CARGO) build --profile quick -p why502-agent -p why502-collector -p why502-tests
	@packaging/as-root $(BUILD)/demo

test: deps-test ## all tests, and the fault bench on real hosts
	$(CARGO) test --workspace

lint: deps-build ## formatting and lints
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets -- -D warnings

bench: deps-test ## the figures of docs/bench.md: latency, and idle cost beside node-exporter
	@$(CARGO) build --profile quick -p why502-agent -p why502-collector -p why502-tests
	@packaging/as-root $(BUILD)/figures

release: deps-build ## small optimised binaries in target/release
	$(CARGO) build --release -p why502-agent -p why502-collector

deps-build:
	@packaging/install-deps build

deps-test:
	@packaging/install-deps build test
