#!/usr/bin/env python3
"""Draws what bench/serve.py measured: latency and replies a second over the number of robots, a line for each way of serving.

    bench/serve_picture.py RESULTS.json OUT.svg

RESULTS.json has lists of runs by name, as bench/results/h100/serve.json. Needs the standard library alone.
"""

import json
import sys
from html import escape
from pathlib import Path

COLORS = ["#1E88E5", "#E07A1F", "#2E9E5B", "#8E5BD0"]
INK, MUTED, GRID = "#262B33", "#6B7280", "#E8EBEF"
WIDTH, HEIGHT = 400, 230


def steps(highest: float) -> list[float]:
    """Round numbers from 0 to the first beyond `highest`, four to six of them."""
    power = 10.0 ** (len(str(int(highest))) - 1)
    step = next(step for step in (power / 5, power / 2, power, 2 * power) if highest / step <= 5)
    return [step * index for index in range(int(highest / step) + 2)]


def text(x: float, y: float, words: str, size: int = 10, color: str = MUTED, anchor: str = "start") -> str:
    style = f'font-size="{size}" fill="{color}" text-anchor="{anchor}"'
    return f'<text x="{x:.1f}" y="{y:.1f}" {style}>{escape(words)}</text>'


def panel(left: float, top: float, title: str, series: list) -> list[str]:
    """`series`: color, dash and points (robots, value) of each line."""
    ticks = steps(max(value for _, _, points in series for _, value in points))
    most = max(robots for _, _, points in series for robots, _ in points)
    place = lambda robots, value: (left + WIDTH * robots / most, top + HEIGHT * (1 - value / ticks[-1]))
    drawn = [text(left, top - 14, title, 12, INK)]
    for tick in ticks:
        _, y = place(0, tick)
        drawn.append(f'<path d="M{left} {y:.1f}h{WIDTH}" stroke="{GRID}"/>')
        drawn.append(text(left - 8, y + 3.5, f"{tick:g}", anchor="end"))
    for robots in sorted({robots for _, _, points in series for robots, _ in points}):
        drawn.append(text(place(robots, 0)[0], top + HEIGHT + 16, str(robots), anchor="middle"))
    for color, dash, points in series:
        places = [place(*point) for point in sorted(points)]
        line = "L".join(f"{x:.1f} {y:.1f}" for x, y in places)
        drawn.append(f'<path d="M{line}" fill="none" stroke="{color}" stroke-width="1.8" stroke-dasharray="{dash}"/>')
        drawn += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{color}"/>' for x, y in places]
    return drawn


def main() -> int:
    if len(sys.argv) != 3:
        print(__doc__, file=sys.stderr)
        return 2
    results = json.loads(Path(sys.argv[1]).read_text())
    named = [(name, runs) for name, runs in results.items() if isinstance(runs, list)]
    if not named or any("latency_ms" not in run for _, runs in named for run in runs):
        print(f"{sys.argv[1]}: expected lists of runs with latency_ms, found {', '.join(results)}", file=sys.stderr)
        return 2
    latency, replies, legend = [], [], []
    for index, (name, runs) in enumerate(named):
        color = COLORS[index % len(COLORS)]
        of = lambda key: [(run["clients"], run["latency_ms"][key]) for run in runs]
        latency += [(color, "", of("p50")), (color, "4 3", of("p99"))]
        replies.append((color, "", [(run["clients"], run["requests_per_second"]) for run in runs]))
        legend.append(text(60 + 170 * index, 74, name.replace("_", " "), 12, color))
    body = [
        text(24, 30, "Robots that ask again as soon as they are answered", 18, INK),
        text(24, 50, f"{results.get('device', '')}, {results.get('commit', '')}", 12),
        *legend,
        *panel(60, 116, "latency in the client, ms: p50, p99 dashed", latency),
        *panel(540, 116, "replies a second", replies),
    ]
    size = 'width="980" height="380" viewBox="0 0 980 380"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif"><rect width="980" height="380" fill="#fff"/>'
    Path(sys.argv[2]).write_text("\n".join([head, *body, "</svg>", ""]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
