"""torchvision's other classification networks, as listed by `reslab models --all`. Loads no torch.

The figures are those of torchvision 0.29; a test checks them against every built network.
"""

from __future__ import annotations

import re

# Name, trainable values, first convolution, its width and kernel, last layer with its inputs, minimum side in pixels.
# Minimum sizes are those of torchvision's table of weights (`min_size`), unless training below was found to work:
# EfficientNetV2 and Swin are listed there with 33 and 224, and train at 1 and 4.
Row = tuple[str, int, str, int, int, str, int, int]
ROWS: tuple[Row, ...] = (
    ("alexnet", 61_100_840, "features.0", 64, 11, "classifier.6", 4096, 63),
    ("convnext_base", 88_591_464, "features.0.0", 128, 4, "classifier.2", 1024, 32),
    ("convnext_large", 197_767_336, "features.0.0", 192, 4, "classifier.2", 1536, 32),
    ("convnext_small", 50_223_688, "features.0.0", 96, 4, "classifier.2", 768, 32),
    ("convnext_tiny", 28_589_128, "features.0.0", 96, 4, "classifier.2", 768, 32),
    ("densenet121", 7_978_856, "features.conv0", 64, 7, "classifier", 1024, 29),
    ("densenet161", 28_681_000, "features.conv0", 96, 7, "classifier", 2208, 29),
    ("densenet169", 14_149_480, "features.conv0", 64, 7, "classifier", 1664, 29),
    ("densenet201", 20_013_928, "features.conv0", 64, 7, "classifier", 1920, 29),
    ("efficientnet_b0", 5_288_548, "features.0.0", 32, 3, "classifier.1", 1280, 1),
    ("efficientnet_b1", 7_794_184, "features.0.0", 32, 3, "classifier.1", 1280, 1),
    ("efficientnet_b2", 9_109_994, "features.0.0", 32, 3, "classifier.1", 1408, 1),
    ("efficientnet_b3", 12_233_232, "features.0.0", 40, 3, "classifier.1", 1536, 1),
    ("efficientnet_b4", 19_341_616, "features.0.0", 48, 3, "classifier.1", 1792, 1),
    ("efficientnet_b5", 30_389_784, "features.0.0", 48, 3, "classifier.1", 2048, 1),
    ("efficientnet_b6", 43_040_704, "features.0.0", 56, 3, "classifier.1", 2304, 1),
    ("efficientnet_b7", 66_347_960, "features.0.0", 64, 3, "classifier.1", 2560, 1),
    ("efficientnet_v2_l", 118_515_272, "features.0.0", 32, 3, "classifier.1", 1280, 1),
    ("efficientnet_v2_m", 54_139_356, "features.0.0", 24, 3, "classifier.1", 1280, 1),
    ("efficientnet_v2_s", 21_458_488, "features.0.0", 24, 3, "classifier.1", 1280, 1),
    ("googlenet", 6_624_904, "conv1.conv", 64, 7, "fc", 1024, 15),
    ("inception_v3", 23_834_568, "Conv2d_1a_3x3.conv", 32, 3, "fc", 2048, 75),
    ("maxvit_t", 30_919_624, "stem.0.0", 64, 3, "classifier.5", 512, 1),
    ("mnasnet0_5", 2_218_512, "layers.0", 16, 3, "classifier.1", 1280, 1),
    ("mnasnet0_75", 3_170_208, "layers.0", 24, 3, "classifier.1", 1280, 1),
    ("mnasnet1_0", 4_383_312, "layers.0", 32, 3, "classifier.1", 1280, 1),
    ("mnasnet1_3", 6_282_256, "layers.0", 40, 3, "classifier.1", 1280, 1),
    ("mobilenet_v2", 3_504_872, "features.0.0", 32, 3, "classifier.1", 1280, 1),
    ("mobilenet_v3_large", 5_483_032, "features.0.0", 16, 3, "classifier.3", 1280, 1),
    ("mobilenet_v3_small", 2_542_856, "features.0.0", 16, 3, "classifier.3", 1024, 1),
    ("regnet_x_16gf", 54_278_536, "stem.0", 32, 3, "fc", 2048, 1),
    ("regnet_x_1_6gf", 9_190_136, "stem.0", 32, 3, "fc", 912, 1),
    ("regnet_x_32gf", 107_811_560, "stem.0", 32, 3, "fc", 2520, 1),
    ("regnet_x_3_2gf", 15_296_552, "stem.0", 32, 3, "fc", 1008, 1),
    ("regnet_x_400mf", 5_495_976, "stem.0", 32, 3, "fc", 400, 1),
    ("regnet_x_800mf", 7_259_656, "stem.0", 32, 3, "fc", 672, 1),
    ("regnet_x_8gf", 39_572_648, "stem.0", 32, 3, "fc", 1920, 1),
    ("regnet_y_128gf", 644_812_894, "stem.0", 32, 3, "fc", 7392, 1),
    ("regnet_y_16gf", 83_590_140, "stem.0", 32, 3, "fc", 3024, 1),
    ("regnet_y_1_6gf", 11_202_430, "stem.0", 32, 3, "fc", 888, 1),
    ("regnet_y_32gf", 145_046_770, "stem.0", 32, 3, "fc", 3712, 1),
    ("regnet_y_3_2gf", 19_436_338, "stem.0", 32, 3, "fc", 1512, 1),
    ("regnet_y_400mf", 4_344_144, "stem.0", 32, 3, "fc", 440, 1),
    ("regnet_y_800mf", 6_432_512, "stem.0", 32, 3, "fc", 784, 1),
    ("regnet_y_8gf", 39_381_472, "stem.0", 32, 3, "fc", 2016, 1),
    ("shufflenet_v2_x0_5", 1_366_792, "conv1.0", 24, 3, "fc", 1024, 1),
    ("shufflenet_v2_x1_0", 2_278_604, "conv1.0", 24, 3, "fc", 1024, 1),
    ("shufflenet_v2_x1_5", 3_503_624, "conv1.0", 24, 3, "fc", 1024, 1),
    ("shufflenet_v2_x2_0", 7_393_996, "conv1.0", 24, 3, "fc", 2048, 1),
    ("squeezenet1_0", 1_248_424, "features.0", 96, 7, "classifier.1", 512, 21),
    ("squeezenet1_1", 1_235_496, "features.0", 64, 3, "classifier.1", 512, 17),
    ("swin_b", 87_768_224, "features.0.0", 128, 4, "head", 1024, 4),
    ("swin_s", 49_606_258, "features.0.0", 96, 4, "head", 768, 4),
    ("swin_t", 28_288_354, "features.0.0", 96, 4, "head", 768, 4),
    ("swin_v2_b", 87_930_848, "features.0.0", 128, 4, "head", 1024, 4),
    ("swin_v2_s", 49_737_442, "features.0.0", 96, 4, "head", 768, 4),
    ("swin_v2_t", 28_351_570, "features.0.0", 96, 4, "head", 768, 4),
    ("vgg11", 132_863_336, "features.0", 64, 3, "classifier.6", 4096, 32),
    ("vgg11_bn", 132_868_840, "features.0", 64, 3, "classifier.6", 4096, 32),
    ("vgg13", 133_047_848, "features.0", 64, 3, "classifier.6", 4096, 32),
    ("vgg13_bn", 133_053_736, "features.0", 64, 3, "classifier.6", 4096, 32),
    ("vgg16", 138_357_544, "features.0", 64, 3, "classifier.6", 4096, 32),
    ("vgg16_bn", 138_365_992, "features.0", 64, 3, "classifier.6", 4096, 32),
    ("vgg19", 143_667_240, "features.0", 64, 3, "classifier.6", 4096, 32),
    ("vgg19_bn", 143_678_248, "features.0", 64, 3, "classifier.6", 4096, 32),
    ("vit_b_16", 86_567_656, "conv_proj", 768, 16, "heads.head", 768, 1),
    ("vit_b_32", 88_224_232, "conv_proj", 768, 32, "heads.head", 768, 1),
    ("vit_h_14", 632_045_800, "conv_proj", 1280, 14, "heads.head", 1280, 1),
    ("vit_l_16", 304_326_632, "conv_proj", 1024, 16, "heads.head", 1024, 1),
    ("vit_l_32", 306_535_400, "conv_proj", 1024, 32, "heads.head", 1024, 1),
)

