"""Train a searched architecture: `python3 retrain.py --arc-checkpoint ./checkpoints/epoch_49.json`, with NNI's flags.

Weights, curves and predictions go to ./retrain-run (`archgrad report retrain-run` draws them); the same command again
goes on after an interruption.
"""

import argparse
from pathlib import Path

import torch

import archgrad as ag

RUN = Path("retrain-run")
CHANNELS = 36


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--layers", type=int, default=20, help="number of cells")
    parser.add_argument("--batch-size", type=int, default=96, help="images of a step")
    parser.add_argument("--log-frequency", type=int, default=10, help="steps between lines of progress")
    parser.add_argument("--epochs", type=int, default=600, help="passes over the training images")
    parser.add_argument("--aux-weight", type=float, default=0.4, help="weight of the auxiliary head's loss; 0 is none")
    parser.add_argument("--drop-path-prob", type=float, default=0.2, help="drop path after the last epoch")
    parser.add_argument("--workers", type=int, default=4, help="processes that read images which are not in memory")
    parser.add_argument("--grad-clip", type=float, default=5.0, help="largest norm of the gradient; 0 is off")
    parser.add_argument("--arc-checkpoint", default="./checkpoints/epoch_0.json", help="the architecture")
    parser.add_argument("--data", default="cifar10", help="also digits, folder:PATH, ...: see archgrad retrain --help")
    args = parser.parse_args()
    try:
        retrain(args)
    except ag.errors.ArchgradError as error:
        parser.error(str(error))


def retrain(args: argparse.Namespace) -> None:
    architecture = ag.Architecture.load(args.arc_checkpoint)
    data = ag.data.load(args.data)
    torch.manual_seed(0)
    space = ag.spaces.darts_cifar(
        CHANNELS,
        args.layers,
        num_classes=len(data.classes),
        in_channels=data.channels,
        auxiliary=args.aux_weight > 0,
        stage="retrain",
    )
    result = ag.retrain(
        ag.derive(space, architecture),
        data,
        architecture=architecture,
        epochs=args.epochs,
        batch_size=args.batch_size,
        log_frequency=args.log_frequency,
        auxiliary_weight=args.aux_weight,
        drop_path=args.drop_path_prob,
        workers=args.workers,
        grad_clip=args.grad_clip,
        run_dir=RUN,
        resume=RUN.exists(),
        config={"layers": args.layers, "arc_checkpoint": args.arc_checkpoint},
    )
    if result.test_accuracy is not None:
        print(f"Test accuracy: {100 * result.test_accuracy:.2f} %")
    print(f"Weights: {RUN / 'weights' / 'last.safetensors'}")


if __name__ == "__main__":
    main()
