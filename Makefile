# `make run` and `make test` each work first, alone, in a fresh clone; `make help` lists the rest.
# Paths are relative throughout, so that the folder's name may hold a space.

NOTEBOOK := MZ_VAE_Assignment.ipynb
PY       := .venv/bin/python
READY    := .venv/ready

# The first Python that runs and that numpy<2.0 has wheels for: one that is merely on the PATH may not start.
SUITS    := import ensurepip, sys, venv; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))
PYTHON   ?= $(firstword $(foreach p,python3.12 python3.11 python3.10 python3 python,\
              $(shell $(p) -c '$(SUITS)' 2>/dev/null && echo $(p))))

# glibc keeps memory that is freed, where it would give it back and have it cleared again: a twentieth of the time.
run test: export MALLOC_TRIM_THRESHOLD_ = 4294967296
run test: export MALLOC_MMAP_THRESHOLD_ = 4294967296

.PHONY: help sample run test lint full html pdf clean
.DELETE_ON_ERROR:

help:  ## what there is to make
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-6s %s\n", $$1, $$2 }' Makefile

sample: $(READY)  ## write samples.png, a sheet of samples of the weights that lie here
	@$(PY) -m lab sample

run: $(READY)  ## execute the notebook quickly (1 epoch, few images) into runs/quick/
	@$(PY) -m lab run

test: lint  ## everything that CI runs
	@$(PY) -m pytest

lint: $(READY)  ## ruff over the modules, the tests and the notebook
	@$(PY) -m ruff check .

full: $(READY)  ## the real run: execute the notebook in place and clean its outputs (hours)
	@$(PY) -m lab full

html: $(READY)  ## export the notebook to one HTML file that opens without network
	@$(PY) -m lab html

pdf: $(READY)  ## print that file as a PDF, with the Chrome, Chromium or Edge that is installed
	@$(PY) -m lab pdf

clean:  ## remove the quick run, the HTML, the PDF and caches; keep .venv, data and trainings
	rm -rf runs/quick $(NOTEBOOK:.ipynb=.html) $(NOTEBOOK:.ipynb=.pdf) .pytest_cache .ruff_cache
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +

# Removed first and made last: an install that was interrupted starts afresh, a changed requirements.txt upgrades.
$(READY): requirements.txt
	@test -e $@ || "$(PYTHON)" -c '$(SUITS)' 2>/dev/null || { echo "This project needs Python 3.10, 3.11 or 3.12 with its\
	 venv module, because numpy<2.0 has no wheels for newer versions: install one, or name it, as in\
	 make run PYTHON=path/to/python3.12." >&2; exit 1; }
	@test -e $@ || "$(PYTHON)" -m venv --clear .venv
	@rm -f $@
	@echo "Installing requirements.txt into .venv (on Linux PyTorch brings several GB of CUDA libraries)."
	@$(PY) -m pip install --disable-pip-version-check --requirement requirements.txt
	@$(PY) -m pip check
	@$(PY) -c 'import torchvision' || { echo "torchvision does not fit the torch that pip installed:\
	 install both from one source, and run make again." >&2; exit 1; }
	@touch $@
