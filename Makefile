# `make dryrun` shows the whole product at work; `make test` and `make test-slow` run every test that needs no cluster.
# PYTHON=/path/to/python3 chooses the interpreter that .venv is made with (3.11 to 3.13).
BIN := .venv/bin
# A file's tests stay in one process, which makes what they share once. Four processes keep two cores busy: for almost
# half of its time one waits for servers and jobs that it started. tests/conftest.py orders the files.
PYTEST := $(BIN)/pytest -n 4 --dist loadfile --no-loadscope-reorder tests/integration tests/unit

# Tests start some hundred Python processes, each of which would compile the package again.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: dryrun test test-slow coverage fuzz lint types docs lock images kind-up kind-dryrun kind-down clean
.DELETE_ON_ERROR:

dryrun: .venv/made-from ; $(BIN)/llava-av dryrun --output-dir dryrun-outputs

test: .venv/made-from ; $(PYTEST) -m "not slow"

test-slow: .venv/made-from ; $(PYTEST) -m slow

# The tests of `make test` with branch coverage, which takes half as much time again.
coverage: .venv/made-from ; $(PYTEST) -m "not slow" --cov --cov-report term

# Read damaged files for SECONDS; each must end with a result or a one-line error.
fuzz: .venv/made-from ; $(BIN)/python -W ignore -m tests.fuzz.run --seconds $(or $(SECONDS),60)

lint: .venv/made-from ; $(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/lint-imports --no-logo

types: .venv/made-from ; $(BIN)/mypy

# The documentation site in build/docs; a broken link ends it with an error.
docs: .venv/made-from ; $(BIN)/zensical build --clean --strict

lock: .venv/made-from ; requirements/lock.sh

# docs/images.md describes its variables, such as: make images REGISTRY=registry.example.org/team PUSH=yes
images: ; images/build $(IMAGES)

# docs/kubernetes.md describes these and their variables; with KUBECONFIG they use the cluster that it names.
kind-up: ; k8s/kind/up

kind-dryrun: .venv/made-from ; k8s/kind/dryrun

kind-down: ; k8s/kind/down

clean: ; rm -rf .venv build dist *.egg-info .cache .coverage* .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache

.venv/made-from: requirements/lock.txt requirements/build.txt requirements/bootstrap.txt pyproject.toml
	@PYTHON="$(PYTHON)" requirements/venv.sh && touch $@
