"""The colours of who is measured: the same in every plot, and told apart by the colour-blind (Okabe and Ito). Pure."""

from __future__ import annotations

from bench.figures.plots import Role

LIGHT = {
    Role.OURS: "#0072b2",
    Role.OURS_TOO: "#56b4e9",
    Role.PURE: "#009e73",
    Role.TODAY: "#d55e00",
    Role.TODAY_TOO: "#e69f00",
    Role.FLOOR: "#767676",
}
"""On white."""

DARK = {
    Role.OURS: "#4aa8e8",
    Role.OURS_TOO: "#9bd6fa",
    Role.PURE: "#2ec29a",
    Role.TODAY: "#f07a2b",
    Role.TODAY_TOO: "#f5bf42",
    Role.FLOOR: "#9a9a9a",
}
"""The same, on a dark page."""

INK, PAPER, RULE = "#222222", "#ffffff", "#d9d9d9"
"""Text and axes, what they are drawn on, and the lines of a grid."""
