"""Loads the gate's options and its report for every run of pytest in this project."""

pytest_plugins = ["verify.plugin"]
