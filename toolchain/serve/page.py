"""The chat page, one file that fetches nothing from elsewhere, and the policy that holds a browser to that.

It is put together from the files of the folder ``page``; its script is what stands in :data:`SCRIPTS`, in this order.
"""

from __future__ import annotations

import base64
import hashlib
import re
from functools import cache
from importlib.resources import files

__all__ = ["page", "policy_of"]

SCRIPTS = ("words.js", "store.js", "markdown.js", "chat.js")


def _part(name: str) -> str:
    return files(__package__).joinpath("page").joinpath(name).read_text("utf-8")


@cache
def page() -> str:
    """The page as it is sent."""
    style, script = _part("page.css"), "\n".join(['"use strict"\n', *map(_part, SCRIPTS)])
    parts = {"<style></style>": f"<style>\n{style}</style>", "<script></script>": f"<script>\n{script}</script>"}
    return re.sub("|".join(parts), lambda tag: parts[tag[0]], _part("page.html"))


@cache
def policy_of(text: str) -> str:
    """A content security policy: the page's own script and style, by their hashes, and nothing else runs or is loaded.

    >>> policy_of("<style>a</style><script>b</script>")[:84]
    "default-src 'none'; script-src 'sha256-PiPoFgA5WUoziU9lZOGxNIu9egCI1CxKy3PurtWcAJ0='"
    """

    def hashes(tag: str) -> str:
        parts = re.findall(f"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
        return " ".join(
            f"'sha256-{base64.b64encode(hashlib.sha256(part.encode()).digest()).decode()}'" for part in parts
        )

    return (
        f"default-src 'none'; script-src {hashes('script')}; style-src {hashes('style')}; connect-src 'self'; "
        "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
