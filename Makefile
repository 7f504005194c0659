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

help:
	@awk -F ':.*## ' '/^##@ / {printf "\n%s\n", substr($$0, 5)} /^[a-z0-9-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

##@ Try it

demo: .venv/synced  ## play the demo scenario on real parts: timeline, kubectl output, verdict; stops everything at the end
	$(PYTHON) -m demo $(ARGS)

up: .venv/synced  ## start what is not running and leave it running; then: . .dev/env; BRIDGES=2 CONTROLLERS=3 STREAM=path.yaml
	@$(PYTHON) -m devenv up $(if $(BRIDGES),--bridges "$(BRIDGES)") \
		$(if $(CONTROLLERS),--controllers "$(CONTROLLERS)") $(if $(STREAM),--stream "$(STREAM)")

# Both from the command line alone: a login shell has a USER of its own. As variables of the shell they need no quoting.
send: .venv/synced  ## send one record: USER=userid1 VALUE='{"profile": "dev", "permissions": "all", "resources": "all"}'; TOPIC=name
ifeq ($(origin USER)/$(origin VALUE),command line/command line)
	@$(PYTHON) -m devenv send "$$USER" "$$VALUE" $(if $(TOPIC),--topic "$$TOPIC")
else
	@echo "usage: make send USER=userid1 VALUE='{\"profile\": \"dev\", \"permissions\": \"all\", \"resources\": \"all\"}' [TOPIC=user-updates]"; exit 2
endif

status: .venv/synced  ## show what runs
	@$(PYTHON) -m devenv status

down: .venv/synced  ## stop what `make up` started; ports and data stay
	@$(PYTHON) -m devenv down

clean: .venv/synced  ## stop it too, and remove ports, data and logs
	@$(PYTHON) -m devenv clean

##@ Change it

test: .venv/synced  ## run all tests that need no container engine; WHAT=path and ARGS="-k name" choose some; WORKERS=4
	$(PYTHON) -m pytest $(or $(WHAT),$(TIERS)) -n $(or $(WORKERS),auto) --dist loadfile -m "not long" $(ARGS)

check: .venv/synced  ## check format, lint, types, import layers, .github, CRDs and manifests against a real API server
	.venv/bin/ruff format --check .
	.venv/bin/ruff check .
	.venv/bin/mypy
	.venv/bin/lint-imports
	$(PYTHON) -m pytest -q tests/unit/repository/test_style.py tests/unit/api/test_crds.py
	$(PYTHON) -m devenv validate
	$(PYTHON) -m devenv.github
	@$(PYTHON) -m devenv.longest

format: .venv/synced  ## rewrite the code as `make check` wants it
	.venv/bin/ruff format .
	.venv/bin/ruff check --fix .

manifests: .venv/synced  ## write deploy/install.yaml again from its overlay, and the tables of docs/resources.md from crds/
	$(PYTHON) -m devenv.manifests
	$(PYTHON) -m devenv.reference

##@ Test it further

e2e: .venv/synced  ## run the scenarios in a kind cluster, with pods; needs Docker and kind; KEEP=1 leaves the cluster, WHAT=path
	@$(PYTHON) -m devenv.kind e2e $(if $(KEEP),--keep) $(WHAT)

floods: .venv/synced  ## run floods at their whole size (50,000 records, one user's 20,000, hanging calls, misbehaving downstreams): some 40 minutes
	$(PYTHON) -m pytest tests/acceptance/test_floods.py -rP $(ARGS)

chaos: .venv/synced  ## play random load and faults, and judge what follows; SEED=7 ROUNDS=200 SECONDS=900 RUNS=1 FAULTS=kill:controller,freeze
	@$(PYTHON) -m tests.chaos $(if $(SEED),--seed "$(SEED)") $(if $(RUNS),--runs "$(RUNS)") \
		$(if $(ROUNDS),--rounds "$(ROUNDS)") $(if $(SECONDS),--seconds "$(SECONDS)") $(if $(RATE),--rate "$(RATE)") \
		$(if $(FAULTS),--faults "$(FAULTS)") $(if $(BRIDGES),--bridges "$(BRIDGES)") \
		$(if $(CONTROLLERS),--controllers "$(CONTROLLERS)")

bench: .venv-bench/synced  ## measure this project beside Restate and the bare limit, on the same records; WHAT="backlog rate-50" QUICK=1 ARGS=--help
	@.venv-bench/bin/python -m tests.benchmarks $(WHAT) $(if $(QUICK),--quick) $(ARGS)

##@ Release it

audit: $(UV)  ## list known vulnerabilities of what the image holds, by the OSV service
	$(UV) audit --frozen --no-default-groups --preview-features audit

dist: $(UV)  ## build the wheel, the source archive and the bill of materials of the image, into dist/
	@rm -rf dist
	$(UV) build --quiet --out-dir dist
	$(UV) export --quiet --frozen --no-default-groups --extra operator --format cyclonedx1.5 --preview-features sbom-export \
		--output-file dist/sbom.cdx.json >/dev/null

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

.PHONY: help demo up send status down clean test check format manifests e2e floods chaos bench audit dist uv-from-index
