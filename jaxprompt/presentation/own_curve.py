"""The figure of the command `curve`: predicted errors as lines, measured ones as points."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxprompt.presentation.canvas import (
    LINE_STYLES,
    add_title_and_caption,
    curve_colour,
    figure_style,
    new_figure,
    plain_log_ticks,
    save_figure,
)
from jaxprompt.stats import half_width

__all__ = ["draw_own_curve"]

_NAMES = {
    "isotropic": "isotropic tokens",
    "all_moments": "Gaussian tokens, all moments",
    "semi_empirical": "semi-empirical",
}


def draw_own_curve(report: Mapping[str, Any], folder: Path) -> list[Path]:
    """Write curve.png and curve.svg; levels that were left out are not drawn."""
    import matplotlib as mpl

    with mpl.rc_context(figure_style()):
        figure, (axis,) = new_figure(1, 4.6, 3.4)
        samples = report["samples"]
        for number, (level, name) in enumerate(_NAMES.items()):
            if report[level][0] is not None:
                axis.plot(
                    samples, report[level], color=curve_colour(number),
                    linestyle=LINE_STYLES[number], label=name,
                )  # fmt: skip
        stderrs = report["measured_stderr"]
        half = [half_width(stderr, report["trials"] - 1) for stderr in stderrs]
        axis.errorbar(
            samples, report["measured"], half, fmt="o", color="black", label="measured, 95 %"
        )
        axis.set_xscale("log")
        axis.set_yscale("log")
        plain_log_ticks(axis)
        axis.set_xlabel("training sequences n")
        axis.set_ylabel("test error")
        axis.legend()
        head = "ridge head with an intercept" if report["intercept"] else "ridge"
        caption = f"{head} {report['ridge']:g}; {report['prompt']}; heads tested on other folds"
        add_title_and_caption(figure, "Learning curve: predicted and measured", caption)
        return list(save_figure(figure, folder, "curve"))
