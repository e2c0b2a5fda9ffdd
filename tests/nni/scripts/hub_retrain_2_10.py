"""The way of NNI 2.10's page on the DARTS space: search, then a training module of one's own with drop path."""

import nni
import torch
from nni.retiarii import fixed_arch
from nni.retiarii.evaluator.pytorch import Classification, ClassificationModule, DataLoader, Lightning, Trainer
from nni.retiarii.experiment.pytorch import RetiariiExeConfig, RetiariiExperiment
from nni.retiarii.hub.pytorch import DARTS
from nni.retiarii.strategy import DARTS as DartsStrategy
from torch.utils.data import SubsetRandomSampler, TensorDataset

fast_dev_run = True
max_epochs = 2

torch.manual_seed(0)
train_data = nni.trace(TensorDataset)(torch.randn(16, 3, 8, 8), torch.arange(16) % 10)
halves = [DataLoader(train_data, batch_size=4, sampler=SubsetRandomSampler(range(n, n + 8))) for n in (0, 8)]
evaluator = Classification(
    learning_rate=1e-3,
    weight_decay=1e-4,
    train_dataloaders=halves[0],
    val_dataloaders=halves[1],
    max_epochs=10,
    gpus=0,
    fast_dev_run=fast_dev_run,
)
config = RetiariiExeConfig(execution_engine="oneshot")
experiment = RetiariiExperiment(
    DARTS(width=2, num_cells=3, dataset="cifar"), evaluator=evaluator, strategy=DartsStrategy()
)
experiment.run(config)
exported_arch = experiment.export_top_models()[0]

with fixed_arch(exported_arch):
    final_model = DARTS(width=2, num_cells=3, dataset="cifar", auxiliary_loss=True, drop_path_prob=0.2)


class AuxiliaryModule(ClassificationModule):
    def __init__(self, learning_rate, weight_decay, auxiliary_weight, epochs):
        self.auxiliary_weight = auxiliary_weight
        self.epochs = epochs
        super().__init__(learning_rate=learning_rate, weight_decay=weight_decay, export_onnx=False)

    def configure_optimizers(self):
        sgd = torch.optim.SGD(
            self.parameters(), lr=self.hparams.learning_rate, momentum=0.9, weight_decay=self.hparams.weight_decay
        )
        cosine = torch.optim.lr_scheduler.CosineAnnealingLR(sgd, self.epochs, eta_min=1e-3)
        return {"optimizer": sgd, "lr_scheduler": cosine}

    def training_step(self, batch, batch_idx):
        images, labels = batch
        logits, auxiliary = self(images)
        loss = self.criterion(logits, labels) + self.auxiliary_weight * self.criterion(auxiliary, labels)
        self.log("train_loss", loss, prog_bar=True)
        for name, metric in self.metrics.items():
            self.log("train_" + name, metric(logits, labels), prog_bar=True)
        return loss

    def on_train_epoch_start(self):
        self.model.set_drop_path_prob(self.model.drop_path_prob * self.current_epoch / self.epochs)
        self.log("lr", self.trainer.optimizers[0].param_groups[0]["lr"])


retraining = Lightning(
    AuxiliaryModule(0.025, 3e-4, 0.4, max_epochs),
    Trainer(gpus=0, max_epochs=max_epochs),
    train_dataloaders=DataLoader(train_data, batch_size=8),
    val_dataloaders=halves[1],
)
retraining.fit(final_model)
print("Rates:", [row["lr"] for row in retraining.history])
final_model.eval()
with torch.no_grad():
    print("Predicted:", final_model(torch.randn(3, 3, 8, 8)).argmax(1).tolist())
