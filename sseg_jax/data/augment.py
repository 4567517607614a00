"""Random crops, flips and colour changes, as TensorFlow functions.

Every function draws from a stateless seed (int32 [2]): the same seed gives the
same picture, in any batch, on any host. By default training uses the crop and
flip of OVSegmentor's second stage. Strong colour changes would make
pseudo-masks worse, so only the picture that the student sees has them.
"""

import dataclasses
from typing import Any

from sseg_jax.data import import_tensorflow

_ATTEMPTS = 10  # boxes that are tried, as in torchvision's crop
# Largest changes at strength 1. Brightness, contrast and saturation are
# multiplied by 1 ± 0.4, like timm's colour jitter of 0.4; hue moves by a tenth
# of its circle.
_JITTER = 0.4
_HUE = 0.1


@dataclasses.dataclass(frozen=True)
class Crop:
  """A box of the source picture and whether the result is mirrored.

  Attributes:
    box: float32 [4] tensor: top, left, height, width in pixels, whole numbers.
    size: float32 [2] tensor: height and width of the source picture.
    flip: bool [] tensor.
  """

  box: Any
  size: Any
  flip: Any


def random_crop(size, seed, *, scale, ratio, flip) -> Crop:
  """Draws the box of a random resized crop, and a flip.

  Args:
    size: int32 [2] tensor, height and width of the picture.
    seed: int32 [2] tensor.
    scale: smallest and largest share of the picture's area.
    ratio: smallest and largest width / height; drawn log-uniformly.
    flip: probability of mirroring.

  The rule is torchvision's RandomResizedCrop: it takes the first of ten random
  boxes that lies inside the picture. If none does, it takes the largest central
  box whose shape is within `ratio`.
  """
  tf = import_tensorflow()
  size = tf.cast(size, tf.float32)
  height, width = size[0], size[1]
  # "auto_select" would pick the algorithm by device.
  u = tf.random.stateless_uniform([2 * _ATTEMPTS + 3], seed, alg="philox")
  low, high = scale
  area = height * width * (low + (high - low) * u[:_ATTEMPTS])
  ratios = ratio[0] * (ratio[1] / ratio[0]) ** u[_ATTEMPTS:-3]
  widths = tf.round(tf.sqrt(area * ratios))
  heights = tf.round(tf.sqrt(area / ratios))
  fits = (
    (widths >= 1) & (widths <= width) & (heights >= 1) & (heights <= height)
  )
  first = tf.argmax(tf.cast(fits, tf.int32))
  central_h = tf.maximum(1.0, tf.minimum(height, tf.round(width / ratio[0])))
  central_w = tf.maximum(1.0, tf.minimum(width, tf.round(height * ratio[1])))
  found = tf.reduce_any(fits)
  h = tf.where(found, heights[first], central_h)
  w = tf.where(found, widths[first], central_w)

  def place(u, free):  # one of free + 1 offsets; the central box: free // 2
    random = tf.minimum(tf.floor(u * (free + 1)), free)
    return tf.where(found, random, tf.floor(free / 2))

  top, left = place(u[-3], height - h), place(u[-2], width - w)
  return Crop(tf.stack([top, left, h, w]), size, u[-1] < flip)


def crop_image(image, crop: Crop, out_size: int):
  """Cuts and resizes a picture, bilinear with antialiasing.

  Args:
    image: uint8 [h,w,3] tensor.
    crop: from `random_crop`.
    out_size: side of the result.

  Returns:
    float32 [out_size,out_size,3], 0..255.
  """
  tf = import_tensorflow()
  box = tf.cast(crop.box, tf.int32)
  image = tf.slice(image, [box[0], box[1], 0], [box[2], box[3], 3])
  return resize_box(image, crop, out_size)


def resize_box(image, crop: Crop, out_size: int):
  """Resizes a box that is cut already, as `crop_image` does.

  Args:
    image: uint8 [h,w,3] tensor, the pixels of `crop.box`.
    crop: from `random_crop`.
    out_size: side of the result.

  Returns:
    float32 [out_size,out_size,3], 0..255.
  """
  tf = import_tensorflow()
  # Antialiasing matters only when a side shrinks. Without it, the resize is
  # faster.
  image = tf.cond(
    tf.reduce_max(tf.shape(image)[:2]) <= out_size,
    lambda: tf.image.resize(image, [out_size, out_size]),
    lambda: _shrink(image, out_size),
  )
  # The raw operation accepts a tensor for the axes; `tf.cond` would be slower.
  return tf.raw_ops.Reverse(
    tensor=image, dims=tf.stack([False, crop.flip, False])
  )


