# make install   set up .venv; the others do so, too
# make demo   train, calibrate, label and report on a corpus made on the spot (no GPU, no data needed)
# make test   everything CI runs
# make unit   the tests that need no Ray
# make test-oldest   those that need it, with the oldest Ray, torch and transformers that pyproject.toml takes
# make docs   the documentation as a site, in build/site
# make lint   ruff and mypy

PYTHON ?= python3
BIN := .venv/bin
DEMO := build/demo
PARALLEL := --numprocesses 2 --dist loadfile --no-loadscope-reorder --durations=15
# Two processes of tests, and their children, share the cores: threads that wait are not to keep one busy.
export OMP_WAIT_POLICY := PASSIVE
# Tests whose numbers depend on the processor's instructions, once more as on one without AVX-512.
NUMERIC := tests/test_attention.py tests/test_engine.py tests/test_linear.py tests/test_ranges.py tests/test_training.py \
    tests/test_uncertainty.py
OLD_PROCESSOR := ONEDNN_MAX_CPU_ISA=AVX2 ATEN_CPU_CAPABILITY=avx2
DEMO_TRAINING := --epochs 2 --distil-epochs 3

# On Ray, in an environment of their own.
OLDEST := build/oldest
ON_RAY := tests/test_calibrate.py tests/test_commands.py tests/test_faults.py tests/test_label.py tests/test_submit.py \
    tests/test_surroundings.py tests/test_train.py

.PHONY: install demo test test-oldest unit docs lint clean

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[dev]"
	touch $@

install: .venv/installed

$(DEMO)/checkpoint/config.json: .venv/installed demo/corpus.py
	rm -rf $(DEMO)
	$(BIN)/python demo/corpus.py $(DEMO)/corpus
	$(BIN)/fastbert train --train $(DEMO)/corpus/train --dev $(DEMO)/corpus/dev \
	    --output $(DEMO)/checkpoint $(DEMO_TRAINING)
	$(BIN)/fastbert calibrate --model $(DEMO)/checkpoint --corpus $(DEMO)/corpus/tickets \
	    --max-disagreement 0.02 --rows 1500

demo: $(DEMO)/checkpoint/config.json
	$(BIN)/fastbert label --input $(DEMO)/corpus/tickets --output $(DEMO)/labels \
	    --model $(DEMO)/checkpoint --audit-rate 0.1 --slice-rows 500
	@echo "--- the same command again: nothing to do"
	$(BIN)/fastbert label --input $(DEMO)/corpus/tickets --output $(DEMO)/labels \
	    --model $(DEMO)/checkpoint --audit-rate 0.1 --slice-rows 500
	$(BIN)/fastbert report --output $(DEMO)/labels --html $(DEMO)/report.html --title "Support tickets" \
	    --least-certain 3 --text-from $(DEMO)/corpus/tickets

test: .venv/installed
	$(BIN)/python -m pytest $(PARALLEL)
	$(OLD_PROCESSOR) $(BIN)/python -m pytest $(PARALLEL) $(NUMERIC)

$(OLDEST)/installed: pyproject.toml constraints-oldest.txt
	$(PYTHON) -m venv $(OLDEST)
	$(OLDEST)/bin/pip install --quiet --constraint constraints-oldest.txt --editable ".[dev]"
	touch $@

test-oldest: $(OLDEST)/installed
	$(OLDEST)/bin/python -m pytest $(PARALLEL) $(ON_RAY)

unit: .venv/installed
	$(BIN)/python -m pytest $(PARALLEL) -m "not integration"

# The variable turns off an advertisement that mkdocs-material prints.
docs: .venv/installed
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf build
