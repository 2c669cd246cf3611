"""Two views of one example: their covariances, exact samples, and distortions that leave nothing else changed."""

from __future__ import annotations

import pytest
import torch

from separatrix.tasks import Batch, Dataset, GaussianViews, ImageViews, Parity, TaskError


def test_gaussian_views_have_the_covariances_that_they_state() -> None:
    task = GaussianViews(dimension=3, decay=0.7, noise=0.4, noise_decay=0.5, dtype=torch.float64)
    views, signal = task.sample(200_000, 0)
    first, second = views.unbind(1)
    own, cross = first.T @ first / len(first), first.T @ second / len(first)
    within = 5 * 1.5 / len(first) ** 0.5
    torch.testing.assert_close(own, torch.diag(task.signal + task.augmentation), rtol=0, atol=within)
    torch.testing.assert_close(cross, torch.diag(task.signal), rtol=0, atol=within)
    torch.testing.assert_close(signal.T @ second / len(first), torch.diag(task.signal), rtol=0, atol=within)


def test_the_best_linear_prediction_of_a_view_is_the_share_of_the_signal() -> None:
    task = GaussianViews(dimension=4, noise=0.8, dtype=torch.float64)
    first, second = task.exact(60, 1).inputs.unbind(1)
    best = torch.linalg.lstsq(first, second).solution
    torch.testing.assert_close(best, torch.diag(task.signal / (task.signal + task.augmentation)))


def test_exact_views_have_exact_second_moments_and_refuse_too_few() -> None:
    task = GaussianViews(dimension=5, dtype=torch.float64)
    views, signal = task.exact(15, 2)
    first, second = views.unbind(1)
    torch.testing.assert_close(first.T @ second / 15, torch.diag(task.signal))
    torch.testing.assert_close(second.T @ second / 15, torch.diag(task.signal + task.augmentation))
    torch.testing.assert_close(signal.T @ first / 15, torch.diag(task.signal))
    with pytest.raises(TaskError, match="14 exact pairs in dimension 5: ask for 15 at least"):
        task.exact(14, 2)


def test_a_view_without_distortion_is_the_image() -> None:
    task = ImageViews(turn=0.0, zoom=1.0, shift=0.0, noise=0.0)
    views, _ = task.sample(10, 0)
    torch.testing.assert_close(views[:, 0], views[:, 1])
    torch.testing.assert_close(views[:, 0], task.base.sample(10, 0).inputs)


def test_a_distortion_turns_an_image_as_asked() -> None:
    """A half turn, up to sign, of an image whose centre is its only bright row."""
    task = ImageViews(turn=180.0, zoom=1.0, shift=0.0, noise=0.0, dtype=torch.float64)
    line = torch.zeros(400, 1, 9, 9, dtype=torch.float64)
    line[:, :, 4, 1:8] = 1.0
    seen = task.distorted(line, 0)
    axis = torch.arange(9, dtype=torch.float64) - 4
    mass = seen.sum((1, 2, 3))
    along = (seen.sum((1, 2)) @ axis.square() - seen.sum((1, 3)) @ axis.square()) / mass
    assert float((seen.sum((1, 2)) @ axis / mass).abs().max()) < 1e-9  # the centre stays where it is
    straight = float((line[:1].sum((1, 2)) @ axis.square()) / 7)
    assert float(along.min()) == pytest.approx(-straight, rel=0.1)
    assert float(along.max()) == pytest.approx(straight, rel=0.1)


def test_noise_and_shift_have_the_sizes_asked_for() -> None:
    flat = torch.zeros(50, 1, 8, 8, dtype=torch.float64)
    noisy = ImageViews(noise=0.3).distorted(flat, 0)
    assert float(noisy.std()) == pytest.approx(0.3, rel=5 / (2 * noisy.numel()) ** 0.5)
    ramp = torch.arange(16, dtype=torch.float64).expand(300, 1, 16, 16)
    moved = ImageViews(turn=0.0, zoom=1.0, shift=0.125, noise=0.0).distorted(ramp, 0)[:, 0, 8, 8] - 8.0
    assert float(moved.abs().max()) == pytest.approx(2.0, rel=0.05) and abs(float(moved.mean())) < 0.4


@pytest.mark.parametrize("knob", [{"zoom": 0.5}, {"turn": -1.0}, {"shift": 2.0}, {"noise": float("nan")}])
def test_a_bad_distortion_is_refused(knob: dict[str, float]) -> None:
    with pytest.raises(TaskError, match=next(iter(knob))):
        ImageViews(**knob)


def test_views_are_of_images_only() -> None:
    with pytest.raises(TaskError, match=r"base=.* must be a data set of images"):
        ImageViews(base=_Rows()).sample(3, 0)


class _Rows(Dataset):
    """Rows of numbers."""

    name = "rows"

    def load(self) -> tuple[Batch, Batch]:
        return Parity(dimension=4).sample(9, 0), Parity(dimension=4).sample(3, 1)
