# Every target makes .venv once, and reuses it until pyproject.toml or constraints.txt change.
#
#   make PYTHON=/path/to/python3.12 test     another Python, 3.11 or newer (for a new .venv)
#   PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu make demo
#                                            the small, CPU-only build of torch on Linux

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test check format bench clean

BIN := .venv/bin
STAMP := .venv/installed
# A name on the PATH proves nothing (version managers leave shims, Debian splits ensurepip off): each one is asked.
PYTHON ?= $(shell for name in python3.11 python3.12 python3.13 python3.14 python3 python; do \
	"$$name" -c 'import ensurepip, sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo "$$name" && break; done)

help:  ## list the targets
	@sed -n 's/^\([a-z]*\):.*## /make \1|/p' $(MAKEFILE_LIST) | awk -F'|' '{ printf "%-12s %s\n", $$1, $$2 }'

$(STAMP): pyproject.toml constraints.txt
	@$(BIN)/python -c 'import pip, sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
		python="$(PYTHON)"; \
		test -n "$$python" || { echo "make: no Python 3.11 or newer with venv found; say which: make PYTHON=/path/to/python3.11" >&2; exit 1; }; \
		echo "making .venv with $$python (once; the libraries take a few minutes to install)"; \
		"$$python" -m venv --clear .venv; }
	$(BIN)/python -m pip install --disable-pip-version-check -e ".[dev]" -c constraints.txt
	@touch $@

demo: $(STAMP)  ## convert, train, kill, resume, compare: pictures and a table in demo/
	$(BIN)/python -m minibatch.tools.demo --out demo

# The kernels again without the JIT (the same golden values from plain Python), and with bounds checks. The latter needs
# an empty cache: Numba does not check the bounds of what it finds compiled.
test: $(STAMP)  ## every test and every example in README and docstrings; the kernels three ways
	$(BIN)/python -m pytest
	NUMBA_DISABLE_JIT=1 $(BIN)/python -m pytest -m kernels tests/minibatch
	cache=$$(mktemp -d) && trap 'rm -rf "$$cache"' EXIT && \
		NUMBA_BOUNDSCHECK=1 NUMBA_CACHE_DIR="$$cache" $(BIN)/python -m pytest -m kernels tests/minibatch

check: $(STAMP)  ## lint, format and types, without changing anything
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(STAMP)  ## rewrite the sources in the project's format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(STAMP)  ## measure speed against plain alternatives in one run (use an idle machine)
	$(BIN)/minibatch bench

clean:  ## remove what the other targets made, all but .venv
	rm -rf build dist demo *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage htmlcov
	find . -path ./.venv -prune -o -path ./.git -prune -o -type d -name __pycache__ -exec rm -rf {} +
