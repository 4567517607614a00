"""Turns any picture of a camera or the web into an upright sRGB JPEG.

Uses only Pillow; runs in the worker processes of `prepare`.
"""

import io

from sseg_jax.images import reader


class Rejected(Exception):
  """A picture that cannot be used; the argument is the reason, one word."""


def to_jpeg(data: bytes, *, short_side: int = 0, quality: int = 95) -> bytes:
  """Returns the picture, as `images.reader.decode` sees it, as an RGB JPEG.

  Args:
    data: an encoded picture in any format Pillow reads.
    short_side: larger pictures are shrunk to it, keeping their shape; smaller
      ones stay; 0 keeps every size up to `images.reader.MAX_PIXELS`.
    quality: of the JPEG.

  Returns:
    A JPEG. If `data` is already a suitable JPEG that the decoder of training
    reads with the same pixels, `data` itself.

  Raises:
    Rejected: `empty_file`, `unreadable` or `too_large` (see
      `images.reader.LARGEST`).
  """
  try:
    picture = reader.decode(data, "picture", short_side=short_side)
  except reader.BadPicture as error:
    raise Rejected(error.reason) from None
  if picture.is_plain:
    return data
  out = io.BytesIO()
  # Chroma is not subsampled, because pseudo-masks follow colour edges. Metadata
  # of the old file are not copied, because they are already applied.
  picture.image.save(
    out,
    "JPEG",
    quality=quality,
    subsampling=0,
    icc_profile=None,
    exif=b"",
    comment=b"",
  )
  return out.getvalue()
