"""Text that somebody else wrote, on this terminal: see :mod:`ggmlpy.files.foreign` for what is unsafe.

That module is imported when something is printed, so that ``--help`` imports no library.
"""

from __future__ import annotations

import re

__all__ = ["escape", "one_line", "safe_json", "visible_json"]


def one_line(text: object) -> str:
    """A text with its control characters and line breaks as escapes.

    >>> print(one_line("a\\nb"))
    a\\nb
    """
    from ggmlpy.files.foreign import visible

    return visible(str(text))


def escape(text: object, mark: str | None = None) -> str:
    """A text of several lines with its control characters as escapes or as ``mark``; new lines and tabs stay.

    >>> escape("red: \\x1b[31m"), escape("red: \\x1b[31m", "?")
    ('red: \\\\x1b[31m', 'red: ?[31m')
    """
    from ggmlpy.files.foreign import visible, without_controls

    return visible(str(text), "\n\t") if mark is None else without_controls(str(text), "\n\t", mark)


def safe_json(value: object) -> str:
    r"""A JSON document in which unsafe characters are escapes; Chinese text stays readable.

    >>> print(safe_json(["你好 \x9b31m"]))
    [
      "你好 \u009b31m"
    ]
    """
    import json

    return visible_json(json.dumps(value, ensure_ascii=False, indent=2, default=str))


def visible_json(text: str) -> str:
    """JSON with the unsafe characters in its strings as JSON's escapes."""
    import json

    from ggmlpy.files.foreign import UNSAFE

    return re.sub(UNSAFE, lambda found: found[0] if found[0] == "\n" else json.dumps(found[0])[1:-1], text)
