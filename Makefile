# make run    starts an encrypted Redis, which runs until Ctrl-C
# make test   runs all tests
# make build  builds bin/sealane
# make bench  measures what encryption costs: docs/performance.md
# make gen    makes gen/ from proto/, after a change there

GO ?= go
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
STATICCHECK = $(GO) run honnef.co/go/tools/cmd/staticcheck@v0.8.2
GOVULNCHECK = golang.org/x/vuln/cmd/govulncheck@v1.9.0
FUZZTIME ?= 1s
FORMATTED = cmd internal gen scripts e2e bench
PREFIX ?= /usr/local
# Packages with TLS clients for the tests. They are unpacked from Debian 13.
CLIENTS = openssl haproxy nginx libnginx-mod-stream stunnel4 libmbedtls-dev libwolfssl-dev

# The state folder of make run, and further flags of its `sealane serve`.
STATE ?=
RUN_FLAGS ?=

.PHONY: build run test test-engines test-failover test-chaos test-replication-capture engines check unit e2e fuzz bench gen install clean

build:
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags "-s -w -X main.version=$(VERSION)" -o bin/sealane ./cmd/sealane

run:
	@scripts/need.sh redis-server redis-cli
	@$(MAKE) --no-print-directory build
	@STATE='$(STATE)' scripts/run.sh $(RUN_FLAGS)

test: engines check unit e2e fuzz

# Unpacks newer engines than the one in PATH into a folder of their own. ENGINES_FLAGS=-u looks for newer versions; with --strict a
# missing one is an error.
engines:
	@scripts/engines.sh $(ENGINES_FLAGS)

check:
	@scripts/need.sh gcc redis-server redis-cli redis-benchmark openssl sslscan curl ss setpriv node npm python3-redis php php-redis php-predis javac gnutls-cli tstclnt
	@scripts/need.sh --optional python3-googleapi escript perl-ssl ruby wolfssl mbedtls bearssl botan
	@scripts/debian.sh trixie $(CLIENTS) >/dev/null || echo "NOT TESTED WITH those of Debian 13: $(CLIENTS)" >&2
	@scripts/object-servers.sh
	@test -z "$$(gofmt -l $(FORMATTED))" || { echo "gofmt is due:"; gofmt -l $(FORMATTED); exit 1; }
	$(GO) vet ./...
	cd e2e && $(GO) vet ./...
	cd bench && $(GO) vet ./...
	$(STATICCHECK) ./...
	cd e2e && $(STATICCHECK) ./...
	cd bench && $(STATICCHECK) ./...
	@GO='$(GO)' scripts/vulncheck.sh $(GOVULNCHECK)

# Runs the long tests with each engine: the whole corpus on every data path, and clients that log in, for LOGINS in each case.
LOGINS ?= 10m

test-engines: engines
	cd e2e && SEALANE_CORPUS=all SEALANE_LOGINS=$(LOGINS) $(GO) test -count=1 -timeout 3h -run 'TestSameReplies|TestLogins' .
	SEALANE_LOGINS=$(LOGINS) $(GO) test -count=1 -timeout 3h -parallel 20 -run TestLogins ./internal/relay
	SEALANE_RELAY_TIME=1m $(GO) test -count=1 -timeout 3h -run TestManyClientsOnARealEngine ./internal/relay

# The list of engines is in the environment so that go test does not reuse a cached result from a run with fewer engines.
# The stories of the commands start hundreds of processes, which takes long with the race detector; e2e has it in the same program. They run
# beside the rest. Package pki has no goroutines, and decades of certificates take four times as long with the detector.
unit:
	SEALANE_TEST_ENGINES="$$(scripts/engines.sh --list)"; export SEALANE_TEST_ENGINES; \
	$(GO) test ./cmd/... ./internal/pki & stories=$$!; \
	$(GO) test -race $$($(GO) list ./... | grep -v -e /cmd/ -e /internal/pki$$); rest=$$?; \
	wait $$stories && exit $$rest
	cd bench && $(GO) test ./...

e2e:
	cd e2e && $(GO) test -race -count=1 -timeout 20m ./... # go test's cache does not notice a new binary

fuzz:
	@scripts/fuzz.sh $(FUZZTIME)

# The flags of make bench, such as -quick, -rounds 5 or -only get-50,memory; see docs/performance.md.
BENCH_FLAGS ?=

bench: build
	@scripts/need.sh redis-server redis-cli
	cd bench && $(GO) run . -sealane ../bin/sealane $(BENCH_FLAGS)

# What goes from node to node, captured on all interfaces and in a network namespace per node, and certificates that are replaced while a
# replica copies the data. It needs root.
test-replication-capture: build
	@scripts/need.sh redis-server tcpdump ip tc
	cd e2e && $(GO) vet -tags capture . && SEALANE_BIN="$(CURDIR)/bin/sealane" $(GO) test -tags capture -count=1 -timeout 10m -v -run TestCapture .

# Failovers under load, and processes killed at random: docs/failover.md. They are not part of make test.
FAILOVERS ?= 100
FAILOVER_FLAGS ?=
CHAOS ?= 15m

test-failover: build
	@scripts/need.sh redis-server node npm
	cd e2e && $(GO) run ./failover/run -sealane ../bin/sealane -failovers $(FAILOVERS) $(FAILOVER_FLAGS)

test-chaos: build
	@scripts/need.sh redis-server node npm
	cd e2e && $(GO) run ./failover/run -sealane ../bin/sealane -chaos $(CHAOS) $(FAILOVER_FLAGS)

gen:
	@scripts/gen.sh

install: build
	install -m 0755 bin/sealane $(DESTDIR)$(PREFIX)/bin/sealane

clean:
	rm -rf bin
