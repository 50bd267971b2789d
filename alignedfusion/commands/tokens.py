"""`alignedfusion tokens`: compute the image tokens of a table once."""

from __future__ import annotations

import argparse
from collections.abc import Callable

from alignedfusion.commands.table_options import add_backbone, add_manifest, add_table_options, read_cases

_TOKENS = """\
Run a frozen backbone once on all images of a table, and store its tokens for `train --tokens`. An image needs
tokens x features x 2 bytes: 150 KB for vit_small_patch16_224, 37 KB for vit_small_patch32_224.

The folder TOKENS is for one backbone, one file of weights, one image size and one dtype; others are refused. If the command is
interrupted, run it again to continue. If the table has new images, the same command adds their tokens. Images whose size or
modification time has changed are computed again.
"""


def add_tokens(add: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the command with the `add(name, run, summary, description)` of the main parser."""
    parser = add("tokens", _tokens, "compute the image tokens of a frozen backbone once", _TOKENS)
    add_manifest(parser)
    parser.add_argument("-o", "--output", required=True, metavar="TOKENS", help="folder of the tokens")
    parser.add_argument("--image", nargs="+", required=True, metavar="COL", help="image columns")
    add_table_options(parser)
    add_backbone(parser)
    parser.add_argument(
        "--dtype", default="bfloat16", choices=["bfloat16", "float16"], help="type of the tokens (default: bfloat16)"
    )
    parser.add_argument("--batch-size", type=int, default=64, help="images per forward pass (default: 64)")
    parser.add_argument(
        "--workers", type=int, help="processes that read images (default: one per CPU, 8 at most; 0 without a GPU)"
    )
    parser.add_argument(
        "--ray", action="store_true", help="run on the Ray cluster at RAY_ADDRESS, or start a local one"
    )


def _tokens(options: argparse.Namespace) -> None:
    from alignedfusion.datasets.images import image_paths
    from alignedfusion.modules.backbones import Backbone
    from alignedfusion.tables.files import check_columns
    from alignedfusion.training import token_writer
    from alignedfusion.training.distributed import default_workers

    frame, root = read_cases(options.manifest, options)
    check_columns(frame, options.image)
    cache = token_writer.write(
        (path for column in image_paths(frame, options.image, root).values() for path in column if path is not None),
        options.output,
        backbone=Backbone(
            options.backbone,
            pretrained=options.weights or True,
            image_size=options.image_size,
            timm_args=options.timm_args,
        ),
        dtype=options.dtype,
        batch_size=options.batch_size,
        workers=default_workers() if options.workers is None else options.workers,
        on_ray=options.ray,
    )
    size, (tokens, features) = cache.file.path.stat().st_size / 1e6, cache.file.shape
    print(f"{options.output}: {len(cache)} images, {tokens} x {features} tokens each in {options.dtype}, {size:.0f} MB")
    print(f"To train on them: alignedfusion train {options.manifest} --tokens {options.output} ...")
