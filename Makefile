# The names of these targets are part of the contract (README.md). Nothing here is needed beside git, make and a Python.
PYTHON := .venv/bin/python
.DEFAULT_GOAL := help
.PHONY: help setup run down test lint unit bench-main bench-gateway bench-rag bench-scaling bench-fleet bench-placement bench-fit

help: ## Show this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 16

setup: ## Install everything Hearth itself needs into .venv
	@scripts/setup.sh
	@$(PYTHON) scripts/compile_gateway.py --background

run: setup ## Start Hearth on this machine
	@exec $(PYTHON) manage.py up

down: setup ## Drain and stop every replica, and end Hearth
	@exec $(PYTHON) manage.py up --down

test: setup ## Check everything: lint, types, unit, flow and end-to-end tests
	@scripts/test.sh

lint: setup ## Check style, types, import rules and migrations
	@scripts/lint.sh

unit: setup ## Run only the fast tests
	@exec $(PYTHON) -m pytest tests --ignore=tests/e2e -m "not engine and not docker and not browser"

bench-main: setup ## Measure start-up, idle cost, the API and live updates
	@exec $(PYTHON) -m bench.main

bench-gateway: setup ## Measure the gateway against its peers
	@exec $(PYTHON) -m bench.gateway --charts docs/images

bench-rag: setup ## Measure retrieval, ingestion and answers from knowledge bases
	@exec $(PYTHON) -m bench.rag

bench-scaling: setup ## Replay real traffic against every scaling rule (HEARTH_TRACES: where traces are)
	@exec $(PYTHON) -m bench.scaling

bench-fleet: setup ## Measure one control loop over 200 hosts and 1,500 replicas
	@exec $(PYTHON) -m bench.fleet

bench-placement: setup ## Measure placement on 200 simulated hosts
	@exec $(PYTHON) -m bench.placement

bench-fit: setup ## Compare the memory estimate with the real engine
	@exec $(PYTHON) -m bench.fit
