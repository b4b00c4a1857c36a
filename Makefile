# make demo · test · lint · step0 … step5, step7 · bench · score. demo and test set themselves up.
# Step 6 takes files: python network_model/reconstruct.py FIELD MASK -o CHI.
PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
STAMP := $(VENV)/.requirements
CONFIG ?=
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help setup demo test lint bench score step0 step1 step2 step3 step4 step5 step7 qsm-ci-entry

help:
	@echo "make setup | demo | test | lint | bench | score | qsm-ci-entry [ARGS='key=value']"
	@echo "make step0 ... step5 | step7 [CONFIG=configs/demo] [ARGS='key=value']"
	@echo "python network_model/reconstruct.py FIELD MASK -o CHI   (step 6)"

$(STAMP): requirements.txt pyproject.toml
	@test -x $(PY) || $(PYTHON) -m venv $(VENV)
	$(PY) -m pip install -q --disable-pip-version-check -r requirements.txt
	@touch $@

setup: $(STAMP)

lint: setup
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

test: lint
	$(PY) -m pytest

# A step with the config of the same name below CONFIG, if CONFIG is set.
run = $(PY) $(1) $(if $(CONFIG),$(wildcard $(CONFIG)/$(2).py)) $(ARGS)
step0: setup ; $(call run,training_data/genPhantom.py,step0_genPhantom)
step1: setup ; $(call run,training_data/genChi.py,step1_genChi)
step2: setup ; $(call run,training_data/qsmFmapCal_gpu.py,step2_qsmFmapCal)
step3: setup ; $(call run,genRDFPatchesSyn.py,step3_genRDFPatchesSyn)
step4: setup ; $(call run,network_model/train_model/train.py,step4_train)
step5: setup ; $(call run,network_model/model_finetune/train.py,step5_model_finetune)
step7: setup ; $(call run,network_model/evaluate.py,step7_evaluate)

demo: CONFIG := configs/demo
demo: setup
	$(call run,training_data/genPhantom.py,step0_genPhantom)
	$(call run,training_data/genChi.py,step1_genChi)
	$(call run,training_data/qsmFmapCal_gpu.py,step2_qsmFmapCal)
	$(call run,genRDFPatchesSyn.py,step3_genRDFPatchesSyn)
	$(call run,network_model/train_model/train.py,step4_train)
	$(call run,network_model/model_finetune/train.py,step5_model_finetune)
	$(call run,network_model/evaluate.py,step7_evaluate)
	@echo "The map, its scores and pictures: runs/demo/5_finetune and runs/demo/7_evaluate"

bench: setup
	$(PY) benchmarks/bench.py $(ARGS)

score: setup
	$(PY) network_model/scorecard.py $(ARGS)

# The folder that the QSM-CI platform takes; ARGS='weightsFile=FILE dstFolder=FOLDER' if need be.
qsm-ci-entry: setup
	$(PY) qsm-ci/build.py $(ARGS)
