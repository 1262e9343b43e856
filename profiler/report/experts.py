"""How often each expert of each layer was chosen: a heat map of layers by experts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape

from ..profiles import Profile, RoutingRow

ROW, LEFT, TOP, BOTTOM, RIGHT = 22, 200, 18, 22, 230  # pixels
MOST_TITLES = 4096  # cells that say their numbers when pointed at; more of them would make the page slow


def experts_section(profile: Profile) -> str:
    """The section of the page; nothing where no routing was recorded."""
    if not profile.routing:
        return ""
    hottest = max(profile.routing, key=lambda r: r.max_over_mean)
    said = (f"Dark is often. The hottest expert of {escape(hottest.module)} was chosen {hottest.max_over_mean:.2f} "
            "times as often as the mean. Beside each layer: hottest over mean; of a token's experts, how many the "
            "token before it chose too, and in brackets how many would be by chance.")  # fmt: skip
    return (
        '<section aria-labelledby="experts-title">\n<h2 id="experts-title">Experts</h2>\n'
        f'<div id="experts">{heat_map(profile.routing)}</div>\n<p class="hint">{said}</p>\n</section>\n'
    )


def heat_map(rows: Sequence[RoutingRow]) -> str:
    """An SVG as wide as its place: a row for each layer, a cell for each expert, darkest where it is hottest of all."""
    highest = max(r.max_over_mean for r in rows)
    titled = sum(r.experts for r in rows) <= MOST_TITLES
    height = TOP + ROW * len(rows) + BOTTOM
    label = escape(f"how often each expert was chosen, in {len(rows)} layers")
    body = "".join(part for i, row in enumerate(rows) for part in _row(row, i, highest, titled))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="heat" role="img" aria-label="{label}" width="100%" '
        f'height="{height}">{body}{_axis(max(r.experts for r in rows), height)}</svg>'
    )


def _row(row: RoutingRow, index: int, highest: float, titled: bool) -> Iterator[str]:
    y, mean = TOP + ROW * index, max(1, sum(row.counts)) / row.experts
    yield f'<text class="label" x="0" y="{y + 15}">{escape(_short(row.module))}</text>'
    yield (f'<svg x="{LEFT}" y="{y}" width="100%" height="{ROW - 2}" style="width:calc(100% - {LEFT + RIGHT}px)" '
           f'viewBox="0 0 {row.experts} 1" preserveAspectRatio="none">')  # fmt: skip
    for expert, count in enumerate(row.counts):
        over = count / mean
        title = f"<title>expert {expert}: {count:,} tokens, {over:.2f} of the mean</title>" if titled else ""
        yield (f'<rect class="cell" x="{expert}" width="1" height="1" '
               f'fill-opacity="{over / highest:.3f}">{title}</rect>')  # fmt: skip
    yield "</svg>"
    told = f"{row.max_over_mean:.2f}x  {row.kept:.0%} ({row.kept_by_chance:.0%})"
    yield f'<text class="tick" x="100%" y="{y + 15}" text-anchor="end">{told}</text>'


def _axis(experts: int, height: int) -> str:
    last = f'x="100%" dx="-{RIGHT}" y="{height - 6}" text-anchor="end"'
    first = f'x="{LEFT}" y="{height - 6}"'
    return f'<text class="tick" {first}>expert 0</text><text class="tick" {last}>{experts - 1}</text>'


def _short(module: str) -> str:
    """The end of a module's path: layers differ there."""
    return module if len(module) <= 28 else f"…{module[-27:]}"
