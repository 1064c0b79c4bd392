"""The pictures of claims in examples/, each theorem's figure from its own check: seed 0, quick.

    python docs/gallery_pictures.py [NAME ...]              checks and draws; without names all
    python docs/gallery_pictures.py [NAME ...] --from-data  redraws from the tables

NAME is a file of examples/gallery, or `ridge_risk`, the example of own_theory.md. The numbers of a
figure lie in data/ID beside it, as `jaxprompt figure` stores them.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

from jaxprompt.cli.main import main

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = ROOT / "examples"
PICTURES = ROOT / "docs" / "gallery"
EXAMPLE = "example.ridge_risk"
"""Has its picture beside the page that explains it."""


def draw(names: list[str], *, from_data: bool = False) -> int:
    """Draw the figures of these files of examples, or of all; the command's exit code."""
    files = [path_of(name) for name in names]
    files = files or [*sorted((EXAMPLES / "gallery").glob("*.py")), path_of("ridge_risk")]
    with tempfile.TemporaryDirectory() as made:
        source = ["--from", str(PICTURES)] if from_data else []
        code = main(["figure", *map(str, files), *source, "--format", "png", "--out", made])
        PICTURES.mkdir(exist_ok=True)
        for picture in Path(made).glob("*.png"):
            target = ROOT / "docs" / "ridge_risk.png" if picture.stem == EXAMPLE else PICTURES
            shutil.copy(picture, target)
        for table in Path(made).glob("data/*/*.csv"):
            folder = PICTURES / "data" / table.parent.name
            folder.mkdir(parents=True, exist_ok=True)
            shutil.copy(table, folder / table.name)
    return code


def path_of(name: str) -> Path:
    """The file of an example."""
    folder = EXAMPLES if name == "ridge_risk" else EXAMPLES / "gallery"
    return folder / f"{name}.py"


if __name__ == "__main__":
    given = [argument for argument in sys.argv[1:] if argument != "--from-data"]
    sys.exit(draw(given, from_data="--from-data" in sys.argv))
