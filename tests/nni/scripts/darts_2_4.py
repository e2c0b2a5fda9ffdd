"""The way of NNI 2.4: a plain module with labelled choices, DartsTrainer, and fixed_arch with the exported file."""

import json
from argparse import ArgumentParser

import torch
import torch.nn as nn
from nni.retiarii import fixed_arch
from nni.retiarii.nn.pytorch import InputChoice, LayerChoice
from nni.retiarii.oneshot.pytorch import DartsTrainer
from torch.utils.data import DataLoader, TensorDataset


class Node(nn.Module):
    def __init__(self, name, n_before, channels):
        super().__init__()
        self.ops = nn.ModuleList(
            LayerChoice(
                {
                    "maxpool": nn.MaxPool2d(3, stride=1, padding=1),
                    "conv": nn.Sequential(nn.ReLU(inplace=True), nn.Conv2d(channels, channels, 3, padding=1)),
                    "skip": nn.Identity(),
                },
                label=f"{name}_p{i}",
            )
            for i in range(n_before)
        )
        self.input_switch = InputChoice(n_candidates=n_before, n_chosen=2, label=f"{name}_switch")

    def forward(self, states):
        return self.input_switch([op(state) for op, state in zip(self.ops, states, strict=True)])


class CNN(nn.Module):
    def __init__(self, channels=4, n_nodes=2):
        super().__init__()
        self.stem = nn.Conv2d(1, channels, 3, padding=1)
        self.nodes = nn.ModuleList(Node(f"normal_n{i}", i, channels) for i in range(2, 2 + n_nodes))
        self.head = nn.Linear(channels, 2)

    def forward(self, x):
        states = [self.stem(x), self.stem(x.flip(-1))]
        for node in self.nodes:
            states.append(node(states))
        return self.head(states[-1].mean((2, 3)))


def accuracy(output, target):
    return {"acc1": (output.argmax(1) == target).float().mean()}


if __name__ == "__main__":
    parser = ArgumentParser("darts")
    parser.add_argument("--epochs", default=1, type=int)
    parser.add_argument("--batch-size", default=8, type=int)
    args = parser.parse_args()

    torch.manual_seed(0)
    targets = torch.arange(32) % 2
    images = torch.randn(32, 1, 5, 5) + 2.0 * targets[:, None, None, None]
    dataset = TensorDataset(images, targets)

    model = CNN()
    criterion = nn.CrossEntropyLoss()
    optim = torch.optim.SGD(model.parameters(), 0.025, momentum=0.9, weight_decay=3.0e-4)
    trainer = DartsTrainer(
        model=model,
        loss=criterion,
        metrics=lambda output, target: accuracy(output, target),
        optimizer=optim,
        num_epochs=args.epochs,
        dataset=dataset,
        batch_size=args.batch_size,
        log_frequency=10,
        unrolled=False,
        workers=0,
    )
    trainer.fit()
    final_architecture = trainer.export()
    print("Final architecture:", trainer.export())
    with open("checkpoint.json", "w") as file:
        json.dump(final_architecture, file)

    with fixed_arch("checkpoint.json"):
        model = CNN()
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    model.train()
    for _epoch in range(6):
        for x, y in DataLoader(dataset, batch_size=args.batch_size, shuffle=True):
            optimizer.zero_grad()
            criterion(model(x), y).backward()
            optimizer.step()
    model.eval()
    with torch.no_grad():
        predicted = model(images).argmax(1)
    print("Accuracy:", (predicted == targets).float().mean().item())
    torch.save(model.state_dict(), "retrained.pt")
