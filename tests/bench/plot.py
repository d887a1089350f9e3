"""The plot of README.md: small panels of bar pairs, as SVG written by hand.

It brings its own background, so that it can be read on any page, and follows the reader's preference for dark. All texts fit their
places in fonts as wide as DejaVu Sans; tests/bench/check holds them to it.
"""
from xml.sax.saxutils import escape

import figures
import measures

WIDTH, MARGIN, GUTTER, COLUMNS = 830, 22, 30, 3
COLUMN = (WIDTH - 2 * MARGIN - (COLUMNS - 1) * GUTTER) / COLUMNS
HEAD, TITLE, PAIR, PANEL_GAP, FOOT = 62, 46, 66, 22, 34
BAR, BAR_GAP = 14, 4
# What is left of a column next to the longest bar, for its value.
VALUE = 84
NAMES = {"ours": "qemu-ga-rs (this agent)", "original": "QEMU's qemu-ga"}
STYLE = """
  text { font-family: -apple-system, "Segoe UI", "Noto Sans", Helvetica, Arial, sans-serif; font-size: 12px; fill: #1f2328 }
  .title { font-size: 14px; font-weight: 600 }
  .less, .note { font-size: 11px; fill: #59636e }
  .ours { fill: #0b62c4 } .original { fill: #8a939d } .value.ours { fill: #0b62c4; font-weight: 600 } .value.original { fill: #59636e }
  .page { fill: #ffffff; stroke: #d1d9e0 } .zero { stroke: #59636e } .rule { stroke: #d1d9e0 }
  @media (prefers-color-scheme: dark) {
    text { fill: #f0f6fc } .less, .note, .value.original { fill: #9198a1 }
    .ours, .value.ours { fill: #58a6ff } .original { fill: #6e7681 }
    .page { fill: #0d1117; stroke: #3d444d } .zero { stroke: #9198a1 } .rule { stroke: #3d444d }
  }
"""


def draw(facts, known):
    """The whole SVG. Each pair of bars has a scale of its own: the longer one fills the column."""
    rows = [measures.PANELS[start:start + COLUMNS] for start in range(0, len(measures.PANELS), COLUMNS)]
    heights = [TITLE + PAIR * max(len(panel.pairs) for panel in row) for row in rows]
    height = HEAD + sum(heights) + PANEL_GAP * (len(rows) - 1) + FOOT
    parts = [f'<rect class="page" x="0.5" y="0.5" width="{WIDTH - 1}" height="{height - 1}" rx="6"/>', *legend()]
    top = HEAD
    for row, tall in zip(rows, heights):
        for column, panel in enumerate(row):
            parts += draw_panel(panel, known, MARGIN + column * (COLUMN + GUTTER), top)
        top += tall + PANEL_GAP
    parts.append(text(MARGIN, height - 14, note(facts), "note"))
    return (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" role="img" '
            f'aria-labelledby="title desc">\n<title id="title">{escape(title())}</title>\n<desc id="desc">{escape(describe(known))}</desc>\n'
            f"<style>{STYLE}</style>\n" + "\n".join(parts) + "\n</svg>\n")


def title():
    """What the plot shows, in a line."""
    return "What qemu-ga-rs costs a guest, compared with QEMU's own guest agent"


def note(facts):
    """The line under the panels."""
    return (f"Medians of {facts['rounds']} rounds, both in turn on one machine and in one emulated guest, {facts['date']}. "
            "Each pair of bars has a scale of its own.")


def describe(known):
    """The plot in words, for those who cannot see it."""
    return " ".join(f"{panel.title}: " + "; ".join(in_words(known[name], label) for name, label in panel.pairs) + "."
                    for panel in measures.PANELS)


def in_words(figure, label):
    """One pair of bars in words."""
    ours, original = figure.medians()
    return f"{label}, {ours} against {original}"


def legend():
    """Which bar is whose, and how to read them all."""
    parts, x = [], MARGIN
    for side in figures.SIDES:
        parts += [f'<rect class="{side}" x="{x}" y="20" width="{BAR}" height="{BAR}" rx="2"/>', text(x + BAR + 7, 31.5, NAMES[side], "legend")]
        x += 190
    parts.append(text(WIDTH - MARGIN, 31.5, "Shorter is better.", "legend", anchor="end"))
    return parts + [f'<line class="rule" x1="{MARGIN}" y1="46.5" x2="{WIDTH - MARGIN}" y2="46.5"/>']


def draw_panel(panel, known, left, top):
    """Title, what less means, and the pairs."""
    parts = [text(left, top + 14, panel.title, "title"), text(left, top + 31, panel.less, "less")]
    for number, (name, label) in enumerate(panel.pairs):
        y = top + TITLE + number * PAIR
        parts.append(text(left, y + 11, label))
        bars = y + 18
        parts += [draw_bar(known[name], side, left, bars + index * (BAR + BAR_GAP)) for index, side in enumerate(figures.SIDES)]
        parts.append(f'<line class="zero" x1="{left:g}" y1="{bars - 2}" x2="{left:g}" y2="{bars + 2 * BAR + BAR_GAP + 2}"/>')
    return parts


def draw_bar(figure, side, left, top):
    """A bar from the zero line, and its value at its end; nothing but a 0 where there is nothing."""
    longest = max(figure.median(other) for other in figures.SIDES)
    width = (COLUMN - VALUE) * max(figure.median(side), 0) / longest if longest > 0 else 0
    bar = f'<rect class="{side}" x="{left:g}" y="{top}" width="{width:.1f}" height="{BAR}"/>' if width else ""
    shown = figure.medians()[figures.SIDES.index(side)]
    return bar + text(left + width + 6, top + BAR - 2.5, shown, f"value {side}")


def text(x, y, words, kind="", anchor="start"):
    """One line of text."""
    kind = f' class="{kind}"' if kind else ""
    anchor = f' text-anchor="{anchor}"' if anchor != "start" else ""
    return f'<text{kind} x="{x:g}" y="{y:g}"{anchor}>{escape(words)}</text>'
