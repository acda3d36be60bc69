# Two commands do all set-up by themselves: `make run` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: run test lint bench clean linux-demo test-linux campaign score hunt

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

# Slow searches (docs/checker-bounds.md, docs/museum.md); each goes on where it was interrupted, but for the hunt.
campaign: $(VENV)/installed
	for rules in linux-6.12 linux-7.2; do \
	  $(BIN)/shadowmmu check --rules $$rules --operations 110000000 --resume build/campaign-$$rules.plan || exit; done

score: $(VENV)/installed
	$(BIN)/shadowmmu museum --score

hunt: $(VENV)/installed
	mkdir -p build && $(BIN)/python tests/checker/patched.py combine build/broken.py
	SHADOWMMU_PATCH=build/broken.py $(BIN)/python tests/checker/patched.py hunt 60

clean:
	rm -rf $(VENV) build *.egg-info src/*.egg-info .pytest_cache .mypy_cache .ruff_cache
