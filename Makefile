# Works with nothing but Python >= 3.11, git and make. The virtual environment is .venv unless VENV says otherwise.
PYTHON ?= python3
VENV ?= .venv
OUT ?= demo
RUN = $(VENV)/bin/groundzoo
STAMP = $(VENV)/.installed

.PHONY: demo test lint docs benchmarks clean

# install, make a world, train, test, and ask the trained model about a video it has never seen
demo: export OMP_NUM_THREADS ?= 1  # the demo's network is small: a second thread only waits
demo: $(STAMP)
	$(RUN) toyworld $(OUT)/toyworld
	$(RUN) fit --config tasks/drn_toyworld.yaml $(TOYWORLD) --run_dir $(OUT)/run
	$(RUN) test --config tasks/drn_toyworld.yaml $(TOYWORLD) --ckpt_path $(OUT)/run/checkpoints/best.ckpt
	@video=$$(head -n 1 $(OUT)/toyworld/charades_sta_test.txt | cut -d ' ' -f 1); \
	sed -n "s/^$$video .*##//p" $(OUT)/toyworld/charades_sta_test.txt | tr '\n' '\0' | xargs -0 -t \
	  $(RUN) ground --ckpt $(OUT)/run/checkpoints/best.ckpt --out $(OUT)/grounded $(OUT)/toyworld/videos/$$video.mp4
	@echo "run folder: $(OUT)/run (metrics.json, predictions.jsonl, figures/); answers: $(OUT)/grounded"

TOYWORLD = --data.init_args.root $(OUT)/toyworld --data.init_args.subsets $(OUT)/toyworld/subsets.json

# everything that must hold: lint, types, docs, tests
test: export OMP_NUM_THREADS ?= 1  # several files are tested at once
test: $(STAMP) lint docs
	$(VENV)/bin/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile

lint: $(STAMP)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/python tests/typecheck.py

docs: export NO_MKDOCS_2_WARNING = 1
docs: $(STAMP)
	$(VENV)/bin/mkdocs build --strict --quiet --site-dir $(VENV)/site

benchmarks: $(STAMP)
	$(VENV)/bin/python tests/benchmarks/bench_drn.py

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

clean:
	rm -rf build dist site *.egg-info
