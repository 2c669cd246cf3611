"""Trainers of other libraries that run the loop."""

from __future__ import annotations

import logging
import tempfile
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from tests.record.kinds._data import Rows, tokens
from tests.record.kinds.kind import kind
from tests.record.kinds.losses import CLASSES, mlp
from tests.record.kinds.truth import Truth, named
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader


class Texts(torch.utils.data.Dataset[dict[str, torch.Tensor]]):
    def __init__(self, examples: int) -> None:
        self.rows = tokens(examples, 8)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {"input_ids": self.rows[index], "labels": self.rows[index]}


def train_with_transformers(truth: Truth, callbacks: Sequence[Any] = (), fail_at: int | None = None) -> None:
    """Four steps of a tiny language model, evaluated after every second, of 7 examples in batches of 4."""
    import transformers

    config = transformers.GPT2Config(vocab_size=11, n_positions=8, n_embd=16, n_layer=2, n_head=2, use_cache=False)
    model = transformers.GPT2LMHeadModel(config)

    class Collecting(transformers.Trainer):
        def training_step(self, model: nn.Module, inputs: dict[str, Any], *rest: Any) -> torch.Tensor:
            if self.state.global_step == fail_at:
                raise RuntimeError("the data are gone")
            loss = super().training_step(model, inputs, *rest)
            truth.note(loss=loss, training_mode=1)
            for group, options in enumerate(self.optimizer.param_groups):
                truth.note(str(group), learning_rate=options["lr"], weight_decay=options["weight_decay"])
            gradients = {name: p.grad for name, p in self.model.named_parameters()}
            for name, gradient in gradients.items():
                truth.note(name, gradient_rms=gradient.double().pow(2).mean().sqrt(), gradient_carryover=0)
            norm = truth.gradient_norm(named(self.model))
            truth.note(gradient_norm=norm, clip_coefficient=min(1.0, 0.5 / (norm + 1e-6)), batch_size=4)
            clipped = {name: 0.5 / norm if norm > 0.5 else 1.0 for name in gradients}
            for name in gradients:
                truth.values["gradient_rms"][name][truth.step + 1] *= clipped[name]
            truth.step += 1
            return loss

        def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
            found = super().evaluate(*args, **kwargs)
            # The mean over predicted tokens, by its definition; the trainer itself divides by one token a row more.
            rows = Texts(7).rows
            with torch.no_grad():
                scores = self.model(rows).logits[:, :-1].double()
            picked = scores.gather(2, rows[:, 1:, None]).squeeze(2)
            right = (scores.argmax(dim=2) == rows[:, 1:]).double().mean()
            truth.evaluation((scores.logsumexp(dim=2) - picked).mean(), right)
            return found

    with tempfile.TemporaryDirectory() as folder:
        arguments = transformers.TrainingArguments(
            output_dir=folder,
            max_steps=4,
            per_device_train_batch_size=4,
            per_device_eval_batch_size=4,
            max_grad_norm=0.5,
            learning_rate=0.01,
            eval_strategy="steps",
            eval_steps=2,
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
            use_cpu=True,
            dataloader_pin_memory=False,
            logging_strategy="no",
        )
        trainer = Collecting(
            model, arguments, train_dataset=Texts(16), eval_dataset=Texts(7), callbacks=list(callbacks)
        )
        trainer.remove_callback(transformers.PrinterCallback)
        trainer.train()


@kind("transformers.Trainer", "Adam", "clipping", "evaluation", "classes")
def huggingface(truth: Truth) -> None:
    train_with_transformers(truth)


def lightning_module(truth: Truth, fail_at: int | None = None) -> Any:
    import lightning.pytorch as lightning

    class Classifier(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = mlp()

        def training_step(self, batch: Any, index: int) -> torch.Tensor:
            if index == fail_at:
                raise RuntimeError("the data are gone")
            x, y = batch
            scores = self.net(x)
            loss = functional.cross_entropy(scores, y)
            truth.classes(scores, y)
            truth.inputs(x)
            truth.note(loss=loss, learning_rate=0.1, closure_calls=1)
            return loss

        def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
            norm = truth.gradient_norm(self)
            truth.note(gradient_norm=norm)
            for name, p in self.named_parameters():
                truth.note(name, gradient_rms=p.grad.double().pow(2).mean().sqrt(), gradient_carryover=0)

        def on_train_batch_end(self, *args: Any) -> None:
            truth.step += 1

        def on_validation_epoch_start(self) -> None:
            self.evaluated: list[tuple[int, float, float]] = []

        def validation_step(self, batch: Any, index: int) -> None:
            x, y = batch
            scores = self.net(x)
            loss = functional.cross_entropy(scores, y)
            self.evaluated.append((len(y), loss.item(), float((scores.argmax(1) == y).float().mean())))

        def on_validation_epoch_end(self) -> None:
            total = sum(count for count, _, _ in self.evaluated)
            means = [sum(row[0] * row[i] for row in self.evaluated) / total for i in (1, 2)]
            truth.evaluation(*means)

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=0.1)

    return Classifier()


def train_with_lightning(truth: Truth, callbacks: Sequence[Any] = (), fail_at: int | None = None) -> None:
    """Two epochs of three steps, evaluated after each, of 10 examples in batches of 8."""
    import lightning.pytorch as lightning

    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    with warnings.catch_warnings(), tempfile.TemporaryDirectory() as folder:
        warnings.simplefilter("ignore")
        trainer = lightning.Trainer(
            max_epochs=2,
            accelerator="cpu",
            devices=1,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            default_root_dir=folder,
            callbacks=list(callbacks),
        )
        training, validation = DataLoader(Rows(24), batch_size=8), DataLoader(Rows(10), batch_size=8)
        trainer.fit(lightning_module(truth, fail_at), training, validation)


@kind("lightning.Trainer", "SGD", "closure", "evaluation", "rectifier", *CLASSES)
def lightning(truth: Truth) -> None:
    train_with_lightning(truth)
