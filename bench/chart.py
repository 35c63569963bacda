"""A bar chart as SVG, readable by daylight and by night."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

ROW, LABEL, WIDTH, VALUE = 26, 330, 420, 150
STYLE = """
    text { font: 13px system-ui, sans-serif; fill: #24292f }
    .small { fill: #57606a; font-size: 11px }
    .ours { fill: #1f6feb } .theirs { fill: #8c959f } .loses { fill: #d4a72c }
    @media (prefers-color-scheme: dark) { text { fill: #e6edf3 } .small { fill: #9198a1 } }
"""


@dataclass(frozen=True)
class Bar:
    label: str
    figure: float
    note: str
    kind: str  # "ours", "theirs" or "loses"


def svg(title: str, bars: Sequence[Bar]) -> str:
    longest = max(bar.figure for bar in bars)
    height = ROW * (len(bars) + 2)
    rows = "\n".join(row(number, bar, longest) for number, bar in enumerate(bars, start=1))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{LABEL + WIDTH + VALUE}" height="{height}" role="img"'
        f' aria-label="{escape(title)}">\n<style>{STYLE}</style>\n'
        f'<text x="8" y="18" font-weight="600">{escape(title)}</text>\n{rows}\n</svg>\n'
    )


def row(number: int, bar: Bar, longest: float) -> str:
    top = number * ROW + 6
    width = max(1.0, WIDTH * bar.figure / longest)
    return (
        f'<text x="{LABEL - 8}" y="{top + 14}" text-anchor="end">{escape(bar.label)}</text>'
        f'<rect class="{bar.kind}" x="{LABEL}" y="{top}" width="{width:.1f}" height="18" rx="2"/>'
        f'<text class="small" x="{LABEL + width + 6:.1f}" y="{top + 13}">{escape(bar.note)}</text>'
    )
