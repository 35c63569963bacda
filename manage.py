#!/usr/bin/env python3
"""Every command of Nightshift; `manage.py help` lists them."""

import os
import sys

# These run on a laptop with no settings at all.
LOCAL_COMMANDS = {"bench", "chaos", "check", "demo", "simulate", "test", "tour"}


def main():
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")
    if set(sys.argv[1:2]) & LOCAL_COMMANDS:
        os.environ.setdefault("DEBUG", "1")
        os.environ.setdefault("SANDBOX", "1")
    from django.core.management import execute_from_command_line

    execute_from_command_line(sys.argv)


if __name__ == "__main__":
    main()
