"""NNI's names on archgrad: `import archgrad.nni as nni` in the place of `import nni`, or `archgrad nni-run SCRIPT.py`.

Below are the modules that scripts for NNI 2 and 3 import (`nni.retiarii.nn.pytorch`, `nni.nas.experiment`, ...). Each
name maps to archgrad's; what there is not says what to use.
"""

from archgrad.nni.stand_in import install
from archgrad.nni.trainer import DartsTrainer

__all__ = ["DartsTrainer", "install"]

install(__name__)
