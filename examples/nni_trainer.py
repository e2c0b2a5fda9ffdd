"""A script for NNI 2 after the move: the same model and trainer, other imports. What NNI had stands in the comments.

    python examples/nni_trainer.py --unrolled

The scripts of NNI's page on DARTS, with their flags, are in examples/darts/.
"""

import argparse
import json
from collections import OrderedDict
from pathlib import Path

import torch
from torch import nn  # import nni.retiarii.nn.pytorch as nn

import archgrad as ag

# from nni.retiarii.nn.pytorch import InputChoice, LayerChoice
# from nni.retiarii.oneshot.pytorch import DartsTrainer
from archgrad import DartsTrainer, InputChoice, LayerChoice


class Net(nn.Module):  # @model_wrapper is not needed
    def __init__(self, channels=12):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, channels, 3, padding=1), nn.BatchNorm2d(channels), nn.ReLU())
        self.conv = LayerChoice(
            OrderedDict(
                [
                    ("conv3x3", nn.Conv2d(channels, channels, 3, padding=1)),
                    ("conv5x5", nn.Conv2d(channels, channels, 5, padding=2)),
                    ("maxpool", nn.MaxPool2d(3, stride=1, padding=1)),
                ]
            ),
            label="conv",
        )
        self.skip = InputChoice(n_candidates=2, n_chosen=1, label="skip")
        self.fc = nn.Linear(channels, 10)

    def forward(self, x):
        x = self.stem(x)
        x = self.skip([x, torch.relu(self.conv(x))])
        return self.fc(x.amax((2, 3)))


def accuracy(output, target):
    return {"acc1": (output.argmax(1) == target).float().mean().item()}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--unrolled", action="store_true", help="second order")
    parser.add_argument("--out", type=Path, default=Path("runs/nni"), help="folder for architecture and run")
    args = parser.parse_args()

    data = ag.data.load("digits")
    model = Net()
    trainer = DartsTrainer(
        model=model,
        loss=nn.CrossEntropyLoss(),
        metrics=accuracy,
        optimizer=torch.optim.SGD(model.parameters(), 0.025, momentum=0.9, weight_decay=3e-4),
        num_epochs=args.epochs,
        dataset=data.train,
        batch_size=32,
        log_frequency=10,
        arc_learning_rate=0.02,  # NNI's 0.0003 is for the paper's 19,500 steps; here are 220
        unrolled=args.unrolled,
        run_dir=args.out / "search",  # new: one architecture an epoch, curves, and fit(resume="auto")
        overwrite=True,
    )
    trainer.fit()
    exported = trainer.export()
    print("Final architecture:", exported)
    (args.out / "checkpoint.json").write_text(json.dumps(exported))

    # with fixed_arch("checkpoint.json"): model = Net()
    network = ag.derive(Net(), args.out / "checkpoint.json")
    trained = ag.retrain(network, data, epochs=args.epochs, batch_size=32, cutout=0, drop_path=0, quiet=True)
    print(f"Test accuracy: {trained.test_accuracy:.1%}")


if __name__ == "__main__":
    main()
