"""The way of NNI 2.10's page on the DARTS space: a module of one's own for the search and for the training after."""

import nni
import torch
from nni.retiarii import fixed_arch
from nni.retiarii.evaluator.pytorch import ClassificationModule, DataLoader, Lightning, Trainer
from nni.retiarii.experiment.pytorch import RetiariiExeConfig, RetiariiExperiment
from nni.retiarii.hub.pytorch import DARTS
from nni.retiarii.strategy import DARTS as DartsStrategy
from torch.utils.data import SubsetRandomSampler, TensorDataset

max_epochs = 2

torch.manual_seed(0)
train_data = nni.trace(TensorDataset)(torch.randn(16, 3, 8, 8), torch.arange(16) % 10)
halves = [DataLoader(train_data, batch_size=4, sampler=SubsetRandomSampler(range(n, n + 8))) for n in (0, 8)]


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
        if self.auxiliary_weight:
            logits, auxiliary = self(images)
            loss = self.criterion(logits, labels) + self.auxiliary_weight * self.criterion(auxiliary, labels)
        else:
            logits = self(images)
            loss = self.criterion(logits, labels)
        self.log("train_loss", loss, prog_bar=True)
        for name, metric in self.metrics.items():
            self.log("train_" + name, metric(logits, labels), prog_bar=True)
        return loss

    def on_train_epoch_start(self):
        self.model.set_drop_path_prob(self.model.drop_path_prob * self.current_epoch / self.epochs)
        self.log("lr", self.trainer.optimizers[0].param_groups[0]["lr"])


space = DARTS(width=2, num_cells=3, dataset="cifar")
searching = Lightning(
    AuxiliaryModule(0.025, 3e-4, 0.0, max_epochs),
    Trainer(gpus=0, max_epochs=max_epochs),
    train_dataloaders=halves[0],
    val_dataloaders=halves[1],
)
config = RetiariiExeConfig(execution_engine="oneshot")
experiment = RetiariiExperiment(space, evaluator=searching, strategy=DartsStrategy(gradient_clip_val=5.0))
experiment.run(config)
exported_arch = experiment.export_top_models()[0]

with fixed_arch(exported_arch):
    final_model = DARTS(width=2, num_cells=3, dataset="cifar", auxiliary_loss=True, drop_path_prob=0.2)


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
