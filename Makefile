# Everything that a newcomer needs: `make run` and `make test`, each alone, from a bare clone with Python 3.11 and make.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready

.DEFAULT_GOAL := help
.PHONY: help setup run test torture check format proto landed demo cluster bench bench-long soak

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-13s %s\n", $$1, $$2}'

setup: $(READY) ## a .venv with everything

$(READY): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade "pip>=25.1"
	$(BIN)/python -m pip install --quiet --group dev --editable .
	@touch $@

run: $(READY) ## run the hub: embedded storage in ./data; the first start prints the first keys
	$(BIN)/hub serve

test: $(READY) ## every test, on real parts; what breaks things in its short form
	$(BIN)/python -m pytest

torture: $(READY) ## the tests that break things, in their long form, and all suites over NATS: some hours
	TORTURE=1 $(BIN)/python -m pytest tests/torture tests/jetstream
	TEST_STORAGE=jetstream $(BIN)/python -m pytest tests/test_smoke.py tests/api tests/delivery tests/governance

check: $(READY) ## style, types, the contract, and that generated/ is fresh
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python tools/make_proto.py --check --image $(VENV)/image.binpb
	$(BIN)/buf lint $(VENV)/image.binpb --path tickets
	$(BIN)/buf breaking $(VENV)/image.binpb --against protos/landed.binpb --path tickets
	$(BIN)/buf format --diff --exit-code protos

format: $(READY) ## put code and protos into their style
	$(BIN)/ruff check --fix-only --quiet .
	$(BIN)/ruff format --quiet .
	$(BIN)/buf format --write protos

proto: $(READY) ## make generated/ from protos/
	$(BIN)/python tools/make_proto.py

landed: $(READY) ## note the contract as what clients rely on: from now on `make check` refuses to break it
	$(BIN)/python tools/make_proto.py --landed

cluster: $(READY) ## three nats-server and three hubs on loopback, as plain processes
	$(BIN)/python examples/cluster/cluster.py

demo: $(READY) ## a hub, three integrations and a bot's day in one terminal
	$(BIN)/python examples/demo.py

bench: $(READY) ## measure the hub beside its floor, NATS JetStream and Redis: some minutes
	$(BIN)/python -m bench

bench-long: $(READY) ## measure how cost grows: streams, log, integrations: some minutes
	$(BIN)/python -m bench growth

SECONDS ?= 3600
soak: $(READY) ## an hour of mixed load, and what comes back after it; SECONDS=300 is the short form
	$(BIN)/python -m bench soak --seconds $(SECONDS)
