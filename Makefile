# make demo, make test: each does all its own set-up in .venv and reuses it afterwards.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo test test-all lint bench setup clean

demo: $(READY)
	$(BIN)/irstd demo

# Two processes side by side; what starts Ray, Prefect and MLflow stays together in one of them (tests/conftest.py).
SIDE_BY_SIDE := -n 2 --dist loadfile --no-loadscope-reorder

test: $(READY)
	$(BIN)/python -m pytest -m "not slow" $(SIDE_BY_SIDE)

test-all: test
	$(BIN)/python -m pytest -m slow $(SIDE_BY_SIDE)

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

bench: $(READY)
	$(BIN)/irstd bench shard
	$(BIN)/irstd bench loader
	$(BIN)/irstd bench train
	$(BIN)/irstd bench infer
	$(BIN)/irstd bench detect
	$(BIN)/irstd bench doctor
	$(BIN)/irstd bench models

setup: $(READY)

# The lock names the whole closure by version; it constrains the install, so the same pins bring a CUDA build of torch on
# machines where the index offers one.
$(READY): pyproject.toml requirements.lock
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11) and "irstd needs Python 3.11: make PYTHON=python3.11 $(MAKECMDGOALS)")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing what requirements.lock pins into $(VENV): about 5 GB, five to ten minutes in which pip says nothing"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c requirements.lock -e '.[dev]'
	touch $(READY)

clean:
	rm -rf $(VENV) .pytest_cache .ruff_cache build *.egg-info
