"""Makes images.json: what Pillow reads of small images, what transformers' image processors make of them, and what tiny networks
answer.

    python3 -m venv venv && venv/bin/pip install torch transformers "pillow<13"
    HF_HUB_OFFLINE=1 venv/bin/python crates/inference/tests/goldens/make_images.py

Images are drawn below. Pillow resizes columns first up to version 12; from 13 on it is the shape that says what comes first, and some
samples differ by one. Processors are those on Pillow, which transformers takes where torchvision is not installed. Networks are
computed in float64 by the pipeline, each image alone, on the CPU. Number i of the tensor named n is hash(n, i) / 2**32 / 2 - 1/4,
plus 1 for weights of norms and for variances; numbers of convolutions are then multiplied by the root of 72 / inputs, so that
signals neither grow nor vanish; all is rounded to float32. `numbers` below is that hash, and the test builds the same networks.
"""

import base64
import io
import json
import pathlib
import tempfile

import numpy
import PIL
import safetensors.torch
import torch
import transformers
from PIL import Image
from transformers.image_utils import load_image

IMAGENET = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}


def draw(width: int, height: int, channels: int) -> numpy.ndarray:
    """Slopes, edges and some noise."""
    y, x = numpy.mgrid[0:height, 0:width]
    noise = numpy.random.default_rng(width * height).integers(0, 40, (height, width, channels))
    layers = [x * 255 // max(width - 1, 1), y * 255 // max(height - 1, 1), (x // 5 + y // 7) % 2 * 255, (x * y) % 256]
    drawn = numpy.stack(layers[:channels], axis=-1)
    return numpy.clip(drawn + noise - 20, 0, 255).astype(numpy.uint8)


def written(image: Image.Image, form: str = "PNG", **how) -> str:
    file = io.BytesIO()
    image.save(file, form, **how)
    return base64.b64encode(file.getvalue()).decode()


def turned(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def images() -> dict[str, str]:
    rgb = Image.fromarray(draw(53, 37, 3))
    small = Image.fromarray(draw(9, 6, 3))
    smooth = Image.fromarray(draw(40, 24, 3)).resize((23, 17), Image.Resampling.LANCZOS)
    palette = rgb.convert("P", palette=Image.Palette.ADAPTIVE, colors=13)
    made = {
        "rgb": written(rgb),
        "wide": written(Image.fromarray(draw(97, 21, 3))),
        "tall": written(Image.fromarray(draw(19, 71, 3))),
        "grey": written(Image.fromarray(draw(20, 45, 1)[:, :, 0])),
        "one pixel": written(Image.fromarray(draw(1, 1, 3))),
        "grey and alpha": written(Image.merge("LA", Image.fromarray(draw(20, 15, 4)).split()[:2])),
        "rgb and alpha": written(Image.fromarray(draw(20, 15, 4))),
        "palette": written(palette),
        "palette with a transparent colour": written(palette, transparency=3),
        "rgb with a transparent colour": written(small, transparency=small.getpixel((0, 0))),
        "two colours": written(rgb.convert("1")),
        "four colours": written(rgb.convert("P", palette=Image.Palette.ADAPTIVE, colors=4), bits=2),
        "jpeg": written(smooth, "JPEG", quality=95, subsampling=0),
        "jpeg, half the colours": written(smooth, "JPEG", quality=90, subsampling=2),
        "jpeg, progressive": written(smooth, "JPEG", quality=90, progressive=True),
        "jpeg, grey": written(smooth.convert("L"), "JPEG", quality=90),
        "jpeg, four inks": written(smooth.convert("CMYK"), "JPEG", quality=95),
        "jpeg, turned": written(smooth, "JPEG", quality=95, subsampling=0, exif=turned(6)),
    }
    return made | {f"turned {way}": written(small, exif=turned(way)) for way in range(1, 9)}


def numbers(name: str, shape: list[int]) -> torch.Tensor:
    seed = 0x811C9DC5
    for byte in name.encode():
        seed = (seed ^ byte) * 0x01000193 & 0xFFFFFFFF
    count = int(numpy.prod(shape, dtype=numpy.int64))
    mixed = (numpy.arange(count, dtype=numpy.uint64) * 0x9E3779B9 + seed) & 0xFFFFFFFF
    for shift, factor in [(16, 0x85EBCA6B), (13, 0xC2B2AE35), (16, 1)]:
        mixed = (mixed ^ (mixed >> numpy.uint64(shift))) * numpy.uint64(factor) & numpy.uint64(0xFFFFFFFF)
    around_one = ("norm" in name and name.endswith("weight")) or name.endswith("running_var")
    found = mixed.astype(numpy.float64) / 2**33 - 0.25 + around_one
    if len(shape) == 4:
        found *= numpy.sqrt(72 / (shape[1] * shape[2] * shape[3]))
    return torch.from_numpy(found.astype(numpy.float32).reshape(shape))


LABELS = {"id2label": dict(enumerate(["cat", "dog", "lighthouse", "ship", "tree", "wheel", "window"]))}
VIT = {"hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 3, "layer_norm_eps": 0.01}
RESNET = {"embedding_size": 12, "hidden_sizes": [16, 24, 32], "depths": [2, 1, 2]}
MOBILE = {"depth_multiplier": 0.35, "finegrained_output": False}
SQUARE = {"size": {"height": 32, "width": 32}, "resample": 2, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
CROPPED = {"size": {"shortest_edge": 36}, "crop_size": {"height": 32, "width": 32}}
# Model: its family's classes, its configuration, its processor, and that one's.
MODELS = {
    "vit": ("ViT", VIT | {"image_size": 32, "patch_size": 8}, "ViT", SQUARE),
    "vit, not square": (
        "ViT",
        VIT | {"image_size": [24, 40], "patch_size": [8, 10], "hidden_act": "gelu_new"},
        "ViT",
        SQUARE | {"size": {"height": 24, "width": 40}, "resample": 3} | IMAGENET,
    ),
    "vit, several": (
        "ViT",
        VIT | {"image_size": 30, "patch_size": 8, "hidden_act": "relu", "problem_type": "multi_label_classification"},
        "ViT",
        SQUARE | {"size": {"height": 30, "width": 30}, "resample": 1, "rescale_factor": 1 / 200},
    ),
    "resnet": ("ResNet", RESNET | {"layer_type": "bottleneck"}, "ConvNext", {"size": {"shortest_edge": 32}, "crop_pct": 0.875, "resample": 3} | IMAGENET),
    "resnet, basic": ("ResNet", RESNET | {"layer_type": "basic", "downsample_in_first_stage": True}, "ConvNext", {"size": {"shortest_edge": 45}, "crop_pct": 0.9, "resample": 2} | IMAGENET),
    "resnet, other": (
        "ResNet",
        RESNET | {"layer_type": "bottleneck", "downsample_in_bottleneck": True, "hidden_act": "gelu"},
        "ConvNext",
        {"size": {"shortest_edge": 31}, "crop_pct": 1.0, "resample": 2} | IMAGENET,
    ),
    "mobilenet_v2": ("MobileNetV2", MOBILE, "MobileNetV2", CROPPED),
    "mobilenet_v2, other": (
        "MobileNetV2",
        MOBILE | {"tf_padding": False, "first_layer_is_expansion": False, "output_stride": 8, "expand_ratio": 3.0},
        "MobileNetV2",
        {"size": {"height": 40, "width": 41}, "crop_size": {"height": 33, "width": 38}, "resample": 3},
    ),
}
SEEN = ["rgb", "wide", "tall", "grey", "one pixel"]


def rounded(value):
    return [{"label": part["label"], "score": float(f"{part['score']:.9g}")} for part in value]


def model(name: str, files: dict[str, str]) -> dict:
    classes, sizes, processors, told = MODELS[name]
    config = getattr(transformers, f"{classes}Config")(**sizes, **LABELS)
    kind = getattr(transformers, f"{classes}ForImageClassification")
    processor = getattr(transformers, f"{processors}ImageProcessorPil")(**told)
    with tempfile.TemporaryDirectory() as home:
        kind(config).save_pretrained(home)
        processor.save_pretrained(home)
        weights = pathlib.Path(home, "model.safetensors")
        stored = safetensors.torch.load_file(weights)
        shapes = {key: list(tensor.shape) for key, tensor in stored.items() if tensor.is_floating_point()}
        counters = {key: tensor for key, tensor in stored.items() if not tensor.is_floating_point()}
        safetensors.torch.save_file(counters | {key: numbers(key, shape) for key, shape in shapes.items()}, weights, {"format": "pt"})
        network = kind.from_pretrained(home, attn_implementation="eager" if classes == "ViT" else None).eval().double()
        config, preprocessor = (json.loads(pathlib.Path(home, file).read_text()) for file in ("config.json", "preprocessor_config.json"))
    pipe = transformers.pipeline("image-classification", model=network, image_processor=processor, device="cpu")
    seen, cases = {}, []
    for image in SEEN:
        raw = processor(load_image(files[image]), do_rescale=False, do_normalize=False)["pixel_values"][0]
        assert raw.dtype == numpy.uint8
        seen[image] = base64.b64encode(raw.transpose(1, 2, 0).tobytes()).decode()
        for asked in [{}, {"top_k": 2}, {"top_k": 100}] if image == "rgb" else [{"top_k": 7}]:
            cases.append({"image": image, "asked": asked, "output": rounded(pipe(files[image], **asked))})
    # A ramp of all samples, as large as what is seen, in each channel.
    height, width = raw.shape[1:]
    ramp = numpy.repeat((numpy.arange(width * height) % 256).astype(numpy.uint8).reshape(height, width, 1), 3, axis=-1)
    ramp = processor(Image.fromarray(ramp), do_resize=False, do_center_crop=False)["pixel_values"][0]
    levels = [[float(f"{number:.9g}") for number in channel.ravel()[:256]] for channel in ramp]
    return {"name": name, "config": config, "preprocessor": preprocessor, "shapes": shapes, "levels": levels, "seen": seen, "cases": cases}


def main() -> None:
    versions = {library.__name__: library.__version__ for library in (transformers, torch, PIL)}
    made = {"by": "crates/inference/tests/goldens/make_images.py", "how": "float64, each image alone", "versions": versions}
    files = images()
    read = {}
    for name, file in files.items():
        image = load_image(file)
        pixels = base64.b64encode(image.tobytes()).decode()
        read[name] = {"file": file, "width": image.width, "height": image.height, "pixels": pixels}
    lines = [f'"made": {json.dumps(made)}']
    lines.append('"images": {\n' + ",\n".join(f"{json.dumps(name)}: {json.dumps(image)}" for name, image in read.items()) + "\n}")
    models = [model(name, files) for name in MODELS]
    lines.append('"models": [\n' + ",\n".join(json.dumps(found) for found in models) + "\n]")
    path = pathlib.Path(__file__).with_name("images.json")
    path.write_text("{" + ",\n".join(lines) + "}\n", encoding="utf-8")
    for found in models:
        print(found["name"], len(found["shapes"]), [[round(part["score"], 4) for part in case["output"]] for case in found["cases"]][2:5])


if __name__ == "__main__":
    main()
