import signal

import lightning as L
import pytest
from lightning.pytorch.demos.boring_classes import BoringModel

from razh.run import preemption


class Interrupts(L.Callback):
    """Sends Ctrl-C before training begins, where features are computed, say."""

    def setup(self, trainer, pl_module, stage):
        signal.raise_signal(signal.SIGINT)


def test_ctrl_c_outside_training_has_its_own_status():
    trainer = L.Trainer(
        accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False, callbacks=[Interrupts()]
    )
    with preemption.Listener(), pytest.raises(SystemExit) as stopped:
        trainer.fit(BoringModel())
    assert stopped.value.code == 130


def test_a_process_that_loads_images_is_interrupted_as_torch_expects():
    with preemption.Listener() as listener:
        listener._process = -1
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
