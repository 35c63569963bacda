# Short names; everything is a command of manage.py, which installs what it needs the first time.
PYTHON ?= python3

.DEFAULT_GOAL := help
.PHONY: help demo test check tour chaos brokers bench lock

help: ## print this
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: ## run the whole system on this machine (Ctrl-C stops it; BROKER=postgresql, rabbitmq or sqs)
	@$(PYTHON) manage.py demo $(if $(BROKER),--broker $(BROKER))

test: ## run the tests
	@$(PYTHON) manage.py test

check: ## lint, types, imports, migrations and Django's own checks
	@$(PYTHON) manage.py check

tour: ## run every pattern once, the good way and the failing way, and print a table
	@$(PYTHON) manage.py tour

chaos: ## break things at random and audit that no job was lost (JOBS=10000 SEED=7)
	@$(PYTHON) manage.py chaos $(if $(JOBS),--jobs $(JOBS)) $(if $(SEED),--seed $(SEED))

brokers: ## run the same tests on Redis, RabbitMQ, SQS and PostgreSQL, and print what holds
	@$(PYTHON) manage.py brokers

bench: ## measure how fast jobs are recorded, sent and run
	@$(PYTHON) manage.py bench

lock: # write requirements.lock anew after a change in pyproject.toml
	@.venv/bin/uv pip compile --quiet --universal --generate-hashes --no-header pyproject.toml --output-file requirements.lock
