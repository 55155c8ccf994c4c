"""Draws how long each engine takes, as an SVG file with two panels and no library."""

import math
from collections.abc import Callable, Sequence
from html import escape

COLOURS = ["#b3261e", "#0b57d0", "#8a5a00", "#7b2d8e", "#146c2e"]
PANEL_WIDTH, PANEL_HEIGHT, LEFT, TOP, GAP = 400, 300, 70, 50, 90
STYLE = "text{font:12px sans-serif;fill:#1f1f1f}.title{font-size:14px;font-weight:bold}.grid{stroke:#ddd}.axis{stroke:#555}"

TICKS = [(1, "1 s"), (10, "10 s"), (60, "1 min"), (600, "10 min"), (3600, "1 h"), (36000, "10 h"), (864000, "10 d")]


class Panel:
    """A field of axes: time upwards or to the right is logarithmic."""

    def __init__(self, column: int, title: str) -> None:
        self.left = LEFT + column * (PANEL_WIDTH + GAP)
        self.parts = [f'<text class="title" x="{self.left}" y="{TOP - 20}">{escape(title)}</text>']

    def x(self, share: float) -> float:
        return self.left + share * PANEL_WIDTH

    def y(self, share: float) -> float:
        return TOP + (1 - share) * PANEL_HEIGHT

    def tick_x(self, share: float, text: str) -> None:
        x, bottom = self.x(share), TOP + PANEL_HEIGHT
        self.parts.append(f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{bottom}"/>')
        self.parts.append(f'<text x="{x:.1f}" y="{bottom + 18}" text-anchor="middle">{escape(text)}</text>')

    def tick_y(self, share: float, text: str) -> None:
        y = self.y(share)
        self.parts.append(f'<line class="grid" x1="{self.left}" x2="{self.x(1)}" y1="{y:.1f}" y2="{y:.1f}"/>')
        self.parts.append(f'<text x="{self.left - 8}" y="{y + 4:.1f}" text-anchor="end">{escape(text)}</text>')

    def label_x(self, text: str) -> None:
        self.parts.append(
            f'<text x="{self.x(0.5)}" y="{TOP + PANEL_HEIGHT + 38}" text-anchor="middle">{escape(text)}</text>'
        )

    def line(self, points: Sequence[tuple[float, float]], colour: str, dots: bool) -> None:
        path = " ".join(f"{self.x(x):.1f},{self.y(y):.1f}" for x, y in points)
        self.parts.append(f'<polyline fill="none" stroke="{colour}" stroke-width="2" points="{path}"/>')
        if dots:
            self.parts += [f'<circle r="3" fill="{colour}" cx="{self.x(x):.1f}" cy="{self.y(y):.1f}"/>' for x, y in points]

    def text(self) -> str:
        box = f'<rect class="axis" fill="none" x="{self.left}" y="{TOP}" width="{PANEL_WIDTH}" height="{PANEL_HEIGHT}"/>'
        return "\n".join([*self.parts, box])


def logarithmic(low: float, high: float) -> Callable[[float], float]:
    return lambda value: math.log(max(value, low) / low) / math.log(high / low)


def by_size(curves: dict[str, list[tuple[int, float]]]) -> Panel:
    """Number of nodes to the right, time until all are ready upwards."""
    panel = Panel(0, "Time until all nodes are ready")
    sizes = sorted({size for points in curves.values() for size, _ in points})
    times = [time for points in curves.values() for _, time in points]
    across, up = logarithmic(sizes[0], sizes[-1]), logarithmic(10, max(*times, 100) * 2)
    for size in sizes:
        panel.tick_x(across(size), f"{size:,}")
    for seconds, text in TICKS:
        if 10 <= seconds <= max(times) * 2:
            panel.tick_y(up(seconds), text)
    panel.label_x("nodes")
    for colour, points in zip(COLOURS, curves.values(), strict=True):
        panel.line([(across(size), up(time)) for size, time in points], colour, dots=True)
    return panel


def by_time(ready: dict[str, list[float]], nodes: int) -> Panel:
    """Time to the right, share of the nodes that are ready upwards."""
    panel = Panel(1, f"Nodes that are ready, of {nodes:,}")
    across = logarithmic(10, max(map(max, ready.values())) * 1.5)
    for seconds, text in TICKS:
        if 0 <= across(seconds) <= 1 and seconds >= 10:
            panel.tick_x(across(seconds), text)
    for percent in range(0, 101, 25):
        panel.tick_y(percent / 100, f"{percent} %")
    panel.label_x("time since the rollout began")
    for colour, times in zip(COLOURS, ready.values(), strict=True):
        ordered = sorted(times)
        steps = [ordered[(len(ordered) - 1) * part // 200] for part in range(201)]
        points = [(across(time), part / 200) for part, time in enumerate(steps)]
        panel.line([(across(ordered[0]), 0.0), *points, (1.0, 1.0)], colour, dots=False)
    return panel


def legend(names: Sequence[str]) -> str:
    y = TOP + PANEL_HEIGHT + 66
    parts = []
    for place, (name, colour) in enumerate(zip(names, COLOURS, strict=True)):
        x = LEFT + place * 165
        parts.append(f'<line stroke="{colour}" stroke-width="3" x1="{x}" x2="{x + 24}" y1="{y - 4}" y2="{y - 4}"/>')
        parts.append(f'<text x="{x + 30}" y="{y}">{escape(name)}</text>')
    return "\n".join(parts)


def drawing(curves: dict[str, list[tuple[int, float]]], ready: dict[str, list[float]], nodes: int) -> str:
    """The whole file."""
    width, height = LEFT + 2 * PANEL_WIDTH + GAP + 30, TOP + PANEL_HEIGHT + 85
    body = "\n".join([by_size(curves).text(), by_time(ready, nodes).text(), legend(list(curves))])
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}">\n'
        f"<style>{STYLE}</style>\n<rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n{body}\n</svg>\n"
    )
