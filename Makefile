# Two commands do the main things, each with all the set-up that it needs:
#   make demo   search on real digits, retrain the result, write a report
#   make test   lint, type-check and test
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
KILLS ?= 200
SEED ?= 1
NATIVE := $(wildcard src/archgrad/fast/native/*.hpp src/archgrad/fast/native/*.cpp)

.PHONY: help demo test lint types unit results bench soak fuzz docs dist clean

help:
	@echo "make demo    search on real digits, retrain the result, write a report (about 3 minutes on 2 cores)"
	@echo "make test    lint, type-check and test"
	@echo "make lint types unit   the parts of make test"
	@echo "make results make the tables of docs/results.md again from studies/results"
	@echo "make bench   time a search step, plain and fast"
	@echo "make docs    build the documentation into site/"
	@echo "make dist    build a wheel with compiled kernels and a source archive into dist/, and try both"
	@echo "make soak    kill 200 real runs, resume them, and compare them with runs that nobody killed (KILLS=1000 for more)"
	@echo "make fuzz    read 10,000 hostile files: run folders, checkpoints, data, models (SEED=1); change networks at random"
	@echo "make clean   remove $(VENV), site and what tools cache"

$(READY): pyproject.toml setup.py $(NATIVE)
	@echo "== installing archgrad and its tools into $(VENV) (a few minutes the first time)"
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[dev]"
	@touch $@

demo: $(READY)
	@echo "== search, retrain, report on scikit-learn's digits"
	$(BIN)/python examples/demo.py --out runs/demo

# Types and tests at the same time: each leaves a core idle now and then.
test: lint
	@$(MAKE) --no-print-directory --jobs 2 types unit

lint: $(READY)
	@echo "== lint"
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY)
	@echo "== types"
	$(BIN)/mypy

unit: $(READY)
	@echo "== tests"
	$(BIN)/python -m pytest -n 2 --dist worksteal --durations 10

soak: $(READY)
	@echo "== $(KILLS) kills of real runs"
	CUDA_VISIBLE_DEVICES= OMP_NUM_THREADS=1 $(BIN)/python tests/faults/campaign.py --kills $(KILLS) --seed $(SEED)

fuzz: $(READY)
	@echo "== changes of networks, many more of them than in the tests (ten minutes)"
	ARCHGRAD_DRAWS=300 $(BIN)/python -m pytest tests/fast/test_modifications.py tests/fast/test_derived_modifications.py
	@echo "== 10,000 hostile files (five minutes); what breaks a law is kept in runs/fuzz"
	CUDA_VISIBLE_DEVICES= OMP_NUM_THREADS=1 $(BIN)/python tests/faults/fuzz.py --inputs 10000 --seed $(SEED)

results: $(READY)
	$(BIN)/python studies/make_page.py

bench: $(READY)
	$(BIN)/python benchmarks/search_step.py

docs: $(READY)
	@echo "== documentation"
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo "open site/index.html in a browser"

# Without network: the tools that build are those of the virtual environment. Wheels that run on any Linux are built by
# cibuildwheel, whose settings are in pyproject.toml.
dist: $(READY)
	@echo "== wheel and source archive"
	rm -rf dist build
	$(BIN)/python -c "import setuptools.build_meta as b; print(b.build_sdist('dist')); print(b.build_wheel('dist'))"
	$(BIN)/python .ci/try_dist.py dist

clean:
	rm -rf $(VENV) site dist build .pytest_cache .mypy_cache .ruff_cache .hypothesis
