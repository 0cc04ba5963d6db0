"""Pictures inside of a page, so that it needs no file beside it."""

import base64
import io

from PIL import Image

__all__ = ["data_uri"]


def data_uri(picture: Image.Image, kind: str, quality: int) -> str:
    """Return a picture as an address that holds it.

    Args:
        picture: in a mode that the format has.
        kind: Pillow's name of the format, `JPEG` or `WEBP`.
        quality: of the format, from 1 to 100.
    """
    content = io.BytesIO()
    picture.save(content, kind, quality=quality)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(content.getvalue()).decode()}"
