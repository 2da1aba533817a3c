# Everything that a newcomer needs: `make run` and `make test`, each alone, from a bare clone with Python 3.11 and make.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready

# Compiled code is kept, also where the environment says otherwise: every process of the tests would compile it again.
export PYTHONDONTWRITEBYTECODE :=

.DEFAULT_GOAL := help
.PHONY: help setup run test again torture check format proto lock landed demo metrics-page dist dist-test pages-test page-pictures pictures cluster clients-test proto-clients bench bench-long bench-metrics soak

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-13s %s\n", $$1, $$2}'

setup: $(READY) ## a .venv with everything

$(READY): pyproject.toml clients/python/pyproject.toml requirements/dev.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --require-hashes --requirement requirements/dev.txt
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable clients/python --editable .
	@touch $@

run: $(READY) ## run the hub: embedded storage in ./data; the first start prints the first keys
	$(BIN)/hub serve

test: $(READY) ## every test, on real parts, a process for each core; the torture tests in their short form
	$(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder

TESTS ?= tests
again: ## the tests in TESTS that failed last, one after the other; fails where there are none
	$(BIN)/python -m pytest --last-failed --last-failed-no-failures none --maxfail 5 $(TESTS)

PAGES_READY := $(VENV)/.pages-ready
pages-test: $(PAGES_READY) ## the directory and the console in the system's Chromium, by playwright and axe-core
	$(BIN)/python -m pytest tests/pages --timeout 300 -n auto

$(PAGES_READY): $(READY) requirements/pages.txt tests/pages/package-lock.json
	$(BIN)/python -m pip install --quiet --require-hashes --requirement requirements/pages.txt
	npm ci --prefix tests/pages --no-audit --no-fund --silent
	@touch $@

GO_TOOLS := $(CURDIR)/$(VENV)/go
GO := cd clients/go && PATH="$(GO_TOOLS):$(CURDIR)/$(BIN):$$PATH"
TS := npm --prefix clients/typescript
clients-test: $(GO_TOOLS)/staticcheck proto-clients ## all clients: fresh messages, conformance, rounds with a real hub, READMEs followed, linters; and the bot's cog
	git diff --exit-code --stat -- clients
	@! gofmt -l clients/go | grep .
	$(GO) go vet ./...
	$(GO) staticcheck ./...
	$(GO) go test -race ./...
	$(TS) run --silent build
	$(TS) run --silent lint
	$(BIN)/python -m pytest tests/clients tests/bot -n auto

$(GO_TOOLS)/staticcheck:
	GOBIN=$(GO_TOOLS) go install honnef.co/go/tools/cmd/staticcheck@v0.8.2

TS_READY := clients/typescript/node_modules/.package-lock.json # npm writes it when it has installed
$(TS_READY): clients/typescript/package-lock.json
	npm ci --prefix clients/typescript --no-audit --no-fund --silent
	@touch $@

proto-clients: $(READY) $(TS_READY) ## make the messages of the Go and the TypeScript client from generated/tickets_hub.binpb
	GOBIN=$(GO_TOOLS) go install google.golang.org/protobuf/cmd/protoc-gen-go@v1.36.12
	GOBIN=$(GO_TOOLS) go install google.golang.org/grpc/cmd/protoc-gen-go-grpc@v1.6.2
	rm -rf clients/go/hubpb
	$(GO) buf generate
	rm -rf clients/typescript/src/gen
	cd clients/typescript && $(CURDIR)/$(BIN)/buf generate

page-pictures: $(PAGES_READY) ## take the pictures of the pages: docs/pictures/*.png, about two minutes
	$(BIN)/python tools/page_pictures.py

torture: $(READY) ## the torture tests in their long form, and all suites over NATS: some hours
	TORTURE=1 $(BIN)/python -m pytest tests/torture tests/jetstream tests/contract tests/storage/test_backup.py
	TEST_STORAGE=jetstream $(BIN)/python -m pytest tests/test_smoke.py tests/api tests/delivery tests/governance tests/privacy

check: $(READY) ## style, types, the contract, and whether generated files are current
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python tools/make_proto.py --check --image $(VENV)/image.binpb
	$(BIN)/buf lint $(VENV)/image.binpb --path tickets --config '{"version": "v2"}'
	$(BIN)/buf breaking $(VENV)/image.binpb --against protos/landed.binpb --path tickets
	$(BIN)/buf format --diff --exit-code protos

format: $(READY) ## format code and protos
	$(BIN)/ruff check --fix-only --quiet .
	$(BIN)/ruff format --quiet .
	$(BIN)/buf format --write protos

proto: $(READY) ## make the client's messages and generated/ from protos/
	$(BIN)/python tools/make_proto.py

LOCK = $(BIN)/uv pip compile pyproject.toml --quiet --universal --python-version 3.11 --generate-hashes --no-annotate \
	--no-emit-package tickets-hub-client \
	--custom-compile-command "make lock" $(if $(UPGRADE),--upgrade)
lock: $(READY) ## pin every dependency by its hashes; keeps the versions that fit, UPGRADE=1 takes the newest
	$(LOCK) --all-extras --group dev --output-file requirements/dev.txt
	$(LOCK) --all-extras --group pages --constraints requirements/dev.txt --output-file requirements/pages.txt
	$(LOCK) --all-extras --group build --constraints requirements/dev.txt --output-file requirements/server.txt

landed: $(READY) ## declare the contract as released: from now on `make check` refuses to break it
	$(BIN)/python tools/make_proto.py --landed

metrics-page: $(READY) ## write docs/metrics.md and deploy/hub.toml from the tables of metrics and settings
	$(BIN)/python tools/metrics_page.py
	$(BIN)/hub config --sample > deploy/hub.toml

DIST ?= dist
BUILD = $(BIN)/uv build --quiet --no-build-isolation --python $(BIN)/python --out-dir $(DIST)
dist: $(READY) ## the wheels and sdists of the server and of its client, in dist/
	rm -f $(DIST)/tickets_hub*
	$(BUILD) clients/python
	$(BUILD) .

dist-test: $(READY) ## install the wheels and sdists, and run the image's steps, in fresh environments: some minutes
	$(BIN)/python -m pytest tests/packages

pictures: $(READY) ## draw the pictures of README
	$(BIN)/python tools/pictures.py --demo

cluster: $(READY) ## three nats-server and three hubs on loopback, as plain processes
	$(BIN)/python examples/cluster/cluster.py

demo: $(READY) ## a hub, three integrations and a bot's day in one terminal
	$(BIN)/python examples/demo.py

bench: $(READY) ## measure the hub beside its floor, NATS JetStream and Redis: some minutes
	$(BIN)/python -m bench

bench-long: $(READY) ## measure how cost grows: streams, log, integrations: some minutes
	$(BIN)/python -m bench growth

bench-metrics: $(READY) ## measure what counting and scraping cost: a minute
	$(BIN)/python -m bench metrics --runs 9

SECONDS ?= 3600
soak: $(READY) ## an hour of mixed load, then what is left of it; SECONDS=300 is the short form
	$(BIN)/python -m bench soak --seconds $(SECONDS)
