"""`separatrix watch` on unmodified scripts that leave the loop to the trainers of Hugging Face and Lightning."""

from __future__ import annotations

import concurrent.futures
import importlib.util
import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.record.kinds.truth import Truth
from tests.record.watching import make_workplace

from separatrix.runs import Status, open_run

NOTES = """
import json

truth = {}


def note(step, label="", **values):
    for series, value in values.items():
        truth.setdefault(series, {}).setdefault(label, {})[step] = float(value)


def rms(tensor):
    return tensor.detach().double().square().mean().sqrt()


def tell():
    print(json.dumps(truth))
"""

TRANSFORMERS = """
import sys

import torch
import transformers
from notes import note, rms, tell


class Texts(torch.utils.data.Dataset):
    def __init__(self, rows):
        self.rows = torch.randint(0, 11, (rows, 8), generator=torch.Generator().manual_seed(rows))

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        return {"input_ids": self.rows[index], "labels": self.rows[index]}


class Noting(transformers.TrainerCallback):
    def on_pre_optimizer_step(self, args, state, control, model, optimizer, **rest):
        step = state.global_step + 1
        for group, options in enumerate(optimizer.param_groups):
            note(step, str(group), learning_rate=options["lr"])
        for name, p in model.named_parameters():
            note(step, name, gradient_rms=rms(p.grad))

    def on_log(self, args, state, control, logs, **rest):
        if "grad_norm" in logs:
            note(state.global_step, gradient_norm=logs["grad_norm"])


class Trainer(transformers.Trainer):
    def compute_loss(self, model, inputs, *args, **kwargs):
        result = super().compute_loss(model, inputs, *args, **kwargs)
        if model.training:
            note(self.state.global_step + 1, loss=result)
        return result

    def evaluate(self, *args, **kwargs):
        found = super().evaluate(*args, **kwargs)
        rows = self.eval_dataset.rows
        with torch.no_grad():
            scores = self.model(rows).logits[:, :-1].double()
        picked = scores.gather(2, rows[:, 1:, None]).squeeze(2)
        # The mean over predicted tokens, by its definition; the trainer itself divides by one token a row more.
        note(self.state.global_step, eval_loss=(scores.logsumexp(dim=2) - picked).mean())
        return found


if __name__ == "__main__":
    transformers.set_seed(0)
    config = transformers.GPT2Config(vocab_size=11, n_positions=8, n_embd=16, n_layer=2, n_head=2, use_cache=False)
    model = transformers.GPT2LMHeadModel(config)
    arguments = transformers.TrainingArguments(
        output_dir="out",
        max_steps=6,
        per_device_train_batch_size=4,
        per_device_eval_batch_size=4,
        learning_rate=0.01,
        warmup_steps=2,
        max_grad_norm=0.5,
        logging_steps=1,
        eval_strategy="steps",
        eval_steps=3,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        use_cpu=True,
    )
    trainer = Trainer(model, arguments, train_dataset=Texts(16), eval_dataset=Texts(7), callbacks=[Noting()])

    def look(module, inputs, output):
        if module.training:
            note(trainer.state.global_step + 1, "lm_head", activation_rms=rms(output))

    model.lm_head.register_forward_hook(look)
    trainer.train()
    tell()
    sys.exit(3)
"""

LIGHTNING = """
import sys

import lightning.pytorch as lightning
import torch
from notes import note, rms, tell
from torch import nn
from torch.nn import functional as F


class Classifier(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
        self.net[1].register_forward_hook(self.look)
        self.held_out = []

    def look(self, module, inputs, output):
        if module.training:
            note(self.global_step + 1, "net.1", activation_rms=rms(output))

    def training_step(self, batch, index):
        x, y = batch
        loss = F.cross_entropy(self.net(x), y)
        note(self.global_step + 1, loss=loss)
        return loss

    def on_before_optimizer_step(self, optimizer):
        note(self.global_step + 1, learning_rate=optimizer.param_groups[0]["lr"])
        for name, p in self.named_parameters():
            note(self.global_step + 1, name, gradient_rms=rms(p.grad))

    def validation_step(self, batch, index):
        x, y = batch
        loss = F.cross_entropy(self.net(x), y)
        self.held_out += [loss.item()] * len(y)
        self.log("held_out", loss)

    def on_validation_epoch_end(self):
        note(self.global_step, eval_loss=sum(self.held_out) / len(self.held_out))
        self.held_out = []

    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)
        schedule = torch.optim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=0.5)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def rows(count):
    generator = torch.Generator().manual_seed(count)
    x, y = torch.randn(count, 6, generator=generator), torch.randint(0, 3, (count,), generator=generator)
    return torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, y), batch_size=8)


if __name__ == "__main__":
    lightning.seed_everything(0, verbose=False)
    model = Classifier()
    trainer = lightning.Trainer(
        max_epochs=2,
        accelerator="cpu",
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    trainer.fit(model, rows(24), rows(10))
    print({name: value.item() for name, value in trainer.callback_metrics.items()})
    tell()
    sys.exit(3)
"""

CLOCKS = re.compile(r"('(?:train|eval)_(?:runtime|samples_per_second|steps_per_second)': )'[^']*'")
STEPS = 6


def without_times(output: str) -> str:
    """What transformers prints of its own speed differs from run to run."""
    return CLOCKS.sub(r"\1'-'", output)


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("package", "script", "series"),
    [
        ("transformers", TRANSFORMERS, {"loss", "learning_rate", "gradient_rms", "gradient_norm"}),
        ("lightning", LIGHTNING, {"loss", "learning_rate", "gradient_rms"}),
    ],
    ids=["transformers", "lightning"],
)
def test_a_script_with_a_trainer_is_recorded_and_differs_in_nothing(
    package: str, script: str, series: set[str], tmp_path: Path, run_separatrix: Callable[..., object]
) -> None:
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed")
    place = make_workplace(tmp_path, real_torch=True)
    place.write({"train.py": script, "notes.py": NOTES})
    command = ("watch", "--run", tmp_path / "new", "--quiet", "--budget", "1.0", "train.py")
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        watching = pool.submit(run_separatrix, *command, cwd=place.folder)
        alone = place.alone("train.py")
    code, output, error = watching.result()  # type: ignore[misc]
    assert alone.code == 3, alone.stderr.decode()
    assert code == alone.code
    assert without_times(output) == without_times(alone.stdout.decode())
    assert error == alone.stderr.decode()
    told = json.loads(output.splitlines()[-1])
    assert told.keys() == {*series, "activation_rms", "eval_loss"}
    truth = Truth()
    for name, labels in told.items():
        for label, points in labels.items():
            assert len(points) == (2 if name == "eval_loss" else STEPS), (name, label)
            truth.values[name][label] = {int(step): value for step, value in points.items()}
    with open_run(tmp_path / "new") as run:
        assert run.status is Status.FINISHED
        assert [event.message for event in run.events if event.kind in ("probe-off", "unseen")] == []
        assert run.series("loss").steps.tolist() == list(range(1, STEPS + 1))
        truth.compare(run)
