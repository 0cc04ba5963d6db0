"""Zero-shot hashing with part-attribute alignment.

From Python: `razh.load("best.ckpt").encode(images)` and `razh.Archive.open("archive/").search("photos/cats/17.jpg")`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from razh.index.api import Archive, Model, load

__version__ = "0.2.0"
__all__ = ["Archive", "Model", "__version__", "load"]


def __getattr__(name: str) -> Any:
    """Import what is used when it is used: `import razh` is light."""
    if name in __all__:
        from razh.index import api

        return getattr(api, name)
    raise AttributeError(f"module 'razh' has no attribute {name!r}")
