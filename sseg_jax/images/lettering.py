"""Letters and their colours, for legends and titles."""

from PIL import ImageFont

INK = (32, 32, 36)
PALE = (120, 120, 128)
PAPER = (255, 255, 255)


def font(
  size: int, text: str = ""
) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
  """Returns letters of `size` pixels that have what `text` needs, if any do."""
  if not text.isascii():
    # Pillow's own font has only Latin letters.
    for name in ("NotoSansCJK-Regular.ttc", "DejaVuSans.ttf", "Arial.ttf"):
      try:
        return ImageFont.truetype(name, size)
      except OSError:
        continue
  return ImageFont.load_default(size)


def fitted(text: str, size: int, width: int) -> str:
  """Returns text that is at most `width` pixels wide, cut with "..." if not."""
  letters = font(size, text)
  # Letters are wider than a pixel; to measure thousands takes seconds.
  is_long = len(text) > width
  text = text[:width]
  if not is_long and letters.getlength(text) <= width:
    return text
  while text and letters.getlength(text + "...") > width:
    text = text[:-1]
  return text + "..."
