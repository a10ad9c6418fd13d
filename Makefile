# demo: compile and simulate real models. test, test-slow: the tests. check: format, lint, types, layers, house style.
# Needs make, git and python3 with venv; the first target that runs makes the environment in .venv.

PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test test-slow check format clean

demo: .venv/.stamp
	$(BIN)/python examples/demo.py

test: .venv/.stamp
	$(BIN)/python -m pytest -q -n 2 --dist loadfile

test-slow: .venv/.stamp
	$(BIN)/python -m pytest -q -m slow

check: .venv/.stamp
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/test_layers.py tests/test_house_style.py

format: .venv/.stamp
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf .venv build *.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

.venv/.stamp: requirements.lock pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	touch $@
