# The commands of a visitor and of a developer. .ci/run runs the same ones.
#
#   make demo          two Redis servers and two sidecars on this machine, live, with a verdict
#   make test          all tests, those against the installed Redis included
#   make lint          formatting and lints; warnings are errors
#   make docs          the documentation of the code; broken links are errors
#   make deny          licences, sources and advisories of all crates, with cargo-deny
#   make test-matrix   the integration tests against ten versions of Redis and Valkey, and every
#                      command between every two of them: writes docs/compatibility.md
#   make soak          for hours what make test does for seconds: SIM_SCHEDULES simulated schedules of
#                      each number of sites, SOAK_SEEDS random loads of both sites with faults, SOAK_KILLS
#                      kills under load, and SOAK_MINUTES of faults of all kinds; seeds are printed.
#                      Writes docs/reliability.md
#   make bench         speed, cost and memory beside a native replica, with the installed server:
#                      writes docs/performance.md; BENCH_ARGS="--quick" is a smoke run
#   make costs         allocations, bytes and (with valgrind) instructions of the parts of the data
#                      path; fails when one has become dearer than benches/parts.rs allows
#
# make demo and make test install what is missing with apt-get: gcc, certificates, redis-server.

DEMO_SECONDS ?= 20
DEMO_PROFILE ?= release
DEMO_ARGS ?=
BENCH_ARGS ?=
SIM_SCHEDULES ?= 100000
SOAK_SEEDS ?= 100
SOAK_KILLS ?= 500
SOAK_MINUTES ?= 120
SERVERS ?= $(CURDIR)/target/servers
# What make deny checks. Advisories are read from GitHub: leave them out where that is out of reach.
DENY ?= advisories bans licenses sources

.PHONY: demo test lint docs deny test-matrix soak bench costs ensure

demo: ensure
	cargo run --locked --profile $(DEMO_PROFILE) -- demo --seconds $(DEMO_SECONDS) $(DEMO_ARGS)

test: ensure
	cargo test --locked

lint:
	cargo fmt --check
	cargo clippy --all-targets --locked -- -D warnings

docs:
	RUSTDOCFLAGS="-D warnings" cargo doc --no-deps --locked

deny:
	@command -v cargo-deny >/dev/null || \
	  { echo "cargo-deny was not found: cargo install cargo-deny --locked" >&2; exit 1; }
	cargo deny --locked check --hide-inclusion-graph $(DENY)

test-matrix: ensure
	tests/servers/install.sh $(SERVERS)
	TANDEM_SERVERS=$(SERVERS) cargo test --locked --test it
	mkdir -p docs
	TANDEM_SERVERS=$(SERVERS) TANDEM_MATRIX=$(CURDIR)/docs/compatibility.md \
	  cargo test --release --locked --test it conformance::every_pair -- --nocapture

soak: ensure
	SIM_SCHEDULES=$(SIM_SCHEDULES) cargo test --release --locked --test sim -- --nocapture sites
	TANDEM_SEEDS=$(SOAK_SEEDS) cargo test --locked --test it -- --nocapture conflicts::random
	TANDEM_KILLS=$(SOAK_KILLS) cargo test --locked --test it -- --nocapture resume::kills
	TANDEM_SOAK_MINUTES=$(SOAK_MINUTES) TANDEM_RELIABILITY=$(CURDIR)/docs/reliability.md \
	  cargo test --locked --test it -- --nocapture soak::

bench: ensure
	cargo bench --locked --bench whole -- $(BENCH_ARGS)

costs:
	cargo bench --locked --bench parts -- --check

ensure:
	@tests/servers/ensure.sh
