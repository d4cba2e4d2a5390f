# Everything here makes its own virtual environment first; nothing needs to be installed before but Python 3.11+.
PYTHON ?= python3
VENV ?= .venv
DEVICE ?= cuda
BIN := $(VENV)/bin
export NO_MKDOCS_2_WARNING = 1
STAMP := $(VENV)/.installed
# As many processes as cores, up to four (each takes up to two GiB); their tensors are small, so one thread each.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n logical --maxprocesses 4 --dist loadfile

.PHONY: demo test test-slow lint types docs docs-serve bench bench-gpu clean

demo: $(STAMP)  ## set-up, data, training, evaluation and figures, about ten minutes on two cores
	$(BIN)/genpolicy demo --out demo

test: $(STAMP)  ## set-up and the default test suite
	$(PYTEST)

test-slow: $(STAMP)  ## learning and robustness tests of minutes
	$(PYTEST) -m slow

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP)
	$(BIN)/pyright --pythonpath $(BIN)/python

docs: $(STAMP)
	$(BIN)/mkdocs build --strict

docs-serve: $(STAMP)
	$(BIN)/mkdocs serve

bench: $(STAMP)  ## speed and memory, tables written to benchmarks/results/speed; K="update or seeds" chooses
	mkdir -p .benchmarks
	$(BIN)/python -m pytest benchmarks/speed --benchmark-enable --benchmark-json=.benchmarks/cpu.json -o addopts= -k "$(K)"

bench-gpu: $(STAMP)  ## speed of training on a CUDA device (DEVICE=cpu tries it without), beside the same update in JAX
	mkdir -p .benchmarks
	DEVICE=$(DEVICE) $(BIN)/python -m pytest benchmarks/speed/test_device.py benchmarks/speed/test_jax.py \
		--benchmark-enable --benchmark-json=.benchmarks/$(if $(filter cpu,$(DEVICE)),tried,gpu).json -o addopts= -k "$(K)"

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(None if sys.version_info >= (3, 11) else "genpolicy needs Python 3.11 or newer; name one: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --upgrade pip
	$(BIN)/python -m pip install -c constraints.txt -e '.[dev,docs,d4rl,minari,tensorboard,video,toy,export,bench,ray,slurm,jax]'
	touch $(STAMP)

clean:
	rm -rf $(VENV) demo site build dist
