# `make demo` needs Python 3.11 or newer and a package index; every other target builds on `env`.
PYTHON ?= python3
BENCH_ARGS ?= --quick
BIN := .venv/bin
INSTALLED := .venv/.installed
SOURCES := src flows tasks tests benchmarks

export OMP_WAIT_POLICY ?= PASSIVE
export TOKENIZERS_PARALLELISM ?= false

.PHONY: env demo test test-long check page faults faults-long bench deploy deploy-local

env: $(INSTALLED)

# Not the extra `quantization`: transformers imports torchao wherever it is installed, two seconds for
# every process.
$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(None if sys.version_info >= (3, 11) else "needs Python 3.11 or newer, found %d.%d: make PYTHON=python3.11" % sys.version_info[:2])'
	test -x $(BIN)/pip || $(PYTHON) -m venv .venv
	$(BIN)/pip install -c constraints.txt torch
	$(BIN)/pip install -c constraints.txt -e ".[flows,demo,adapters,dashboard,figures,gemini,openai,dev]"
	touch $@

demo: $(INSTALLED)
	$(BIN)/whatchanged run configs/demo.yaml
	@echo
	@echo "The report:    $(CURDIR)/runs/demo/report.html (and report.md beside it)"
	@echo "The dashboard: $(CURDIR)/runs/demo/dashboard/index.html"

check: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy src flows tasks

# One file stays on one worker: its flows share one temporary Prefect server.
test: check
	HF_HUB_OFFLINE=1 $(BIN)/pytest -m "not long" -n 2 --dist loadfile

test-long: $(INSTALLED)
	HF_HUB_OFFLINE=1 $(BIN)/pytest -m long

# Builds the dashboard's page anew from its sources; needs node. The result is committed.
page:
	cd web && npm ci && npm run build

# Kills, full disks, flipped bits, hostile models and texts; what they counted, as a table.
PAID := tests/flows/test_paid_judges.py
FAULT_TESTS := tests/faults tests/unit/models/test_llm_judge.py \
    $(PAID)::test_a_killed_run_pays_at_most_for_the_calls_in_flight_again \
    $(PAID)::test_a_key_that_is_refused_ends_the_run_and_is_quoted_nowhere \
    $(PAID)::test_the_key_is_nowhere_on_disk \
    tests/browser/test_dashboard.py::test_a_hundred_payloads_run_nothing
faults: FAULT_MARK := not long
faults-long: FAULT_MARK := long or not long
faults faults-long: $(INSTALLED)
	@mkdir -p build
	@HF_HUB_OFFLINE=1 $(BIN)/pytest -m "$(FAULT_MARK)" -n 2 --dist loadfile -o junit_family=xunit1 \
	    --junitxml=build/faults.xml $(FAULT_TESTS); status=$$?; \
	    $(BIN)/python -m tests.faults.table build/faults.xml > build/faults.md; \
	    cat build/faults.md; exit $$status

bench: $(INSTALLED)
	@set -e; for file in $$(grep -l '__main__' benchmarks/*.py); do \
	    name=$$(basename $$file .py); echo "== $$name"; \
	    $(BIN)/python -m benchmarks.$$name $(BENCH_ARGS); done

# Pools, limits, automation and the deployments of prefect.yaml, on the server in PREFECT_API_URL.
deploy: $(INSTALLED)
	$(BIN)/python -m flows.deploy

# Server, pools, worker, deployments and two runs on loopback, stopped again at the end; the second run
# finds everything cached. DEPLOY_ARGS=--hold leaves the server up to look at.
DEPLOY_CONFIG ?= configs/quick.yaml
deploy-local: $(INSTALLED)
	HF_HUB_OFFLINE=1 $(BIN)/python -m flows.deploy --local --config $(DEPLOY_CONFIG) $(DEPLOY_ARGS)
