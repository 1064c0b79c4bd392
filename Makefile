# `make verify` and `make test` set up what they need and can be run again at any time.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
OUT ?= out
READY := $(VENV)/ready

# XLA runs factorisations of a batch side by side; threads inside each would only compete.
export OPENBLAS_NUM_THREADS ?= 1

PIP := $(BIN)/python -m pip --disable-pip-version-check

.PHONY: verify test test-all test-peers coverage lint types figures docs bench lock clean

verify: $(READY)  ## environment if needed, then the main job: check every claim
	$(BIN)/jaxprompt check --profile quick --out $(OUT)

# A module stays on one process: its tests share what JAX compiled.
test: $(READY)  ## environment if needed, then the default tests
	$(BIN)/python -m pytest -n 2 --dist loadscope

test-all: $(READY)  ## the slow tests too
	$(BIN)/python -m pytest -n 2 --dist loadscope -m "slow or not slow"

coverage: $(READY)  ## which lines of the package all tests and the main job reach (an hour and more)
	$(BIN)/python -m pip install --disable-pip-version-check --quiet coverage
	rm -f .coverage .coverage.*
	$(BIN)/python -m coverage run -m pytest -m "slow or not slow"
	$(BIN)/python -m coverage run -m jaxprompt check --profile quick --falsify --out $(OUT)
	$(BIN)/python -m coverage combine --quiet
	$(BIN)/python -m coverage report

test-peers: $(READY)  ## installs PEFT, transformers, PyTorch, scikit-learn; compares with them
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --no-build-isolation --editable ".[peers]"
	$(BIN)/python -m pytest tests/peers

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-cache

types: $(READY)
	$(BIN)/pyright --pythonpath $(BIN)/python

figures: $(READY)  ## the committed figures, from new simulations with seed 0
	$(BIN)/jaxprompt figure --out figures

docs: $(READY)  ## the documentation site, into site/ (opens from the disk)
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --no-build-isolation --editable ".[docs]"
	$(BIN)/python -m mkdocs build --quiet
	@echo open site/index.html

bench: $(READY)
	$(BIN)/python benchmarks/error_curve.py
	$(BIN)/python benchmarks/grid.py
	$(BIN)/python benchmarks/random_numbers.py
	$(BIN)/python benchmarks/long_curve.py
	$(BIN)/python benchmarks/sgd_chain.py
	$(BIN)/python benchmarks/universal_head.py
	$(BIN)/python benchmarks/training_step.py
	$(BIN)/python benchmarks/import_time.py

# Hashes are checked for every package; the project itself is installed in place on top. What is
# installed already is not looked for again, so a second run needs no network.
$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
	  { $(call say,Python 3.11 or newer is needed and $(PYTHON) is not: make PYTHON=python3.11); }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || \
	  { $(call say,$(PYTHON) lacks its venv module: install it (Debian: apt install python3-venv)); }
	@echo "1/3 an environment of its own in $(VENV)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || \
	  { $(call say,no environment could be made in $(VENV): make room or choose VENV=FOLDER); }
	@echo "2/3 packages of requirements.lock (about 1 GB when all are new; some minutes)"
	@( while sleep 4; do echo "    still installing: $$(du -sm $(VENV) | cut -f1) MB are there"; done ) & beat=$$!; \
	  trap 'kill $$beat 2>/dev/null' EXIT INT TERM; \
	  $(PIP) install --quiet --require-hashes -r requirements.lock || \
	  { $(call say,packages could not be installed: see the line above; check network and disk); }
	@echo "3/3 jaxprompt itself, in place"
	@$(PIP) install --quiet --no-index --no-deps --no-build-isolation --editable . || \
	  { $(call say,jaxprompt could not be installed: see the line above); }
	@touch $@

say = echo "make: $(strip $(1))" >&2; exit 1

lock:  ## renew requirements.lock (needs uv)
	uv pip compile pyproject.toml --extra dev --universal --python-version 3.11 --upgrade \
	  --generate-hashes --no-emit-index-url --no-emit-find-links --no-annotate --no-header \
	  --quiet --output-file requirements.lock

clean:
	rm -rf $(VENV) $(OUT) site .pytest_cache .ruff_cache
