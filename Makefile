# The everyday commands. Each works from a clean clone; what is already installed is kept.
#
#   make demo           fit and predict the Hipparcos stars through the Prefect flows
#   make test           the fast tests and their coverage, 7 minutes on two cores
#   make coverage       which lines the last `make test` has not run
#   make test-slow      the other tests: slow ones, and faults with the smaller counts
#   make test-faults    the fault tests with the larger counts
#   make test-browser   reports in a real Chromium: apt-get install chromium chromium-driver
#   make test-postgres  the deployment tests with Prefect's history in PostgreSQL
#   make test-lowest    most fast tests with the oldest versions allowed
#   make test-all       everything that must hold before a change lands, 30 minutes on two cores
#   make docs           the documentation site, docs/_build/html, 1 minute
#   make bench          the benchmarks, most of an hour on two idle cores
#   make peers          oneDAL, scikit-learn, pomegranate and Spark beside ours, 15 minutes
#   make billion        a billion rows written, fitted and predicted: 43 GB of disk
#   make lint           formatting, style, types and the architecture
#   make format         rewrite the sources to the project's formatting
#   make clean          remove the environment and the demo's files
#
# PYTHON=python3.12 chooses the interpreter (3.11 or newer) that the environment is made from.
# SPREAD= runs the tests one after the other in one process, instead of on the cores.

PYTHON ?= $(firstword $(foreach python,python3 python3.14 python3.13 python3.12 python3.11, \
	$(shell $(python) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	&& echo $(python))))
BIN := .venv/bin
DEMO := .venv/installed-demo
DOCS := .venv/installed-docs
TEST := .venv/installed-test
# Most tests keep one core busy. More than four processes would mostly start servers and clusters:
# each has its own. One that has no test left takes half of another's.
SPREAD ?= -n logical --maxprocesses 4 --dist worksteal
RUN ?= configs/hipparcos.toml
ROWS ?= 1_000_000_000
BENCHMARKS ?= kernel fit pipeline overhead memory startup scale many

.DEFAULT_GOAL := help
.PHONY: help demo test coverage test-slow test-faults test-browser test-postgres test-lowest \
	test-all docs bench peers billion lint format clean

help:
	@sed -n 's/^#   //p' Makefile

# The demo keeps Prefect's database beside its other files, not in the home directory.
demo: export PREFECT_HOME := $(CURDIR)/demo/prefect
demo: $(DEMO)
	$(BIN)/python examples/hipparcos.py demo/hipparcos
	$(BIN)/gmm-dask fit $(RUN)
	$(BIN)/gmm-dask predict $(RUN)

# Fails below the floor that pyproject.toml sets for the coverage.
test: $(TEST)
	$(BIN)/python -m pytest $(SPREAD) --cov --cov-report= \
		-m "not slow and not faults and not browser"
	$(BIN)/python -m coverage report --format=total

coverage: $(TEST)
	$(BIN)/python -m coverage report --show-missing --skip-covered

test-slow: $(TEST)
	$(BIN)/python -m pytest $(SPREAD) -m "slow or faults"

test-faults: $(TEST)
	GMM_DASK_FAULT_ROUNDS=large $(BIN)/python -m pytest $(SPREAD) -m faults

test-browser: $(TEST)
	$(BIN)/python -m pytest -m browser

test-postgres: $(TEST)
	tests/pipelines/postgres.sh

# What .ci/run runs once it has installed a browser. Each line that begins with == says how long.
test-all: $(TEST)
	@began=$$(date +%s); \
	for target in lint test test-slow test-browser test-lowest docs demo; do \
		echo "== $$target"; start=$$(date +%s); \
		$(MAKE) --no-print-directory $$target || exit 1; \
		echo "== $$target: $$(($$(date +%s) - start)) s"; \
	done; \
	echo "== all: $$(($$(date +%s) - began)) s"

# Every example runs, a warning is an error, and so is a link that leads nowhere.
docs: $(DOCS)
	$(BIN)/python -m sphinx --builder html --fail-on-warning --keep-going --quiet \
		--doctree-dir docs/_build/doctrees docs docs/_build/html
	$(BIN)/python docs/check_links.py docs/_build/html

# benchmarks/release.py, on data larger than memory, is left to whoever makes a release.
bench: $(TEST)
	for name in $(BENCHMARKS); do $(BIN)/python benchmarks/$$name.py || exit 1; done

# Each library gets an environment of its own, once: benchmarks/peers.py says how large they are.
peers: $(TEST)
	$(BIN)/python benchmarks/peers.py

# ROWS=20_000_000 is a smaller one, DIRECTORY= names a larger disk.
billion: $(TEST)
	$(BIN)/python benchmarks/billion.py --rows $(ROWS) $(if $(DIRECTORY),--directory $(DIRECTORY))

lint: $(TEST)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/test_architecture.py

format: $(TEST)
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

clean:
	rm -rf .venv .venv-lowest demo docs/_build docs/gallery

.venv/bin/python:
	@test -n "$(PYTHON)" || { \
		echo "no Python 3.11 or newer found; name one: make PYTHON=/path/to/python" >&2; exit 1; }
	$(PYTHON) -m venv .venv || { rm -rf .venv; exit 1; }

# A stamp is newer than pyproject.toml when what that file asks for is installed. The tests'
# packages include the demo's, so the demo installs nothing after them.
$(DEMO): pyproject.toml | .venv/bin/python
	test $(TEST) -nt pyproject.toml || $(BIN)/python -m pip install --quiet --editable '.[demo]'
	touch $@

$(DOCS): pyproject.toml | .venv/bin/python
	$(BIN)/python -m pip install --quiet --editable '.[demo,docs]'
	touch $@

$(TEST): pyproject.toml | .venv/bin/python
	$(BIN)/python -m pip install --quiet --editable '.[demo,test,lint]'
	touch $@

# The tests with the oldest versions that pyproject.toml allows, in an environment of their own.
# Old packages warn of their own age: those warnings are no errors here. The README's commands are
# left out to save time: tests/pipelines runs them too.
test-lowest: .venv/bin/python
	test -d .venv-lowest || $(PYTHON) -m venv .venv-lowest
	$(BIN)/python .ci/lowest.py > .venv-lowest/requirements.txt
	.venv-lowest/bin/python -m pip install --quiet --requirement .venv-lowest/requirements.txt
	.venv-lowest/bin/python -m pip install --quiet --no-deps --editable .
	NUMBA_CACHE_DIR=$(CURDIR)/.venv-lowest/numba .venv-lowest/bin/python -m pytest \
		$(SPREAD) -m "not slow and not faults and not browser" \
		--ignore=tests/docs \
		-W ignore::DeprecationWarning -W ignore::FutureWarning -W ignore::PendingDeprecationWarning
