# Two commands do all set-up by themselves: `make run` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: run test lint bench clean linux-demo test-linux

$(VENV)/installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet -e '.[dev]'
	touch $@

run: $(VENV)/installed
	$(BIN)/shadowmmu run

test: $(VENV)/installed
	$(BIN)/ruff check src tests
	$(BIN)/mypy src/shadowmmu
	$(BIN)/python -m pytest -n 2 --dist loadgroup

lint: $(VENV)/installed
	$(BIN)/ruff check src tests
	$(BIN)/mypy src/shadowmmu

bench: $(VENV)/installed
	$(BIN)/shadowmmu bench

# A stock Debian kernel, fetched with apt into build/ (demos/linux/run.py).
linux-demo: $(VENV)/installed
	$(BIN)/python demos/linux/run.py

test-linux: $(VENV)/installed
	$(BIN)/python demos/linux/run.py --all --quiet

clean:
	rm -rf $(VENV) build *.egg-info src/*.egg-info .pytest_cache .mypy_cache .ruff_cache
