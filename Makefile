# make demo: from nothing to a classifier inside 128 KB and its first decisions. make test: lint, types, tests.
PYTHON ?= python3
BIN := .venv/bin
HELD_OUT := train/recordings/audio/4-185575-A-20.ogg

.PHONY: demo test shipped check-all check-runtimes check-hostile check-live clean docs/report.png

$(BIN)/.installed: pyproject.toml
	$(PYTHON) -m venv .venv
	@echo "installing into .venv (torch is 200 MB to fetch, a few minutes)"
	$(BIN)/python -m pip install --quiet torch==2.13.0
	$(BIN)/python -m pip install --quiet --editable '.[train,export,search,audio,dev]'
	touch $@

demo: $(BIN)/.installed
	$(BIN)/python -m compress.cnn7 --budget 128kb --epochs 60  # 40 fewer than by default, to stay short
	$(BIN)/python -m runtime.stream --bundle bundles/cnn7 --wav $(HELD_OUT)
	@echo
	@echo "made bundles/cnn7. $(HELD_OUT) above was not trained on."
	@echo "next: $(BIN)/python -m runtime.stream --bundle bundles/cnn7 --mic"

test: $(BIN)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q

# The bundle that ships, from raw recordings, in hours: make shipped DATA=ESC10. Stopped, it goes on where it was.
DATA ?= train/recordings
TAUGHT := --budget 128kb --taught-by 1mb --data $(DATA)
shipped: $(BIN)/.installed
	$(BIN)/python -m compress.folds $(TAUGHT) --runs runs/shipped
	$(BIN)/python -m compress.cnn7 $(TAUGHT) --fold 0 --runs runs/shipped/all --out bundles/esc10
	$(BIN)/python -m export.rules bundles/esc10 --data $(DATA) --folds runs/shipped
	$(BIN)/python -m compress.levels runs/shipped/fold*/bundle --data $(DATA) --gain -40 -30 -20 -10 0 10 \
		--distance 1 2 4 --out runs/shipped/levels
	$(BIN)/python -m compress.card bundles/esc10 --data $(DATA) --folds runs/shipped --levels runs/shipped/levels/levels.json

# The promise to a device: numpy and one engine are enough. Each engine in an environment of its own.
check-runtimes: $(BIN)/.installed
	sh tests/runtimes.sh

# Ten thousand changes to the files of a bundle: tests/test_hostile.py.
check-hostile: $(BIN)/.installed
	HOSTILE=10000 $(BIN)/python -m pytest -q tests/test_hostile.py

# The picture of the shipped bundle's report, drawn by a real browser.
docs/report.png: $(BIN)/.installed
	mkdir -p build
	$(BIN)/python -m devices.report runtime/bundles/esc10 --html build/report.html > build/report.txt
	chromium --headless --no-sandbox --hide-scrollbars --window-size=900,2500 --screenshot=$@ build/report.html

# Ten minutes of recordings through a virtual microphone; a day and an hour of sound through the stream.
check-live: $(BIN)/.installed
	sh tests/virtual_microphone.sh 10
	$(BIN)/python -m tests.soak 24

check-all: test check-runtimes check-hostile check-live

clean:
	rm -rf .venv .venv-* .cache runs bundles build *.egg-info
