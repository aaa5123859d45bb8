"""Equations as pictures, drawn while the book is built: no script and no font has to come from elsewhere.

Beside each picture, out of sight, stands the same as MathML for those who listen to the page.
"""

from __future__ import annotations

from typing import Any

import ziamath
from docutils import nodes
from latex2mathml.converter import convert
from sphinx.application import Sphinx
from sphinx.writers.html5 import HTML5Translator

ziamath.config.svg2 = False  # every letter where it stands: letters that are shared need ids, which collide in a page
_SIZE = 16  # units of the picture to one em of the text around it


def equation(tex: str, inline: bool = True) -> str:
    """HTML of an equation: its picture, as large and as dark as the text around it, and its MathML."""
    drawn = ziamath.Latex(tex, size=_SIZE, color="currentColor", inline=inline)
    svg = drawn.svgxml()
    style = f"vertical-align: {drawn.getyofst() / _SIZE:.3f}em" if inline else ""
    for name in ("width", "height"):
        svg.set(name, f"{float(svg.get(name)) / _SIZE:.3f}em")
    svg.attrib |= {"class": "equation", "aria-hidden": "true", "style": style}
    return ziamath.zmath.ET.tostring(svg, encoding="unicode") + f'<span class="out-of-sight">{convert(tex)}</span>'


def _visit(translator: HTML5Translator, node: nodes.math) -> None:
    translator.body.append(f'<span class="math">{equation(node.astext())}</span>')
    raise nodes.SkipNode


def _visit_block(translator: HTML5Translator, node: nodes.math_block) -> None:
    translator.body.append(f'<div class="math" tabindex="0">{equation(node.astext(), inline=False)}</div>\n')
    raise nodes.SkipNode


def setup(app: Sphinx) -> dict[str, Any]:
    """Enter the renderer; ``html_math_renderer = "drawn"`` chooses it."""
    app.add_html_math_renderer("drawn", (_visit, None), (_visit_block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
