"""Draw the pictures of README: the flow from its source, and the terminal of `make demo` from a real run.

python tools/pictures.py           # docs/pictures/flow-light.svg and flow-dark.svg, from flow.toml
python tools/pictures.py --demo    # docs/pictures/demo.svg, too: runs the demo, about 20 seconds
"""

import argparse
import os
import pty
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

ROOT = Path(__file__).resolve().parent.parent
PICTURES = ROOT / "docs" / "pictures"
COLUMNS = 122
THEMES = {
    "light": {"text": "#1f2328", "soft": "#59636e", "line": "#818b98", "fill": "#f6f8fa", "strong": "#ddf4ff"},
    "dark": {"text": "#f0f6fc", "soft": "#b7bdc8", "line": "#7d8590", "fill": "#161b22", "strong": "#0c2d6b"},
}
FONT = "system-ui, -apple-system, 'Segoe UI', 'DejaVu Sans', sans-serif"
TERMINAL = """\
<svg xmlns="http://www.w3.org/2000/svg" class="rich-terminal" viewBox="0 0 {width} {height}" role="img">
<title>make demo: what happens in Discord, and what each of three integrations gets of it</title>
<style>
.{unique_id}-matrix {{ font-family: ui-monospace, Menlo, Consolas, "DejaVu Sans Mono", monospace; \
font-size: {char_height}px; line-height: {line_height}px; }}
{styles}
</style>
<defs><clipPath id="{unique_id}-clip-terminal">\
<rect x="0" y="0" width="{terminal_width}" height="{terminal_height}" /></clipPath>{lines}</defs>
{chrome}
<g transform="translate({terminal_x}, {terminal_y})" clip-path="url(#{unique_id}-clip-terminal)">
{backgrounds}<g class="{unique_id}-matrix" xml:space="preserve">{matrix}</g></g>
</svg>
"""
"""As rich draws a terminal, but with the fonts of the reader's machine: nothing is loaded from elsewhere."""


def main() -> None:
    """Write the pictures."""
    parser = argparse.ArgumentParser(description="Draw the pictures of README.")
    parser.add_argument("--demo", action="store_true", help="run the demo and draw its terminal, too")
    arguments = parser.parse_args()
    for theme in THEMES:
        (PICTURES / f"flow-{theme}.svg").write_text(flow(theme))
    if arguments.demo:
        (PICTURES / "demo.svg").write_text(terminal(demo()))


def flow(theme: str) -> str:
    """The picture of the flow, for a light or a dark page."""
    source, colours = tomllib.loads((PICTURES / "flow.toml").read_text()), THEMES[theme]
    width, height = source["size"]
    arrow_head = (
        f'<marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" markerHeight="8" orient="auto">'
        f'<path d="M0 0 L8 4 L0 8 z" fill="{colours["line"]}"/></marker>'
    )
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" font-family="{FONT}">',
        f"<title>{escape(source['title'])}</title>",
        f"<defs>{arrow_head}</defs>",
        *(arrow(one, colours) for one in source["arrow"]),
        *(box(one, colours) for one in source["box"]),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def box(source: dict[str, Any], colours: dict[str, str]) -> str:
    """A box with a title and lines, centred."""
    (x, y), (width, height), lines = source["at"], source["size"], source["lines"]
    fill = colours["strong" if source.get("strong") else "fill"]
    middle, top = x + width / 2, y + (height - 22 * len(lines) - 8) / 2 + 6
    texts = [text(middle, top, source["title"], colours["text"], size=18)]
    texts += [text(middle, top + 6 + 22 * row, line, colours["soft"]) for row, line in enumerate(lines, 1) if line]
    frame = (
        f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="10" fill="{fill}" '
        f'stroke="{colours["line"]}" stroke-width="1.5"/>'
    )
    return "\n".join([frame, *texts])


def arrow(source: dict[str, Any], colours: dict[str, str]) -> str:
    """An arrow with its label above the middle."""
    (x1, y1), (x2, y2) = source["from"], source["to"]
    line = (
        f'<line x1="{x1 + 4}" y1="{y1}" x2="{x2 - 4}" y2="{y2}" stroke="{colours["line"]}" stroke-width="2" '
        'marker-end="url(#head)"/>'
    )
    return "\n".join([line, text((x1 + x2) / 2, (y1 + y2) / 2 - 9, source["label"], colours["text"], size=14)])


def text(x: float, y: float, words: str, colour: str, *, size: int = 15) -> str:
    """One line of text, centred at x, on the base line y; a large one is bold."""
    weight = 600 if size > 16 else 400
    return (
        f'<text x="{x:g}" y="{y:g}" text-anchor="middle" font-size="{size}" font-weight="{weight}" '
        f'fill="{colour}">{escape(words)}</text>'
    )


def demo() -> str:
    """What `make demo` writes to a terminal."""
    leader, follower = pty.openpty()
    command = [sys.executable, "-m", "examples.demo"]
    process = subprocess.Popen(  # noqa: S603  ourselves
        command, stdout=follower, cwd=ROOT, env={**os.environ, "COLUMNS": str(COLUMNS)}
    )
    os.close(follower)
    written = bytearray()
    try:
        while some := os.read(leader, 65536):
            written += some
    except OSError:  # how a terminal says that its last writer is gone
        pass
    os.close(leader)
    if process.wait():
        raise SystemExit("the demo failed")
    return written.decode().replace("\r\n", "\n")


def selected(lines: list[str]) -> list[str]:
    """The beginning, the moment at which a scope is taken away, and the sums."""
    moment = next(number for number, line in enumerate(lines) if ">>>" in line)
    return [*lines[:11], "...", *lines[moment - 4 : moment + 9], "...", *lines[-4:]]


def terminal(output: str) -> str:
    """A picture of a terminal that shows the most telling lines of the demo's output."""
    from rich.console import Console  # noqa: PLC0415  only this picture needs it
    from rich.text import Text  # noqa: PLC0415

    shown = selected(output.splitlines())
    console = Console(record=True, width=COLUMNS, file=open(os.devnull, "w"))  # noqa: PTH123, SIM115  shown nowhere
    console.print("[bold]$ make demo")
    console.print(Text.from_ansi("\n".join(shown)))
    drawn = console.export_svg(title="make demo", code_format=TERMINAL, unique_id="demo")
    return "\n".join(line.rstrip() for line in drawn.splitlines()) + "\n"


if __name__ == "__main__":
    main()
