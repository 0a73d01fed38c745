"""Curves as paths of an SVG without words: ticks and legends are HTML over it.

So the lines follow the page's width, and the letters keep their size on a phone.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

POINTS = 400
"""Points of one line that are drawn at most."""
_TOP = 0.06
"""Part of the height that stays free above the highest point, and below the lowest."""

Points = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Line:
    """One curve.

    Attributes:
        label: Its name in the legend.
        points: (x, y), x rising.
        colour: Name of a colour of the style sheet.
        dashed: Whether it is a bound rather than a measurement.
        dots: Whether its points are marked.
        behind: Whether it is there to compare with: a broad and faint line.
    """

    label: str
    points: Points
    colour: str
    dashed: bool = False
    dots: bool = False
    behind: bool = False

    @property
    def style(self) -> str:
        """Its classes in the style sheet."""
        kinds = {"dashed": self.dashed, "behind": self.behind}
        return " ".join(name for name, used in kinds.items() if used)


@dataclass(frozen=True)
class Tick:
    """A word at an axis, with its place in percent."""

    at: float
    text: str


@dataclass(frozen=True)
class Drawn:
    """A line as it is drawn, in a square of 1000 by 1000 whose y points down."""

    line: Line
    path: str
    points: list[tuple[float, float]]


@dataclass(frozen=True)
class Span:
    """A part of the x axis with a name, from and to in percent."""

    start: float
    end: float
    text: str


@dataclass
class Chart:
    """A figure of curves with one x and one y axis.

    Args:
        title: What it shows.
        lines: Its curves.
        note: A sentence below the title.
        x: What the x axis counts.
        log: Whether y is logarithmic, if all values allow it.
        zero: Whether y begins at 0.
        spans: Parts of the x axis: (from, to, name).
        marks: Places on the x axis with a name.
    """

    title: str
    lines: list[Line]
    note: str = ""
    x: str = "step"
    log: bool = False
    zero: bool = False
    spans: Sequence[tuple[float, float, str]] = ()
    marks: Sequence[tuple[float, str]] = ()
    _x: tuple[float, float] = field(init=False)
    _y: tuple[float, float] = field(init=False)

    def __post_init__(self) -> None:
        """Choose the axes."""
        self.lines = [line for line in self.lines if line.points]
        xs = [x for line in self.lines for x, _ in line.points] or [0.0, 1.0]
        ys = [y for line in self.lines for _, y in line.points] or [0.0, 1.0]
        self.log = self.log and min(ys) > 0 and max(ys) > 3 * min(ys)
        low, high = (math.log10(min(ys)), math.log10(max(ys))) if self.log else (min(ys), max(ys))
        if self.zero and not self.log:
            low = min(0.0, low)
        room = (high - low) * _TOP or abs(high) * 0.1 or 1.0
        self._y = (low if self.zero and low == 0 else low - room, high + room)
        first, last = min(xs), max(xs)
        self._x = (first, last if last > first else first + 1)

    @property
    def drawn(self) -> list[Drawn]:
        """The lines as paths."""
        found = []
        for line in self.lines:
            points = thin(line.points, POINTS)
            places = [(self._left(x) * 1000, self._down(y) * 1000) for x, y in points]
            found.append(Drawn(line, _path(places, whole=line.dots or line.dashed), places))
        return found

    @property
    def y_ticks(self) -> list[Tick]:
        """Words at the y axis, percent from the top."""
        low, high = self._y
        values = _log_ticks(low, high) if self.log else [(v, v) for v in _round_ticks(low, high)]
        return [
            Tick(100 * (high - place) / (high - low), short(value))
            for place, value in values
            if low <= place <= high
        ]

    @property
    def x_ticks(self) -> list[Tick]:
        """Words at the x axis, percent from the left."""
        first, last = self._x
        return [
            Tick(100 * self._left(x), short(x)) for x in _round_ticks(first, last) if first <= x
        ]

    @property
    def areas(self) -> list[Span]:
        """The named parts of the x axis that are in view."""
        found = []
        for start, end, text in self.spans:
            left, right = (min(1.0, max(0.0, self._left(x))) for x in (start, end))
            if right - left > 0.005:
                found.append(Span(100 * left, 100 * right, text))
        return found

    @property
    def flags(self) -> list[Tick]:
        """The marked places in view."""
        places = [(self._left(x), text) for x, text in self.marks]
        return [Tick(100 * x, text) for x, text in places if 0 <= x <= 1]

    @property
    def last(self) -> float:
        """The end of the x axis."""
        return self._x[1]

    @property
    def summary(self) -> str:
        """What a reader who does not see the curves is told."""
        parts = []
        for line in self.lines:
            (x0, y0), (x1, y1) = line.points[0], line.points[-1]
            parts.append(
                f"{line.label} goes from {short(y0)} at {self.x} {short(x0)} to {short(y1)} at "
                f"{self.x} {short(x1)}"
            )
        return f"{self.title}: " + "; ".join(parts) + "."

    @property
    def values(self) -> list[dict[str, object]]:
        """What the page's script shows under the pointer: places in percent, values in words."""
        return [
            {
                "x": [round(100 * self._left(x), 2) for x, _ in points],
                "at": [short(x) for x, _ in points],
                "y": [short(y) for _, y in points],
            }
            for points in (thin(line.points, POINTS) for line in self.lines)
        ]

    def rows(self, most: int) -> list[tuple[str, list[str]]]:
        """At most so many rows of a table: x, and every line's value there."""
        tables = [dict(line.points) for line in self.lines]
        places = sorted({x for table in tables for x in table})
        step = max(1, math.ceil(len(places) / most))
        chosen = places[::-1][::step][::-1]
        return [
            (short(x), [short(table[x]) if x in table else "" for table in tables]) for x in chosen
        ]

    def _left(self, x: float) -> float:
        return (x - self._x[0]) / (self._x[1] - self._x[0])

    def _down(self, y: float) -> float:
        place = math.log10(y) if self.log else y
        return (self._y[1] - place) / (self._y[1] - self._y[0])


