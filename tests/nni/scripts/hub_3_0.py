"""The way of NNI 3.0: the hub's DARTS space, a one-shot strategy, NasExperiment, model_context."""

import nni
import torch
from nni.nas.evaluator.pytorch import Classification, ClassificationModule, DataLoader, Lightning, Trainer
from nni.nas.experiment import NasExperiment
from nni.nas.hub.pytorch import DARTS as DartsSpace
from nni.nas.nn.pytorch import LayerChoice, ModelSpace, MutableLinear
from nni.nas.space import model_context
from nni.nas.strategy import DARTS as DartsStrategy
from nni.nas.strategy import GumbelDARTS
from torch.utils.data import SubsetRandomSampler, TensorDataset

fast_dev_run = True

torch.manual_seed(0)
targets = torch.arange(16) % 10
train_data = nni.trace(TensorDataset)(torch.randn(16, 3, 8, 8), targets)
search_train_loader = DataLoader(train_data, batch_size=4, sampler=SubsetRandomSampler(range(0, 8)))
search_valid_loader = DataLoader(train_data, batch_size=4, sampler=SubsetRandomSampler(range(8, 16)))

model_space = DartsSpace(width=2, num_cells=3, dataset="cifar")
evaluator = Classification(
    learning_rate=1e-3,
    weight_decay=1e-4,
    train_dataloaders=search_train_loader,
    val_dataloaders=search_valid_loader,
    max_epochs=10,
    accelerator="cpu",
    devices=1,
    num_classes=10,
    fast_dev_run=fast_dev_run,
)
experiment = NasExperiment(model_space, evaluator, DartsStrategy(gradient_clip_val=5.0))
experiment.run()
exported_arch = experiment.export_top_models(formatter="dict")[0]
print("Exported:", exported_arch)

with model_context(exported_arch):
    final_model = DartsSpace(width=2, num_cells=3, dataset="cifar")
evaluator = Lightning(
    ClassificationModule(learning_rate=1e-3, num_classes=10),
    Trainer(max_epochs=1, accelerator="cpu", fast_dev_run=fast_dev_run),
    train_dataloaders=DataLoader(train_data, batch_size=8),
    val_dataloaders=search_valid_loader,
)
evaluator.fit(final_model)
final_model.eval()
with torch.no_grad():
    print("Predicted:", final_model(torch.randn(3, 3, 8, 8)).argmax(1).tolist())


class Tiny(ModelSpace):
    def __init__(self):
        super().__init__()
        self.layer = LayerChoice([MutableLinear(4, 4), torch.nn.Identity()])
        self.head = MutableLinear(4, 2)

    def forward(self, x):
        return self.head(self.layer(x))


numbers = TensorDataset(torch.randn(16, 4), torch.arange(16) % 2)
loader = DataLoader(numbers, batch_size=4, shuffle=True)
tiny = NasExperiment(
    Tiny(),
    Classification(train_dataloaders=loader, val_dataloaders=loader, max_epochs=1, accelerator="cpu", num_classes=2),
    GumbelDARTS(),
)
tiny.run()
found = tiny.export_top_models(formatter="dict")[0]
print("Tiny:", found)
with model_context(found):
    print("Layer:", type(Tiny().layer).__name__)
