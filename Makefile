# Every target is a few lines; CI calls the same ones.

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/installed
ARGS ?=
SEEDS ?= 20
JOBS ?= 2
ARCHES ?= amd64 arm64
SOURCE ?=

# PYTHON=... takes that one; else the first of these that is 3.11, 3.12 or 3.13.
ifeq ($(origin PYTHON),undefined)
CANDIDATES := python3 python3.13 python3.12 python3.11
else
CANDIDATES := $(PYTHON)
endif
SUPPORTED := import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))

UV_VERSION := 0.13.9
GRPC_VERSION := 1.85.1
LOCK := $(VENV)/lock/bin/uv pip compile --quiet --universal --python-version 3.11 \
	--generate-hashes --no-header --no-emit-index-url --upgrade

.DEFAULT_GOAL := help
.PHONY: help install dev test check audit format bench soak lab chart release schemas lock proto clean

help: ## List the targets.
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  %-9s %s\n", $$1, $$2}'

install: $(STAMP) ## Make .venv with the command .venv/bin/relay.

dev: install ## Run everything on this machine: broker, relay, simulator. ARGS="..."
	@$(BIN)/relay dev $(ARGS)

test: install ## Run the tests with coverage. ARGS="tests/unit -k name"
	env -u PYTHONDONTWRITEBYTECODE $(BIN)/python -m pytest --cov --cov-report=term -n $(JOBS) --dist loadscope --no-loadscope-reorder $(ARGS)

check: install ## Check format, lint, types and the walls between the rooms.
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	@$(MAKE) --no-print-directory audit

audit: $(VENV)/audit/installed ## Look for known vulnerabilities in what is locked.
	@$(BIN)/python deploy/audit.py $(VENV)/audit/bin/pip-audit requirements/traces.txt

format: install ## Format the code and repair what ruff can.
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: install ## Measure on this machine, against a real Kafka. ARGS="..."
	$(BIN)/python -m bench $(ARGS)

soak: install ## Kill the relay 200 times under load and count every event.
	RELAY_SOAK_KILLS=200 $(BIN)/python -m pytest tests/e2e -k oracle --timeout=7200 $(ARGS)

lab: install ## Break three replicas and their stores as seeds say. SEEDS=20 ARGS="..."
	$(BIN)/python -m tests.lab --seeds $(SEEDS) $(ARGS)

chart: install ## Write the chart's schema and table of values from its values.yaml.
	$(BIN)/python deploy/chart.py

release: install ## Make what is published, of this commit: dist/VERSION. SOURCE=... ARCHES="amd64 arm64"
	$(BIN)/python deploy/release.py --source "$(SOURCE)" --arches "$(ARCHES)"

schemas: install ## Write docs/schemas, the contract for machines, and the settings' schema.
	@$(BIN)/python -m relay.settings.told.meanings docs/configuration.md
	@$(BIN)/relay config schema > docs/relay.schema.json
	@$(BIN)/relay schema > docs/schemas/asyncapi.json
	@for name in $$($(BIN)/python -c 'from relay.contract.schemas import schemas; print(*schemas())'); do \
		$(BIN)/relay schema $$name > docs/schemas/$$name.v1.json; done

lock: install ## Resolve the locked requirements again, newest versions.
	@test -x $(VENV)/lock/bin/uv || $(BIN)/python -m venv $(VENV)/lock
	$(VENV)/lock/bin/pip install --quiet uv==$(UV_VERSION)
	$(LOCK) pyproject.toml --output-file requirements/run.txt
	$(LOCK) --group build --output-file requirements/build.txt
	$(LOCK) --group audit --output-file requirements/audit.txt
	$(LOCK) pyproject.toml --extra traces --constraint requirements/run.txt \
		--output-file requirements/traces.txt
	$(LOCK) pyproject.toml --extra msk --constraint requirements/run.txt \
		--output-file requirements/msk.txt
	$(LOCK) pyproject.toml --extra dev --extra traces --group test --group build --constraint requirements/run.txt \
		--output-file requirements/dev.txt

proto: install ## Generate relay/ingress/frame_pb2.py from frame.proto again.
	@test -x $(VENV)/proto/bin/python || $(BIN)/python -m venv $(VENV)/proto
	$(VENV)/proto/bin/pip install --quiet grpcio-tools==$(GRPC_VERSION)
	$(VENV)/proto/bin/python -m grpc_tools.protoc --proto_path=. --python_out=. --pyi_out=. \
		relay/ingress/frame.proto

clean: ## Remove what was made here: .venv, caches, reports.
	rm -rf $(VENV) build dist .coverage* htmlcov .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find relay tests bench -name __pycache__ -prune -exec rm -rf {} + 2>/dev/null || true

$(STAMP): pyproject.toml requirements/dev.txt
	@test -x $(BIN)/python || { $(find_python); "$$python" -m venv $(VENV); }
	@echo "Installing into $(VENV); the first time this takes up to a minute."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check \
		--require-hashes --no-deps -r requirements/dev.txt
	@$(BIN)/python -m pip uninstall --quiet --disable-pip-version-check --yes relay 2>/dev/null
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check \
		--no-deps --no-build-isolation --editable .
	@touch $@

$(VENV)/audit/installed: requirements/audit.txt $(STAMP)
	@test -x $(VENV)/audit/bin/python || $(BIN)/python -m venv $(VENV)/audit
	@$(VENV)/audit/bin/python -m pip install --quiet --disable-pip-version-check \
		--require-hashes --no-deps -r requirements/audit.txt
	@touch $@

define find_python
	for python in $(CANDIDATES); do \
		"$$python" -c '$(SUPPORTED)' 2>/dev/null && break; python=; \
	done; \
	test -n "$$python" || { \
		echo "relay needs Python 3.11, 3.12 or 3.13; tried: $(CANDIDATES)." \
			"Name one with: make PYTHON=/path/to/python" >&2; exit 1; }
endef
