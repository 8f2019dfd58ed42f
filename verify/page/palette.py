"""Colours by role: each is drawn as a placeholder, and takes its value from the style of the page, light or dark."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Colour:
    """A role's colour on light and on dark ground, and what stands for it while a chart is drawn."""

    placeholder: str
    light: str
    dark: str


ROLES = {
    "ink": Colour("#010001", "#1f2328", "#e6edf3"),
    "muted": Colour("#010002", "#59636e", "#9198a1"),
    "rule": Colour("#010003", "#d1d9e0", "#3d444d"),
    "promised": Colour("#010004", "#818b98", "#8b949e"),
    "seen": Colour("#010005", "#0a6a8f", "#5cb8dc"),
    "seen-soft": Colour("#010006", "#cfe6f0", "#173d4e"),
    "wrong": Colour("#010007", "#b3261e", "#ff8a80"),
    "wrong-soft": Colour("#010008", "#fbe0dd", "#54201c"),
}
#: What a picture that stands alone is drawn on.
GROUND = Colour("", "#ffffff", "#0f1216")


def placeholder(role: str) -> str:
    return ROLES[role].placeholder


def declarations(dark: bool) -> str:
    """The colours as declarations of CSS variables."""
    return " ".join(f"--chart-{role}: {colour.dark if dark else colour.light};" for role, colour in ROLES.items())


def with_variables(style: str) -> str:
    """A style in which placeholders have given way to variables."""
    for role, colour in ROLES.items():
        style = style.replace(colour.placeholder, f"var(--chart-{role})")
    return style
