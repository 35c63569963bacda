"""How fast Nightshift records, sends and runs jobs, next to plain Celery on the same machine in the same minutes.

Start it with `manage.py bench`, which brings servers of its own; `python -m bench` expects them in the environment.
A rate by itself says more about the machine than about the code, so every figure is a ratio first.
"""
