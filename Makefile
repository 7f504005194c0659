# Everything a developer does, from a clean checkout: `make` alone lists the targets.
# Needed beforehand: python3 with venv; for demo, test, up and check also go, java and mvn (or what the README says to set).

.DEFAULT_GOAL := help
.NOTPARALLEL:

# Text and the names of files are UTF-8 to Python, whatever the locale says. The project itself is not installed: a .pth file is
# read by the locale, and Python does not start where it names a checkout whose path has an é.
export PYTHONUTF8 := 1

UV_VERSION := 0.13.9
UV := .tools/uv-$(UV_VERSION)/bin/uv
PYTHON := .venv/bin/python
TIERS := $(wildcard tests/unit tests/integration tests/acceptance tests/chaos)

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  make %-9s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: .venv/synced  ## play the demo scenario on real parts: timeline, kubectl output, verdict; stops everything at the end
	$(PYTHON) -m demo $(ARGS)

test: .venv/synced  ## all tests that need no container engine; WHAT=path and ARGS="-k name" choose some
	$(PYTHON) -m pytest $(or $(WHAT),$(TIERS)) -m "not long" $(ARGS)

e2e: .venv/synced  ## the scenarios in a kind cluster, with pods; needs Docker and kind; KEEP=1 leaves the cluster, WHAT=path
	@$(PYTHON) -m devenv.kind e2e $(if $(KEEP),--keep) $(WHAT)

floods: .venv/synced  ## floods at their whole size (50,000 records, one user's 20,000, hanging calls, misbehaving downstreams): some 40 minutes
	$(PYTHON) -m pytest tests/acceptance/test_floods.py -rP $(ARGS)

chaos: .venv/synced  ## random load and faults, judged; SEED=7 ROUNDS=200 SECONDS=900 RUNS=1 FAULTS=kill:controller,freeze
	@$(PYTHON) -m tests.chaos $(if $(SEED),--seed "$(SEED)") $(if $(RUNS),--runs "$(RUNS)") \
		$(if $(ROUNDS),--rounds "$(ROUNDS)") $(if $(SECONDS),--seconds "$(SECONDS)") $(if $(RATE),--rate "$(RATE)") \
		$(if $(FAULTS),--faults "$(FAULTS)") $(if $(BRIDGES),--bridges "$(BRIDGES)") \
		$(if $(CONTROLLERS),--controllers "$(CONTROLLERS)")

bench: .venv-bench/synced  ## this project beside Restate and the bare limit, on the same records; WHAT="backlog rate-50" QUICK=1 ARGS=--help
	@.venv-bench/bin/python -m tests.benchmarks $(WHAT) $(if $(QUICK),--quick) $(ARGS)

up: .venv/synced  ## start what is not running and leave it; BRIDGES=2 CONTROLLERS=3 STREAM=path.yaml; then: . .dev/env
	@$(PYTHON) -m devenv up $(if $(BRIDGES),--bridges "$(BRIDGES)") \
		$(if $(CONTROLLERS),--controllers "$(CONTROLLERS)") $(if $(STREAM),--stream "$(STREAM)")

# Both from the command line alone: a login shell has a USER of its own. As variables of the shell they need no quoting.
send: .venv/synced  ## send one record: USER=userid1 VALUE='{"profile": "dev", "permissions": "all", "resources": "all"}'; TOPIC=name
ifeq ($(origin USER)/$(origin VALUE),command line/command line)
	@$(PYTHON) -m devenv send "$$USER" "$$VALUE" $(if $(TOPIC),--topic "$$TOPIC")
else
	@echo "usage: make send USER=userid1 VALUE='{\"profile\": \"dev\", \"permissions\": \"all\", \"resources\": \"all\"}' [TOPIC=user-updates]"; exit 2
endif

down: .venv/synced  ## stop what `make up` started; ports and data stay
	@$(PYTHON) -m devenv down

status: .venv/synced  ## what runs
	@$(PYTHON) -m devenv status

clean: .venv/synced  ## stop it and remove ports, data and logs
	@$(PYTHON) -m devenv clean

check: .venv/synced  ## format, lint, types, import layers, CRDs and manifests against a real API server
	.venv/bin/ruff format --check .
	.venv/bin/ruff check .
	.venv/bin/mypy
	.venv/bin/lint-imports
	$(PYTHON) -m pytest -q tests/unit/repository/test_style.py tests/unit/api/test_crds.py
	$(PYTHON) -m devenv validate
	@$(PYTHON) -m devenv.longest

audit: $(UV)  ## known vulnerabilities of what the image holds, by the OSV service
	$(UV) audit --frozen --no-default-groups --preview-features audit

manifests: .venv/synced  ## write deploy/install.yaml anew from its overlay, and the tables of docs/resources.md from crds/
	$(PYTHON) -m devenv.manifests
	$(PYTHON) -m devenv.reference

format: .venv/synced  ## rewrite the code as `make check` wants it
	.venv/bin/ruff format .
	.venv/bin/ruff check --fix .

.venv/synced: $(UV) pyproject.toml uv.lock
	@$(UV) python find --quiet >/dev/null 2>&1 || $(UV) python install --quiet 3.14 || { echo "$(NO_PYTHON)"; exit 1; }
	$(UV) sync --frozen --no-install-project --extra operator --quiet --compile-bytecode
	@touch $@

# The peers and matplotlib are for `make bench` alone: an environment of their own, from the same lock.
.venv-bench/synced: $(UV) pyproject.toml uv.lock
	UV_PROJECT_ENVIRONMENT=.venv-bench $(UV) sync --frozen --no-install-project --quiet --compile-bytecode --extra operator --group bench
	@touch $@

# Some dependencies have wheels for these alone: tests/unit/repository/test_lock.py.
NO_PYTHON := Missing: Python 3.11 to 3.14, of which uv could fetch none either: sudo apt-get install -y python3.13, or another way to one on the PATH

# uv in an environment of its own: the lock is installed by the version that wrote it, whatever the machine has. The cache keeps
# the program, beside etcd, kube-apiserver and Kafka: a second checkout needs no package index.
UV_CACHED := "$${XDG_CACHE_HOME:-$$HOME/.cache}/userupdates/uv-$(UV_VERSION)"
$(UV):
	@command -v python3 >/dev/null || { echo "Missing: python3 (3.11 to 3.14): sudo apt-get install -y python3 python3-venv"; exit 1; }
	@python3 -c 'import venv, ensurepip' 2>/dev/null || { echo "Missing: venv for python3: sudo apt-get install -y python3-venv"; exit 1; }
	@rm -rf .tools
	@mkdir -p $(@D)
	@if cp $(UV_CACHED) $@ 2>/dev/null && $@ --version >/dev/null 2>&1; then :; else $(MAKE) --no-print-directory uv-from-index; fi

uv-from-index:
	@rm -rf .tools
	python3 -m venv .tools/uv-$(UV_VERSION)
	.tools/uv-$(UV_VERSION)/bin/pip install --quiet --disable-pip-version-check uv==$(UV_VERSION) || { rm -rf .tools; echo "Missing: uv $(UV_VERSION), which pip did not get from the package index, as said above: see HTTPS_PROXY and PIP_INDEX_URL"; exit 1; }
	@mkdir -p "$$(dirname $(UV_CACHED))"
	@cp $(UV) $(UV_CACHED).$$$$ && mv $(UV_CACHED).$$$$ $(UV_CACHED)

.PHONY: help demo bench chaos e2e floods test up send down status clean check audit manifests format uv-from-index
