# Two commands are all that a newcomer needs: `make demo` and `make test`.
PYTHON ?= python3
BIN := .venv/bin
.DELETE_ON_ERROR:
.PHONY: demo test check slow clean

.venv/.demo: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable .
	touch $@

.venv/.test: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[test]'
	touch $@ .venv/.demo

demo: .venv/.demo
	$(BIN)/geocache demo

check: .venv/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Two processes, a file to one of them: half the time on two cores, and fixtures are made once.
PYTEST := $(BIN)/python -m pytest --numprocesses 2 --dist loadfile

test: check
	$(PYTEST)

slow: .venv/.test
	$(PYTEST) -m slow

clean:
	rm -rf .venv build dist *.egg-info
