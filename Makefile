# The commands of this project. What they do stands in scripts/; this file only names them.
.NOTPARALLEL:
.DEFAULT_GOAL := help
SCRIPTS := scripts/lib.sh scripts/install scripts/install-test scripts/install-bench scripts/run scripts/test-suites scripts/test-upgrade scripts/test-sandbox scripts/test-openapi
CARGO_TOOLS := .libra/cargo-tools/bin

.PHONY: help run test install install-test install-bench doctor \
	fmt fmt-check lint scripts-lint doc deny unused unit upgrade sandbox openapi \
	bench bench-quick bench-deploy bench-static bench-memory bench-builds bench-pool bench-production bench-front-door bench-build

help: ## Show these lines
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

run: ## Install, build, start, deploy examples/vite-react, stay up until Ctrl-C
	@scripts/run

test: install install-test fmt-check lint scripts-lint doc deny unused unit upgrade sandbox openapi ## Install what tests need, check everything, run all tests

install: ## Install what `make run` needs and is missing
	@scripts/install

install-test: ## Install what `make test` needs and is missing
	@scripts/install-test

install-bench: ## Install what `make bench` needs and is missing
	@scripts/install-bench

doctor: ## Say what is missing or broken on this machine, and how to mend it
	cargo build --locked
	@"$${CARGO_TARGET_DIR:-target}/debug/libra" doctor

fmt: ## Format the code
	cargo fmt --all

fmt-check: ## Check the format
	cargo fmt --all --check

lint: ## Clippy, warnings are errors
	cargo clippy --workspace --all-targets --locked -- -D warnings

scripts-lint: ## Check the shell scripts
	shellcheck -x --severity=warning $(SCRIPTS)

doc: ## Build the documentation, warnings are errors
	RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --document-private-items --locked

# The advisory database comes from a place that not every build machine reaches: `cargo deny check advisories` by hand.
deny: ## Check licences, banned crates and sources
	$(CARGO_TOOLS)/cargo-deny --locked check bans licenses sources

unused: ## Find dependencies that nothing uses
	$(CARGO_TOOLS)/cargo-machete

unit: ## All tests, as the user who calls; the product's on the embedded parts and on production's
	@scripts/test-suites

upgrade: ## The release before, on this one's schema
	@scripts/test-upgrade

sandbox: ## The sandbox suite again, as the other kind of user (root or ordinary)
	@scripts/test-sandbox

openapi: ## Run the OpenAPI document through a property-based tester, on a server of its own
	@scripts/test-openapi

bench-build: install install-bench
	cargo build --release --locked --bin libra --example bench-origin

bench: bench-build ## Measure everything (release build); raw output in bench/results
	@bench/run

bench-quick: bench-build ## Measure everything in a few minutes, for a look only
	@bench/run --quick

bench-deploy: bench-build ## POST /deploy to live
	@bench/run --only deploy

bench-static: bench-build ## Static GET against nginx
	@bench/run --only static

bench-memory: bench-build ## Memory, idle and with 10,000 Workers
	@bench/run --only memory

bench-builds: bench-build ## Builds against the same commands outside the sandbox, cold and with kept dependencies
	@bench/run --only builds

bench-pool: bench-build ## 20 deployments at once, five at a time
	@bench/run --only pool

bench-production: bench-build ## POST /deploy to live on PostgreSQL, a NATS cluster and S3
	@bench/run --only production

bench-front-door: bench-build ## The front door against nginx, HAProxy and Caddy; a million hosts; switches under load
	@bench/run --only front-door hosts connections
