"""Search the paper's CNN space: `python3 search.py`. The flags are those of the script of the same name in NNI.

The architecture after each epoch goes to ./checkpoints/epoch_N.json. Curves, tables and what is needed to go on after
an interruption are in ./search-run (`archgrad report search-run` draws them); the same command again goes on.
"""

import argparse
import shutil
from pathlib import Path

import torch

import archgrad as ag

RUN, ARCHITECTURES = Path("search-run"), Path("checkpoints")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--layers", type=int, default=8, help="number of cells")
    parser.add_argument("--batch-size", type=int, default=64, help="images of each of a step's two batches")
    parser.add_argument("--log-frequency", type=int, default=10, help="steps between lines of progress")
    parser.add_argument("--epochs", type=int, default=50, help="passes over half of the training images")
    parser.add_argument("--channels", type=int, default=16, help="channels of the first cells")
    parser.add_argument("--unrolled", action="store_true", help="second order instead of first order")
    parser.add_argument("--data", default="cifar10", help="also digits, folder:PATH, ...: see archgrad search --help")
    args = parser.parse_args()
    resume = RUN.exists()
    if ARCHITECTURES.exists() and not resume:
        parser.error(f"./{ARCHITECTURES} is there already, and not of this search. Move it, or work in another folder.")
    try:
        search(args, resume=resume)
    except ag.errors.ArchgradError as error:
        parser.error(str(error))


def search(args: argparse.Namespace, *, resume: bool) -> None:
    data = ag.data.load(args.data)
    torch.manual_seed(0)
    space = ag.spaces.darts_cifar(args.channels, args.layers, num_classes=len(data.classes), in_channels=data.channels)
    ag.search(
        space,
        data,
        method="darts-second-order" if args.unrolled else "darts",
        epochs=args.epochs,
        batch_size=args.batch_size,
        log_frequency=args.log_frequency,
        run_dir=RUN,
        resume=resume,
        config={"data": args.data, "channels": args.channels, "layers": args.layers},
    )
    shutil.copytree(RUN / "checkpoints", ARCHITECTURES, ignore=shutil.ignore_patterns("*.ckpt"), dirs_exist_ok=True)
    last = ARCHITECTURES / f"epoch_{args.epochs - 1}.json"
    print(f"Architecture: {last}. Train it: python3 retrain.py --arc-checkpoint ./{last} --data {args.data}")


if __name__ == "__main__":
    main()
