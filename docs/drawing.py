"""One way to draw the documentation's pictures: what is shown is data, and the data lie beside.

A picture is made of the package's own panels and marks, and has the style of the claims' figures.
:func:`save` writes NAME.csv, then draws NAME.png from that table alone, so that the same numbers
give the same bytes.

The table has one row for each number that is drawn. `shows` is the kind of mark (see
:class:`jaxprompt.core.figures.Mark`); rows whose kind is among :data:`WORDS` or :data:`PLACES` hold
texts, scales and ranges of the axes. Intervals are of 95 %.
"""

from __future__ import annotations

import argparse
import csv
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl

from jaxprompt import stats
from jaxprompt.core.figures import Mark, Panel, Panels
from jaxprompt.presentation.canvas import drawing_width, figure_style, save_figure
from jaxprompt.presentation.panels import draw_panels

__all__ = ["Picture", "main", "measured", "read", "save"]

HERE = Path(__file__).parent

COLUMNS: tuple[str, ...] = (
    "panel", "shows", "series", "style", "x axis", "x", "y axis", "y", "half interval", "upper end",
    "colour scale", "value",
)  # fmt: skip
NUMBERS = {"x": "x", "y": "y", "half": "half interval", "upper": "upper end", "value": "value"}
"""Arrays of a mark, and their columns."""

WORDS = {"title": "title", "x scale": "log_x", "y scale": "log_y"}
PLACES = {"x range": "x_range", "y range": "y_range", "colour range": "value_range"}
NAMES = {"name along x": "x_names", "name along y": "y_names"}


class Picture(NamedTuple):
    """Panels, the sentence above them, what stands below, and the height of a row in inches."""

    panels: Sequence[Panel]
    title: str
    caption: str = ""
    height: float = 2.9


def measured(
    x: Sequence[float], estimates: Sequence[stats.Estimate], label: str, colour: int
) -> Mark:
    """Points at estimates with their 95 % intervals."""
    means = [float(e.mean) for e in estimates]
    ends = [tuple(map(float, stats.interval(e))) for e in estimates]
    half = [mean - low for mean, (low, _) in zip(means, ends, strict=True)]
    return Mark("points", x, means, half, [high for _, high in ends], label=label, colour=colour)


# --- tables ---


def rows_of(picture: Picture) -> Iterator[dict[str, Any]]:
    """The table of a picture: texts and axes first, then one row for each number."""
    yield {"shows": "title", "series": picture.title}
    yield {"shows": "caption", "series": picture.caption}
    yield {"shows": "height", "y": picture.height, "y axis": "inches a row"}
    for number, panel in enumerate(picture.panels, 1):
        yield {"panel": number, "shows": "title", "series": panel.title}
        for which, logarithmic in (("x", panel.log_x), ("y", panel.log_y)):
            scale = "logarithmic" if logarithmic else "linear"
            yield {"panel": number, "shows": f"{which} scale", "series": scale}
        for word, field in PLACES.items():
            for value in getattr(panel, field) or ():
                yield {"panel": number, "shows": word, "value": value}
        for word, field in NAMES.items():
            for name in getattr(panel, field):
                yield {"panel": number, "shows": word, "series": name}
        axes = {"x axis": panel.x_label, "y axis": panel.y_label, "colour scale": panel.value_label}
        keys = [(mark.kind, mark.label, mark.colour) for mark in panel.marks]
        if len(set(keys)) < len(keys):
            raise ValueError(f"panel {panel.title!r}: two marks share kind, label and style")
        for mark in panel.marks:
            arrays = {column: getattr(mark, name) for name, column in NUMBERS.items()}
            own = {"panel": number, "shows": mark.kind, "series": mark.label, "style": mark.colour}
            for place in range(max(map(len, arrays.values()))):
                numbers = {c: float(a[place]) for c, a in arrays.items() if len(a)}
                yield {**own, **axes, **numbers}


