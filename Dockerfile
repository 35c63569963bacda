# One image for every process of the Procfile; compose.yaml chooses the command.
FROM python:3.12-slim AS packages
WORKDIR /app
COPY requirements.lock .
RUN python -m venv /venv \
    && /venv/bin/pip install --no-cache-dir --disable-pip-version-check --require-hashes --only-binary=:all: -r requirements.lock

FROM python:3.12-slim
ENV PATH=/venv/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
WORKDIR /app
COPY --from=packages /venv /venv
COPY . .
# Beat and Flower keep small files there; everything else is read-only to the account that runs.
RUN useradd --system --no-create-home --uid 10001 nightshift && mkdir -p var && chown nightshift var
USER nightshift
# What a deploy sends, spelled out: running jobs get their grace, and are then handed back.
STOPSIGNAL SIGTERM
EXPOSE 8000
CMD ["uvicorn", "config.asgi:application", "--host", "0.0.0.0", "--port", "8000", "--lifespan", "off", \
     "--timeout-graceful-shutdown", "5"]
