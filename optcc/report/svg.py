"""Small plots as inline SVG: no library, no script, colours from the page's style sheet, a title on every mark."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from markupsafe import Markup, escape

from optcc.report.scales import Scale, tick_text

WIDTH, HEIGHT = 460, 270
LEFT, RIGHT, TOP, BOTTOM = 58, 12, 14, 44
SERIES = 8
"""Colours that the style sheet has; further series begin again."""


def group(name: str, parts: Sequence[Markup]) -> Markup:
    """A `<g class=name>`."""
    return Markup('<g class="{}">').format(name) + Markup("").join(parts) + Markup("</g>")


def dot(x: float, y: float, series: int, title: str, radius: float = 3.4) -> Markup:
    """A point with a tooltip."""
    return Markup('<circle class="s{}" cx="{:.1f}" cy="{:.1f}" r="{}"><title>{}</title></circle>').format(
        series % SERIES, x, y, radius, title
    )


def line(points: Sequence[tuple[float, float]], series: int) -> Markup:
    """A broken line."""
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return Markup('<polyline class="line s{}" points="{}"/>').format(series % SERIES, path)


def band(upper: Sequence[tuple[float, float]], lower: Sequence[tuple[float, float]], series: int) -> Markup:
    """The area between two lines."""
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in [*upper, *reversed(lower)])
    return Markup('<polygon class="band s{}" points="{}"/>').format(series % SERIES, path)


def bar(
    x: float, y: float, width: float, height: float, series: int, title: str, faint: bool = False
) -> Markup:
    """A filled rectangle with a tooltip."""
    return Markup(
        '<rect class="bar{} s{}" x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}" rx="1.5"><title>{}</title></rect>'
    ).format(" faint" if faint else "", series % SERIES, x, y, max(width, 0.8), height, title)


def text(x: float, y: float, value: str, anchor: str = "start", name: str = "") -> Markup:
    """Words."""
    return Markup('<text class="{}" x="{:.1f}" y="{:.1f}" text-anchor="{}">{}</text>').format(
        name, x, y, anchor, value
    )


def rule(x1: float, y1: float, x2: float, y2: float, name: str) -> Markup:
    """A straight line of the class `name`."""
    return Markup('<line class="{}" x1="{:.1f}" y1="{:.1f}" x2="{:.1f}" y2="{:.1f}"/>').format(
        name, x1, y1, x2, y2
    )


@dataclass
class Frame:
    """A plot with two axes, drawn into from back to front.

    Attributes:
        label: what it shows, for those who can't see it.
        x, y: scales; y grows upwards.
        x_name, y_name: what the axes are, with units.
        parts: marks so far.
    """

    label: str
    x: Scale
    y: Scale
    x_name: str
    y_name: str
    x_ticks: Sequence[tuple[float, str]] | None = None
    height: int = HEIGHT
    parts: list[Markup] = field(default_factory=list)

    def add(self, *parts: Markup) -> None:
        """Draw on top of what is there."""
        self.parts.extend(parts)

    def limit(self, value: float, name: str) -> None:
        """A dashed line at a limit, where it lies within the scale."""
        if self.y.low <= value <= self.y.high:
            y = self.y(value)
            self.add(
                rule(LEFT, y, WIDTH - RIGHT, y, "limit"), text(WIDTH - RIGHT, y - 4, name, "end", "note")
            )

    def draw(self) -> Markup:
        """The whole `<svg>`."""
        bottom = self.height - BOTTOM
        axes = [rule(LEFT, bottom, WIDTH - RIGHT, bottom, "axis")]
        for value in self.y.ticks():
            y = self.y(value)
            axes += [
                rule(LEFT, y, WIDTH - RIGHT, y, "grid"),
                text(LEFT - 6, y + 4, tick_text(value), "end", "tick"),
            ]
        ticks = self.x_ticks if self.x_ticks is not None else [(v, tick_text(v)) for v in self.x.ticks(6)]
        for value, words in ticks:
            x = self.x(value)
            axes += [
                rule(x, bottom, x, bottom + 4, "axis"),
                text(x, bottom + 17, words, "middle", "tick"),
            ]
        middle = (LEFT + WIDTH - RIGHT) / 2
        axes.append(text(middle, self.height - 8, self.x_name, "middle", "name"))
        side = Markup(
            '<text class="name" transform="translate(13 {:.1f}) rotate(-90)" text-anchor="middle">{}</text>'
        )
        axes.append(side.format((TOP + bottom) / 2, self.y_name))
        return picture(self.label, WIDTH, self.height, [*axes, *self.parts])


def picture(label: str, width: float, height: float, parts: Sequence[Markup], name: str = "plot") -> Markup:
    """An `<svg>` that scales with its box."""
    head = Markup('<svg class="{}" viewBox="0 0 {:g} {:g}" role="img" aria-label="{}">')
    return head.format(name, width, height, label) + Markup("").join(parts) + Markup("</svg>")


def legend(names: Sequence[str]) -> Markup:
    """Names of the series, in order of their colours; nothing for one alone."""
    if len(names) < 2:
        return Markup("")
    items = Markup("").join(
        Markup('<li><span class="key s{}"></span>{}</li>').format(i % SERIES, escape(name))
        for i, name in enumerate(names)
    )
    return Markup('<ul class="legend">') + items + Markup("</ul>")
