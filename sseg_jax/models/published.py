"""Published weights by name: their address, network, size and licence."""

import dataclasses
from collections.abc import Collection

from sseg_jax.errors import InputError


@dataclasses.dataclass(frozen=True)
class Published:
  """A file of weights somebody published.

  Attributes:
    url: its address.
    network: a key of `vit.VIT_SIZES`, or another network that `pretrained.py`
      can read.
    megabytes: its approximate size, logged before a download.
    license: of the weights, as their authors state it.
    sha256: the hash or its beginning, or "" if the authors give none. In either
      case the hash of the first download is stored beside the file and checked
      at every use.
    file: its name in the cache; "" for the last part of the address.
  """

  url: str
  network: str
  megabytes: int
  license: str
  sha256: str = ""
  file: str = ""


_META = "https://dl.fbaipublicfiles.com"
_SWIN = "https://github.com/SwinTransformer/storage/releases/download/v1.0.0"
_TORCHVISION = "https://download.pytorch.org/models"
_HUB = "https://huggingface.co"
PUBLISHED: dict[str, Published] = {
  "dino_vits8": Published(
    f"{_META}/dino/dino_deitsmall8_pretrain/dino_deitsmall8_pretrain.pth",
    "dino_vits8",
    87,
    "Apache-2.0",
  ),
  # Another training of the same network; DINO's own figures were made with it.
  "dino_vits8_300ep": Published(
    f"{_META}/dino/dino_deitsmall8_300ep_pretrain/"
    "dino_deitsmall8_300ep_pretrain.pth",
    "dino_vits8",
    87,
    "Apache-2.0",
  ),
  "dino_vits16": Published(
    f"{_META}/dino/dino_deitsmall16_pretrain/dino_deitsmall16_pretrain.pth",
    "dino_vits16",
    87,
    "Apache-2.0",
  ),
  "dino_vitb8": Published(
    f"{_META}/dino/dino_vitbase8_pretrain/dino_vitbase8_pretrain.pth",
    "dino_vitb8",
    343,
    "Apache-2.0",
  ),
  "dino_vitb16": Published(
    f"{_META}/dino/dino_vitbase16_pretrain/dino_vitbase16_pretrain.pth",
    "dino_vitb16",
    343,
    "Apache-2.0",
  ),
  "dinov2_vits14": Published(
    f"{_META}/dinov2/dinov2_vits14/dinov2_vits14_pretrain.pth",
    "dinov2_vits14",
    88,
    "Apache-2.0",
  ),
  "dinov2_vitb14": Published(
    f"{_META}/dinov2/dinov2_vitb14/dinov2_vitb14_pretrain.pth",
    "dinov2_vitb14",
    346,
    "Apache-2.0",
  ),
  "dinov2_vits14_reg": Published(
    f"{_META}/dinov2/dinov2_vits14/dinov2_vits14_reg4_pretrain.pth",
    "dinov2_vits14_reg",
    88,
    "Apache-2.0",
  ),
  "dinov2_vitb14_reg": Published(
    f"{_META}/dinov2/dinov2_vitb14/dinov2_vitb14_reg4_pretrain.pth",
    "dinov2_vitb14_reg",
    346,
    "Apache-2.0",
  ),
  # Supervised on ImageNet-1k. The beginning of the hash is in the name.
  "deit_s16": Published(
    f"{_META}/deit/deit_small_patch16_224-cd65a155.pth",
    "deit_s16",
    88,
    "Apache-2.0",
    "cd65a155",
  ),
  "deit_b16": Published(
    f"{_META}/deit/deit_base_patch16_224-b5f2ef4d.pth",
    "deit_b16",
    346,
    "Apache-2.0",
    "b5f2ef4d",
  ),
  "mae_vitb16": Published(
    f"{_META}/mae/pretrain/mae_pretrain_vit_base.pth",
    "mae_vitb16",
    343,
    "CC-BY-NC-4.0",
  ),
  # Not supervised; facebookresearch/moco-v3, CONFIG.md.
  "moco_v3_vits16": Published(
    f"{_META}/moco-v3/vit-s-300ep/vit-s-300ep.pth.tar",
    "moco_v3_vits16",
    480,
    "CC-BY-NC-4.0",
    file="moco_v3_vit_s_300ep.pth",
  ),
  "moco_v3_vitb16": Published(
    f"{_META}/moco-v3/vit-b-300ep/vit-b-300ep.pth.tar",
    "moco_v3_vitb16",
    1500,
    "CC-BY-NC-4.0",
    file="moco_v3_vit_b_300ep.pth",
  ),
  # From here on: initial weights of networks that are trained. Swin, supervised
  # on ImageNet-1k, or on ImageNet-22k if the name says so.
  "swin_t": Published(
    f"{_SWIN}/swin_tiny_patch4_window7_224.pth", "swin_t", 114, "MIT"
  ),
  "swin_s": Published(
    f"{_SWIN}/swin_small_patch4_window7_224.pth", "swin_s", 200, "MIT"
  ),
  "swin_b": Published(
    f"{_SWIN}/swin_base_patch4_window7_224.pth", "swin_b", 353, "MIT"
  ),
  "swin_b_22k": Published(
    f"{_SWIN}/swin_base_patch4_window7_224_22k.pth", "swin_b", 438, "MIT"
  ),
  "swin_l_22k": Published(
    f"{_SWIN}/swin_large_patch4_window7_224_22k.pth", "swin_l", 920, "MIT"
  ),
  # Supervised on ImageNet-1k, by torchvision's first and second recipe.
  "resnet50": Published(
    f"{_TORCHVISION}/resnet50-0676ba61.pth",
    "resnet50",
    103,
    "BSD-3-Clause",
    "0676ba61",
  ),
  "resnet50_v2": Published(
    f"{_TORCHVISION}/resnet50-11ad3fa6.pth",
    "resnet50",
    103,
    "BSD-3-Clause",
    "11ad3fa6",
  ),
  "resnet101": Published(
    f"{_TORCHVISION}/resnet101-63fe2227.pth",
    "resnet101",
    179,
    "BSD-3-Clause",
    "63fe2227",
  ),
  "resnet101_v2": Published(
    f"{_TORCHVISION}/resnet101-cd907fc2.pth",
    "resnet101",
    179,
    "BSD-3-Clause",
    "cd907fc2",
  ),
  # MaskFormer, taught with ADE20K's masks: 100 queries.
  "maskformer_swin_t": Published(
    f"{_HUB}/facebook/maskformer-swin-tiny-ade/resolve/main/pytorch_model.bin",
    "maskformer/swin_t",
    168,
    "CC-BY-NC-4.0",
    file="maskformer-swin-tiny-ade.bin",
  ),
  "maskformer_swin_s": Published(
    f"{_HUB}/facebook/maskformer-swin-small-ade/resolve/main/pytorch_model.bin",
    "maskformer/swin_s",
    254,
    "CC-BY-NC-4.0",
    file="maskformer-swin-small-ade.bin",
  ),
  # Text towers, of networks learned from image-text pairs as well.
  "groupvit_gcc_yfcc": Published(
    f"{_HUB}/nvidia/groupvit-gcc-yfcc/resolve/main/pytorch_model.bin",
    "text",
    224,
    "NVIDIA Source Code License for GroupViT (no commercial use)",
    file="groupvit-gcc-yfcc.bin",
  ),
  "clip_vitb32": Published(
    f"{_HUB}/openai/clip-vit-base-patch32/resolve/main/pytorch_model.bin",
    "text",
    606,
    "MIT",
    file="clip-vit-base-patch32.bin",
  ),
}


def check_network(
  name: str, networks: Collection[str], *, field: str = "weights"
) -> None:
  """Raises InputError unless `name` is published for one of `networks`.

  `field` is what messages call it.
  """
  fit = ", ".join(n for n, e in PUBLISHED.items() if e.network in networks)
  if name not in PUBLISHED:
    raise InputError(
      f"{field}={name!r} is neither a file nor one of {fit or '(none)'}"
    )
  if PUBLISHED[name].network not in networks:
    raise InputError(
      f"{field}={name!r} are weights of {PUBLISHED[name].network}, which is not"
      f" the network here; give a file or one of {fit or '(none)'}"
    )
