"""What our pages of HTML share: templates, figures drawn as SVG within the page, and a file that is replaced whole."""

from __future__ import annotations

import io
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jinja2
import matplotlib as mpl
from markupsafe import Markup
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure


def template(name: str, *filters: Callable[..., Any]) -> jinja2.Template:
    """A template of `assets/`, with these filters under their own names; what it is given is escaped."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "assets"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update({function.__name__: function for function in filters})
    return environment.get_template(name)


@contextmanager
def drawing() -> Iterator[None]:
    """The style of our figures; text stays text, and a figure drawn again is the same file."""
    style: Any = {"svg.fonttype": "none", "svg.hashsalt": "simtoreal", "font.size": 9, "axes.linewidth": 0.6}
    with mpl.rc_context(style):
        yield


def svg(figure: Figure) -> Markup:
    """A figure as an element of a page."""
    buffer = io.StringIO()
    FigureCanvasSVG(figure)
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    text = buffer.getvalue()
    return Markup(text[text.index("<svg") :])


def replace_page(path: Path, text: str) -> None:
    """Write a page in place of what is at `path`, whole or not at all."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