def _shrink(image, out_size: int):
  """Returns the bits of `tf.image.resize(…, antialias=True)` in half the time.

  That function resizes the rows of a picture, then the columns, and takes the
  columns pixel by pixel. Here, columns are transposed to rows.
  """
  tf = import_tensorflow()

  def rows(image):  # uint8 or float32 [n,m,3] to float32 [m,out_size,3]
    n, m = tf.unstack(tf.shape(image)[:2])
    made = tf.raw_ops.ScaleAndTranslate(
      images=tf.reshape(image, [1, n, 1, 3 * m]),
      size=[out_size, 1],
      scale=[out_size / tf.cast(n, tf.float32), 1.0],
      translation=[0.0, 0.0],
      kernel_type="triangle",
      antialias=True,
    )
    return tf.transpose(tf.reshape(made, [out_size, m, 3]), [1, 0, 2])

  return tf.ensure_shape(rows(rows(image)), [out_size, out_size, 3])


def crop_labels(labels, crop: Crop, out_size: int):
  """Cuts and resizes a label map as `crop_image` does, by nearest neighbour.

  Args:
    labels: [h,w] or [p,h,w] tensor; it covers the same scene as the picture,
      but may have another size.
    crop: from `random_crop`, in the picture's pixels.
    out_size: side of the result.

  Returns:
    int32 [out_size,out_size] or [p,out_size,out_size]: at each pixel the label
    under the pixel's centre. `crop_image` places centres in the same way
    (half-pixel centres).
  """
  tf = import_tensorflow()
  centres = (tf.range(out_size, dtype=tf.float32) + 0.5) / out_size

  def places(axis: int):
    length = tf.shape(labels)[axis - 2]
    source = crop.box[axis] + centres * crop.box[axis + 2]
    place = tf.floor(source / crop.size[axis] * tf.cast(length, tf.float32))
    return tf.minimum(tf.cast(place, tf.int32), length - 1)

  columns = places(1)
  columns = tf.where(crop.flip, columns[::-1], columns)
  rows = tf.gather(labels, places(0), axis=-2)
  return tf.cast(tf.gather(rows, columns, axis=-1), tf.int32)


def photometric(image, seed, strength: float):
  """Changes brightness, contrast, saturation and hue, in this order.

  Args:
    image: float32 [h,w,3] tensor, 0..255.
    seed: int32 [2] tensor.
    strength: 0 (nothing) to 1 (factors within 1 ± 0.4, hue within ± 0.1 of the
      circle).

  Returns:
    float32 [h,w,3], 0..255.
  """
  tf = import_tensorflow()
  u = tf.random.stateless_uniform([4], seed, -1.0, 1.0, alg="philox")
  factors = 1.0 + _JITTER * strength * u[:3]
  image = tf.clip_by_value(image / 255.0 * factors[0], 0.0, 1.0)
  mean = tf.reduce_mean(tf.image.rgb_to_grayscale(image))
  image = tf.clip_by_value(mean + (image - mean) * factors[1], 0.0, 1.0)
  grey = tf.image.rgb_to_grayscale(image)
  image = tf.clip_by_value(grey + (image - grey) * factors[2], 0.0, 1.0)
  image = tf.image.adjust_hue(image, _HUE * strength * u[3])
  return tf.clip_by_value(image * 255.0, 0.0, 255.0)


def central_square(image, out_size: int):
  """Resizes the short side to `out_size`, then cuts the central square.

  Args:
    image: uint8 [h,w,3] tensor.
    out_size: side of the result.

  Returns:
    float32 [out_size,out_size,3], 0..255.
  """
  tf = import_tensorflow()
  size = tf.cast(tf.shape(image)[:2], tf.float32)
  size = tf.cast(tf.round(size * out_size / tf.reduce_min(size)), tf.int32)
  image = tf.image.resize(image, size, method="bilinear", antialias=True)
  top, left = (size[0] - out_size) // 2, (size[1] - out_size) // 2
  return tf.slice(image, [top, left, 0], [out_size, out_size, 3])


def to_uint8(image):
  """Rounds float 0..255 to uint8."""
  tf = import_tensorflow()
  return tf.cast(tf.round(tf.clip_by_value(image, 0.0, 255.0)), tf.uint8)
