"""A page measured in pixels, for pictures in rows; and figures as PNG."""

import io
import warnings
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Circle, Rectangle
from matplotlib.text import Text
from numpy.typing import NDArray
from PIL import Image

from razh.figures.fonts import families

__all__ = ["DPI", "INK", "MUTED", "RIGHT", "WRONG", "Canvas", "png", "resized"]

# Okabe and Ito's blue and vermilion: told apart with every kind of colour vision.
RIGHT, WRONG = "#0072B2", "#D55E00"
INK, MUTED = "#222222", "#666666"
DPI = 144
PIXELS_A_POINT = DPI / 72
LINE_HEIGHT = 1.2  # of the font size

Pixels = NDArray[np.uint8]


class Canvas:
    """A figure with one invisible axes whose unit is the pixel, origin at the top left."""

    def __init__(self, width: int, height: int) -> None:
        """Make a white page of so many pixels."""
        self.figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI, facecolor="white")
        self.axes = self.figure.add_axes((0.0, 0.0, 1.0, 1.0))
        self.axes.set_axis_off()
        self.width, self.height = width, height
        self._limit()

    def _limit(self) -> None:
        self.axes.set(xlim=(0, self.width), ylim=(self.height, 0))

    def image(self, x: float, y: float, pixels: Pixels, side: int) -> None:
        """Draw pixels (S, S, 3), resized to a square of this side.

        The two lowest bits of each value are dropped: nobody sees it, and the file is a third smaller.
        """
        shown = resized(pixels, side) & 0xFC
        self.axes.imshow(shown, extent=(x, x + side, y + side, y), interpolation="none", aspect="auto")
        self._limit()

    def frame(self, x: float, y: float, side: float, colour: str, width: float = 2.0, style: Any = "solid") -> None:
        """Draw the outline of a square; `width` in points."""
        self.axes.add_patch(
            Rectangle((x, y), side, side, fill=False, edgecolor=colour, linewidth=width, linestyle=style, zorder=3)
        )

    def ring(self, x: float, y: float, radius: float) -> None:
        """Draw a white circle with a dark edge around a place, which shows on any picture."""
        for colour, width in (("black", 2.2), ("white", 1.2)):
            self.axes.add_patch(Circle((x, y), radius, fill=False, edgecolor=colour, linewidth=width, zorder=3))

    def swatch(self, x: float, y: float, side: float, colour: Any) -> None:
        """Draw a filled square."""
        self.axes.add_patch(Rectangle((x, y), side, side, facecolor=colour, edgecolor="none", zorder=3))

    def text(self, x: float, y: float, text: str, size: float = 6.5, **style: Any) -> None:
        """Write lines of text, the first one's capitals from y on; `size` in points, style as of matplotlib's Text."""
        for number, line in enumerate(text.split("\n")):
            baseline = y + PIXELS_A_POINT * size * (0.75 + LINE_HEIGHT * number)
            self._write(x, baseline, line, size, {"va": "baseline", "color": INK} | style)

    def badge(self, x: float, y: float, text: str, size: float, box: dict[str, Any], **style: Any) -> None:
        """Write text in a box with its middle at x, y."""
        self._write(x, y, text, size, {"ha": "center", "va": "center", "bbox": box, "zorder": 4} | style)

    def _write(self, x: float, y: float, text: str, size: float, style: dict[str, Any]) -> None:
        self.axes.text(x, y, text, fontsize=size, parse_math=False, **style)


def resized(pixels: Pixels, side: int) -> Pixels:
    """Return pixels (S, S, 3) as (side, side, 3)."""
    return np.asarray(Image.fromarray(pixels).resize((side, side), Image.Resampling.BICUBIC))


def png(figure: Figure) -> bytes:
    """Return the content of a PNG of a figure, in fonts that have all of its characters."""
    figure.set_dpi(DPI)
    texts: list[Any] = figure.findobj(Text)
    fonts = families(frozenset("".join(text.get_text() for text in texts)) - {"\n"})
    for text in texts if len(fonts) > 1 else ():  # else the user's own choice stays
        text.set_fontfamily(fonts)
    canvas = FigureCanvasAgg(figure)  # not the user's backend
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")  # `families` says it once, and in one line
        canvas.draw()  # type: ignore[no-untyped-call]
    picture = Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3])  # type: ignore[no-untyped-call]
    content = io.BytesIO()
    picture.save(content, format="PNG", optimize=True, dpi=(DPI, DPI))
    return content.getvalue()