def _path(places: list[tuple[float, float]], whole: bool) -> str:
    """A line through the places; it breaks where values are missing, unless it is to be whole."""
    steps = sorted(b[0] - a[0] for a, b in pairwise(places))
    widest = math.inf if whole or not steps else 6 * steps[len(steps) // 2]
    path, before = "", math.inf
    for x, y in places:
        path += f"{'L' if 0 <= x - before <= widest else 'M'}{x:.1f} {y:.1f}"
        before = x
    return path


def thin(points: Points, most: int) -> list[tuple[float, float]]:
    """At most about so many of the points: of each stretch the lowest and the highest."""
    if len(points) <= most:
        return list(points)
    size = math.ceil(2 * len(points) / most)
    found: list[tuple[float, float]] = []
    for first in range(0, len(points), size):
        part = points[first : first + size]
        ends = {min(part, key=lambda p: p[1]), max(part, key=lambda p: p[1])}
        found += sorted(ends)
    return [points[0], *found, points[-1]]


def short(value: float) -> str:
    """A number in a few characters: 1,050; 0.0123; 4.5e-05."""
    if value == 0:
        return "0"
    size = abs(value)
    if size >= 1e7 or size < 1e-4:
        return f"{value:.2g}"
    if size >= 100 or value == int(value):
        return f"{value:,.0f}"
    return f"{value:.3g}"


def _round_ticks(low: float, high: float) -> list[float]:
    """Round numbers from low to high, about four."""
    rough = (high - low) / 4
    power = 10 ** math.floor(math.log10(rough))
    step = next((n * power for n in (1, 2, 5) if n * power >= rough), 10 * power)
    first, last = math.ceil(low / step), math.floor(high / step)
    return [round(n * step, 12) for n in range(first, last + 1)]


def _log_ticks(low: float, high: float) -> list[tuple[float, float]]:
    """(log10, value) of 1, or of 1, 2 and 5, times powers of ten."""
    powers = range(math.floor(low), math.ceil(high) + 1)
    digits = (1,) if high - low > 2.2 else (1, 3) if high - low > 1.2 else (1, 2, 5)
    return [(math.log10(n * 10.0**p), n * 10.0**p) for p in powers for n in digits]
