"""The way of NNI 2.10: a wrapped model, an evaluator with loaders, a one-shot strategy, an experiment, fixed_arch."""

import nni
import nni.retiarii.nn.pytorch as nn
import nni.retiarii.strategy as strategy
import torch
import torch.nn.functional as F
from nni.retiarii import basic_unit, fixed_arch, model_wrapper
from nni.retiarii.evaluator.pytorch import Classification, DataLoader
from nni.retiarii.experiment.pytorch import RetiariiExeConfig, RetiariiExperiment
from torch.utils.data import SubsetRandomSampler, TensorDataset


@basic_unit
class DepthwiseSeparableConv(nn.Module):
    def __init__(self, in_ch, out_ch):
        super().__init__()
        self.depthwise = nn.Conv2d(in_ch, in_ch, kernel_size=3, padding=1, groups=in_ch)
        self.pointwise = nn.Conv2d(in_ch, out_ch, kernel_size=1)

    def forward(self, x):
        return self.pointwise(self.depthwise(x))


@model_wrapper
class ModelSpace(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 4, 3, padding=1)
        self.conv2 = nn.LayerChoice([nn.Conv2d(4, 4, 3, padding=1), DepthwiseSeparableConv(4, 4)])
        self.dropout = nn.Dropout2d(0.1)
        self.skip = nn.InputChoice(n_candidates=2, n_chosen=1, label="skip")
        self.cell = nn.Cell(
            {
                "pool": lambda node, op, source: nn.MaxPool2d(3, stride=1, padding=1),
                "conv": lambda node, op, source: nn.Conv2d(4, 4, 1),
            },
            num_nodes=2,
            num_ops_per_node=2,
            num_predecessors=2,
            label="cell",
        )
        self.tail = nn.Repeat(lambda place: nn.Sequential(nn.Conv2d(8, 8, 1), nn.ReLU()), (1, 2))
        feature = nn.ValueChoice([4, 8], label="feature")
        self.fc1 = nn.Linear(8, feature)
        self.fc2 = nn.Linear(feature, 2)

    def forward(self, x):
        x = F.relu(self.conv1(x))
        x = self.dropout(self.skip([x, self.conv2(x)]))
        x = self.tail(self.cell(x, x))
        return self.fc2(self.fc1(torch.flatten(F.adaptive_avg_pool2d(x, 1), 1)))


torch.manual_seed(0)
targets = torch.arange(32) % 2
images = torch.randn(32, 1, 5, 5) + 2.0 * targets[:, None, None, None]
train_data = nni.trace(TensorDataset)(images, targets)
search_train_loader = DataLoader(train_data, batch_size=8, sampler=SubsetRandomSampler(range(0, 16)))
search_valid_loader = DataLoader(train_data, batch_size=8, sampler=SubsetRandomSampler(range(16, 32)))

evaluator = Classification(
    learning_rate=1e-3,
    weight_decay=1e-4,
    train_dataloaders=search_train_loader,
    val_dataloaders=search_valid_loader,
    max_epochs=1,
    gpus=0,
)
exploration_strategy = strategy.DARTS()
config = RetiariiExeConfig("local")
config.experiment_name = "own space"
config.execution_engine = "oneshot"
experiment = RetiariiExperiment(ModelSpace(), evaluator=evaluator, strategy=exploration_strategy)
experiment.run(config, 8081)
exported_arch = experiment.export_top_models(formatter="dict")[0]
print("Exported:", exported_arch)

with fixed_arch(exported_arch):
    final_model = ModelSpace()

valid_loader = DataLoader(train_data, batch_size=16)
evaluator = Classification(
    learning_rate=5e-2,
    train_dataloaders=DataLoader(train_data, batch_size=8, shuffle=True),
    val_dataloaders=valid_loader,
    max_epochs=6,
    gpus=0,
    export_onnx=False,
)
evaluator.fit(final_model)
final_model.eval()
with torch.no_grad():
    correct = sum((final_model(x).argmax(1) == y).sum().item() for x, y in valid_loader)
print("Accuracy:", correct / len(train_data))
