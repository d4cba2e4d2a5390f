"""Pictures as files, and as part of a page."""

import io
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib

from genpolicy.bench.suite_report.figures import Picture
from genpolicy.training.storage import write_atomic

INK = "#010203"
"""As good as black; on a page it becomes the colour of the text."""
STYLE: dict[Any, Any] = {"font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "svg.fonttype": "path"}
STYLE |= dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), INK)
STYLE |= {"axes.facecolor": "none", "grid.color": "#888888", "savefig.bbox": "tight"}  # tight: titles are not cut


@dataclass(frozen=True)
class Drawing:
    """A picture that has been drawn."""

    picture: Picture
    svg: str
    """Without a background."""
    png: bytes


def draw(pictures: Iterable[Picture]) -> Iterator[Drawing]:
    """Draw pictures; the same ones give the same bytes."""
    for picture in pictures:
        with matplotlib.rc_context({**STYLE, "svg.hashsalt": picture.id}):
            figure, vector, pixels = picture.draw(), io.StringIO(), io.BytesIO()
            figure.draw_without_rendering()
            figure.set_layout_engine("none")  # laid out once, for both files
            figure.savefig(vector, format="svg", facecolor="none", metadata={"Date": None})
            figure.savefig(pixels, format="png", dpi=150, facecolor="white", metadata={"Software": None})
        yield Drawing(picture, vector.getvalue(), pixels.getvalue())


def save(drawing: Drawing, folder: Path) -> None:
    """Write a picture as PNG and SVG, on white."""
    name = re.sub(r"[/:]", "-", drawing.picture.id)  # Minari's names have both; Windows takes no colon
    end = drawing.svg.index(">", drawing.svg.index("<svg")) + 1
    svg = f'{drawing.svg[:end]}\n <rect width="100%" height="100%" fill="#ffffff"/>{drawing.svg[end:]}'
    write_atomic(folder / f"{name}.svg", svg.encode())
    write_atomic(folder / f"{name}.png", drawing.png)


def inline(drawing: Drawing) -> str:
    """The SVG element for a page: as wide as there is room, in the page's text colour, with ids of its own."""
    text = drawing.svg[drawing.svg.index("<svg") :].replace(INK, "currentColor")
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    prefix = re.sub(r"\W+", "-", drawing.picture.id)
    text = re.sub(r'\bid="', f'id="{prefix}-', text)
    text = text.replace('href="#', f'href="#{prefix}-').replace("url(#", f"url(#{prefix}-")
    head, body = text[: text.index(">")], text[text.index(">") :]
    width = re.search(r' width="([\d.]+)pt"', head)
    assert width is not None  # Matplotlib writes it
    pixels = float(width[1]) * 4 / 3
    size = f"max-width:{pixels:.0f}px;min-width:{0.75 * pixels:.0f}px"  # smaller than that nobody can read it
    head = re.sub(r' (width|height)="[\d.]+pt"', "", head)
    label = re.sub(r'[<>&"]', " ", drawing.picture.title)
    return f'{head} role="img" aria-label="{label}" style="{size}"{body}'
