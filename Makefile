# Two commands: `make quickstart` shows the main job on embedded data, `make test` passes the tests.
# PYTHON chooses the interpreter, PIP_FLAGS go to every pip install (such as another index).
PYTHON ?= python3
VENV ?= .venv
PIP_FLAGS ?=
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_FLAGS) -c requirements/constraints.txt
# OpenCV with windows needs libGL, which a bare machine lacks; the headless build does not.
HEADLESS := $(INSTALL) --force-reinstall --no-deps opencv-python-headless

QUICK_CONFIG := configs/mini/lora_nano_vit.py
QUICK_TASK := sprite_count
QUICK_DIR := work_dirs/quickstart

.PHONY: quickstart test lint docs clean

$(VENV)/.runtime: setup.py requirements/runtime.txt requirements/constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(INSTALL) -e .
	$(BIN)/python -c "import cv2" 2>/dev/null || $(HEADLESS)
	touch $@

$(VENV)/.tests: $(VENV)/.runtime requirements/tests.txt
	$(INSTALL) -e .[tests]
	$(BIN)/python -c "import cv2" 2>/dev/null || $(HEADLESS)
	touch $@

$(VENV)/.docs: requirements/docs.txt requirements/constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(INSTALL) -r requirements/docs.txt
	touch $@

quickstart: $(VENV)/.runtime
	$(BIN)/python tools/train.py $(QUICK_CONFIG) --task $(QUICK_TASK) --work-dir $(QUICK_DIR)
	$(BIN)/python tools/merge.py $(QUICK_CONFIG) $(QUICK_DIR)/adapter.safetensors $(QUICK_DIR)/merged.safetensors --task $(QUICK_TASK)
	$(BIN)/python tools/test.py $(QUICK_CONFIG) $(QUICK_DIR)/adapter.safetensors --task $(QUICK_TASK) --work-dir $(QUICK_DIR)

# --slow runs everything; leave it out with `make test PYTEST_FLAGS=` for the quick part.
PYTEST_FLAGS ?= --slow -n logical
test: $(VENV)/.tests lint
	$(BIN)/python -m pytest $(PYTEST_FLAGS)

lint: $(VENV)/.tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# The pages of docs/ as a site in site/; a broken link, anchor or reference fails. It reads the package without importing it.
docs: $(VENV)/.docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

clean:
	rm -rf $(VENV) work_dirs build site *.egg-info