# The side of an image must be a multiple of this: a ViT's patches; MaxViT's windows of 7 × 7 after five halvings.
MULTIPLES = {"vit_b_16": 16, "vit_b_32": 32, "vit_l_16": 16, "vit_l_32": 32, "vit_h_14": 14, "maxvit_t": 224}

NO_LAST_BIAS = frozenset({"maxvit_t"})

_FAMILIES = {
    "alexnet": "AlexNet, Krizhevsky 2014",
    "convnext": "ConvNeXt, Liu et al. 2022",
    "densenet": "DenseNet, Huang et al. 2016",
    "efficientnet_b": "EfficientNet, Tan and Le 2019",
    "efficientnet_v2": "EfficientNetV2, Tan and Le 2021",
    "googlenet": "GoogLeNet, Szegedy et al. 2014",
    "inception": "Inception v3, Szegedy et al. 2015",
    "maxvit": "MaxViT, Tu et al. 2022",
    "mnasnet": "MNASNet, Tan et al. 2018",
    "mobilenet_v2": "MobileNetV2, Sandler et al. 2018",
    "mobilenet_v3": "MobileNetV3, Howard et al. 2019",
    "regnet": "RegNet, Radosavovic et al. 2020",
    "shufflenet": "ShuffleNetV2, Ma et al. 2018",
    "squeezenet": "SqueezeNet, Iandola et al. 2016",
    "swin_v2": "Swin Transformer V2, Liu et al. 2021",
    "swin": "Swin Transformer, Liu et al. 2021",
    "vgg": "VGG, Simonyan and Zisserman 2014",
    "vit": "Vision Transformer, Dosovitskiy et al. 2020",
}


def title(name: str) -> str:
    """The family and its paper."""
    return next(text for family, text in _FAMILIES.items() if name.startswith(family))


def depth(name: str) -> int | None:
    """The number of layers, if it is part of the family's name."""
    found = re.match(r"(?:densenet|vgg)(\d+)", name)
    return int(found[1]) if found else None
