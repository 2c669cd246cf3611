"""Which names of other tools mean a series of ours without doubt."""

from __future__ import annotations

import numpy as np
import pytest

from separatrix.runs.importing.log import LogSeries
from separatrix.runs.importing.names import mapped


def series(*names: str, value: float = 0.5) -> list[LogSeries]:
    return [LogSeries(name, np.arange(3), np.full(3, value)) for name in names]


@pytest.mark.parametrize(
    ("name", "meaning"),
    [
        ("loss", "loss"),
        ("Loss", "loss"),
        ("train_loss", "loss"),
        ("train/loss", "loss"),
        ("Loss/train", "loss"),
        ("trainLoss", "loss"),
        ("training loss", "loss"),
        ("train/epoch_loss", "loss"),
        ("train_loss_step", "loss"),
        ("train/loss_epoch", "loss"),
        ("val_loss", "eval_loss"),
        ("valLoss", "eval_loss"),
        ("validation/epoch_loss", "eval_loss"),
        ("eval/loss", "eval_loss"),
        ("eval_loss", "eval_loss"),
        ("Loss/test", "eval_loss"),
        ("lr", "learning_rate"),
        ("LR", "learning_rate"),
        ("learning_rate", "learning_rate"),
        ("train/learning_rate", "learning_rate"),
        ("lr-Adam", "learning_rate"),
        ("lr-AdamW/pg1", "learning_rate"),
        ("grad_norm", "gradient_norm"),
        ("train/grad_norm", "gradient_norm"),
        ("acc", "accuracy"),
        ("train_accuracy", "accuracy"),
        ("val_acc", "eval_accuracy"),
        ("train/epoch", "epoch"),
        ("box_loss", "box_loss"),
        ("train/cls_loss", "train/cls_loss"),
        ("eval_train_loss", "eval_train_loss"),
        ("lossy", "lossy"),
        ("val_lr", "val_lr"),
        ("clr", "clr"),
        ("loss_scale", "loss_scale"),
        ("step", "step"),
        ("", ""),
    ],
)
def test_one_name(name: str, meaning: str) -> None:
    assert mapped(series(name)) == {name: meaning}


def test_the_plainest_of_several_is_mapped() -> None:
    assert mapped(series("train_loss", "loss"))["train_loss"] == "train_loss"
    assert mapped(series("train_loss", "loss"))["loss"] == "loss"
    names = mapped(series("train_loss_epoch", "train_loss_step"))
    assert names == {"train_loss_epoch": "train_loss_epoch", "train_loss_step": "loss"}
    assert mapped(series("test_loss", "val_loss")) == {"test_loss": "test_loss", "val_loss": "eval_loss"}


def test_of_equally_plain_names_the_one_with_more_values_is_mapped() -> None:
    few, many = LogSeries("train_loss", np.arange(2), np.ones(2)), LogSeries("train/loss", np.arange(9), np.ones(9))
    assert mapped([few, many]) == {"train_loss": "train_loss", "train/loss": "loss"}


def test_no_two_series_get_one_name() -> None:
    names = mapped(series("Loss", "LOSS", "train loss", "train_loss", "lr", "LR", "val_acc", "eval_accuracy"))
    assert len(set(names.values())) == len(names)


def test_learning_rates_of_several_groups_stay_apart() -> None:
    names = mapped(series("lr-Adam/pg1", "lr-Adam/pg2"))
    assert names == {"lr-Adam/pg1": "lr-Adam/pg1", "lr-Adam/pg2": "lr-Adam/pg2"}


def test_percentages_are_no_shares() -> None:
    assert mapped(series("acc", value=62.5)) == {"acc": "acc"}
    assert mapped(series("val_acc", value=1.0)) == {"val_acc": "eval_accuracy"}
