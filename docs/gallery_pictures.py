"""The pictures of docs/gallery.md, each theorem's figure from its own check: seed 0, quick.

python docs/gallery_pictures.py [NAME ...]
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

from jaxprompt.cli.main import main

ROOT = Path(__file__).resolve().parents[1]
PICTURES = ROOT / "docs" / "gallery"


def draw(names: list[str]) -> int:
    """Draw the figures of these files of the gallery, or of all; the command's exit code."""
    gallery = ROOT / "examples" / "gallery"
    files = [gallery / f"{name}.py" for name in names] or sorted(gallery.glob("*.py"))
    with tempfile.TemporaryDirectory() as folder:
        code = main(["figure", *map(str, files), "--format", "png", "--out", folder])
        PICTURES.mkdir(exist_ok=True)
        for picture in Path(folder).rglob("*.png"):
            shutil.copy(picture, PICTURES / picture.name)
    return code


if __name__ == "__main__":
    sys.exit(draw(sys.argv[1:]))
