"""The frame of every page: one HTML file that loads nothing, with a content security policy that enforces it."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from html import escape
from importlib import resources
from pathlib import Path

from avocet.captioning.formats import printable
from avocet.errors import ConfigError


def text(value: str) -> str:
    """Text from outside as HTML text or attribute value: escaped, control characters and lone surrogates replaced."""
    return escape(printable(value), quote=True).encode("utf-8", "replace").decode("utf-8")


def document(*, title: str, body: str, styles: Sequence[str] = ("page.css",)) -> str:
    """A whole page.

    Args:
        title: plain text.
        body: HTML.
        styles: style sheets in the package's `assets/review`, in order.

    The policy allows the styles by their hash, and media only inside the page; scripts and inline `style` attributes
    are refused by the browser.
    """
    folder = resources.files("avocet").joinpath("assets/review")
    style = "\n".join(folder.joinpath(name).read_text(encoding="utf-8") for name in styles)
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = (
        f"default-src 'none'; media-src data:; img-src data:; style-src 'sha256-{digest}'; "
        "base-uri 'none'; form-action 'none'"
    )
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{escape(policy)}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{text(title)}</title>
<link rel="icon" href="data:,">
<style>{style}</style>
</head>
<body>
{body}
</body>
</html>
"""


def figure_list(figures: Sequence[tuple[str, str]]) -> str:
    """(number, what it counts) each, shown large; "" without any."""
    items = "".join(f"<div><dt>{text(what)}</dt><dd>{text(number)}</dd></div>" for number, what in figures)
    return f'<dl class="figures">{items}</dl>' if items else ""


def warning_list(warnings: Sequence[str]) -> str:
    """A paragraph for each warning."""
    return "\n".join(f'<p class="warning"><strong>Warning</strong> {text(warning)}</p>' for warning in warnings)


def write_html(path: str | Path, content: str) -> Path:
    """Write a page and return its path; its folder is created.

    Raises `ConfigError` when the path cannot be written.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"the page cannot be written to {path}: {error.strerror or error}") from error
    return path
