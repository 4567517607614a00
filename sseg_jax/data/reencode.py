"""Turns any picture of a camera or the web into an upright sRGB JPEG.

Uses only Pillow and numpy; runs in the worker processes of `prepare`.
"""

import dataclasses
import io

from sseg_jax.images import likeness, reader


class Rejected(Exception):
  """A picture that cannot be used; the argument is the reason, one word."""


@dataclasses.dataclass(frozen=True)
class Converted:
  """A picture as it is stored.

  Attributes:
    jpeg: the encoded picture.
    size: width and height of `jpeg`.
    likeness: 64 bits that similar pictures share (`images/likeness.py`); 0
      where they were not asked for.
  """

  jpeg: bytes
  size: tuple[int, int]
  likeness: int = 0


def to_jpeg(data: bytes, *, short_side: int = 0, quality: int = 95) -> bytes:
  """Returns the JPEG of `convert`."""
  return convert(data, short_side=short_side, quality=quality).jpeg


def convert(
  data: bytes,
  *,
  short_side: int = 0,
  quality: int = 95,
  min_size: int = 0,
  max_aspect: float = 0,
  with_likeness: bool = False,
) -> Converted:
  """Returns the picture, as `images.reader.decode` sees it, as an RGB JPEG.

  Args:
    data: an encoded picture in any format Pillow reads.
    short_side: larger pictures are shrunk to it, keeping their shape; smaller
      ones stay; 0 keeps every size up to `images.reader.MAX_PIXELS`.
    quality: of the JPEG.
    min_size: least short side, in pixels, of the picture as it is given.
    max_aspect: largest ratio of long side to short side; 0 takes all.
    with_likeness: whether `likeness` is computed.

  Returns:
    A JPEG. If `data` is already a suitable JPEG that the decoder of training
    reads with the same pixels, `data` itself.

  Raises:
    Rejected: `empty_file`, `unreadable`, `too_large` (see
      `images.reader.LARGEST`), `too_small` or `too_narrow`.
  """
  try:
    picture = reader.decode(data, "picture", short_side=short_side)
  except reader.BadPicture as error:
    raise Rejected(error.reason) from None
  if min(picture.full_size) < min_size:
    raise Rejected("too_small")
  if max_aspect and max(picture.full_size) > max_aspect * min(
    picture.full_size
  ):
    raise Rejected("too_narrow")
  bits = likeness.of(picture.image) if with_likeness else 0
  if picture.is_plain:
    return Converted(data, picture.image.size, bits)
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
  return Converted(out.getvalue(), picture.image.size, bits)
