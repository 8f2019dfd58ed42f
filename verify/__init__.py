"""The gate: targets, checks, findings and reports."""