def write(picture: Picture, path: Path) -> None:
    """Write the table; six digits of a number are more than a picture shows."""
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, COLUMNS, restval="", lineterminator="\n")
        table.writeheader()
        for row in rows_of(picture):
            shown = {n: f"{v:.6g}" if isinstance(v, float) else v for n, v in row.items()}
            table.writerow(shown)


def read(path: Path) -> Picture:
    """The picture whose table :func:`write` wrote."""
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    general = {row["shows"]: row for row in rows if not row["panel"]}
    panels = [
        panel_of([row for row in rows if row["panel"] == number])
        for number in dict.fromkeys(row["panel"] for row in rows if row["panel"])
    ]
    title, caption = general["title"]["series"], general["caption"]["series"]
    return Picture(panels, title, caption, float(general["height"]["y"]))


def panel_of(rows: Sequence[Mapping[str, str]]) -> Panel:
    """One panel from its rows."""
    kinds = {row["shows"] for row in rows}
    by_kind = {kind: [row for row in rows if row["shows"] == kind] for kind in kinds}
    fields: dict[str, Any] = {"title": by_kind["title"][0]["series"]}
    for which in ("x", "y"):
        fields[f"log_{which}"] = by_kind[f"{which} scale"][0]["series"] == "logarithmic"
    for word, field in PLACES.items():
        if word in by_kind:
            low, high = (float(row["value"]) for row in by_kind[word])
            fields[field] = (low, high)
    for word, field in NAMES.items():
        fields[field] = [row["series"] for row in by_kind.get(word, ())]
    drawn = [row for row in rows if row["shows"] not in {*WORDS, *PLACES, *NAMES}]
    marks: dict[tuple[str, str, str], list[Mapping[str, str]]] = {}
    for row in drawn:
        marks.setdefault((row["shows"], row["series"], row["style"]), []).append(row)
    first = drawn[0]
    return Panel(
        [mark_of(kind, label, style, own) for (kind, label, style), own in marks.items()],
        x_label=first["x axis"], y_label=first["y axis"], value_label=first["colour scale"],
        **fields,
    )  # fmt: skip


def mark_of(kind: str, label: str, style: str, rows: Sequence[Mapping[str, str]]) -> Mark:
    """One mark from its rows."""
    arrays = {name: [float(row[c] or math.nan) for row in rows] for name, c in NUMBERS.items()}
    kept = {name: a for name, a in arrays.items() if not all(map(math.isnan, a))}
    return Mark(kind, label=label, colour=int(style), **kept)


# --- drawing ---


def draw(name: str, folder: Path, target: Path | None = None) -> None:
    """Draw NAME.png from NAME.csv of a folder, there or in another one."""
    picture = read(folder / f"{name}.csv")
    spec = Panels(lambda *_: picture.panels, picture.title, picture.caption, height=picture.height)
    with mpl.rc_context(figure_style()):
        save_figure(draw_panels(spec, picture.panels), target or folder, name, ("png",))


def save(name: str, picture: Picture, folder: Path = HERE) -> None:
    """Write NAME.csv, and NAME.png from it."""
    folder.mkdir(parents=True, exist_ok=True)
    write(picture, folder / f"{name}.csv")
    draw(name, folder)


def main(pictures: Mapping[str, Callable[[], Picture]], doc: str | None) -> None:
    """The command line that every script of pictures has."""
    first_line, *_ = (doc or "").splitlines()
    parser = argparse.ArgumentParser(description=first_line)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(pictures))
    parser.add_argument("--from-data", action="store_true", help="redraw from NAME.csv")
    parser.add_argument("--out", type=Path, default=HERE, help="default: beside this script")
    parser.add_argument("--width", type=float, help="inches; default: a page")
    given = parser.parse_args()
    unknown = [name for name in given.names if name not in pictures]
    if unknown:
        parser.error(f"NAME = {unknown[0]!r}: choose from {', '.join(pictures)}")
    with drawing_width(given.width):
        for name in given.names or pictures:
            if given.from_data:
                given.out.mkdir(parents=True, exist_ok=True)
                draw(name, HERE, given.out)
            else:
                save(name, pictures[name](), given.out)
