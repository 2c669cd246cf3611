"""Probes of representations: against textbook formulas in NumPy on features caught by hand."""

from __future__ import annotations

import copy
import dataclasses
import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tests.unhurried import unhurried
from torch import nn

import separatrix
from separatrix.probes import Comparison, collapse, compare_representations, coordinates, representation
from separatrix.probes._layers import evenly, feature_rows, leaf_features, leaf_layers
from separatrix.record.replay import ReplayError, find_link
from separatrix.record.shadow import undisturbed
from separatrix.record.snapshot import Snapshot, snapshot_of
from separatrix.runs.errors import UsageError
from separatrix.runs.probe import Probe, Reading
from separatrix.testing import check_probe, example_snapshots
from separatrix.testing.fingerprints import fingerprint, surroundings

Matrix = np.ndarray


def caught(snapshot: Snapshot, values: Mapping[str, torch.Tensor] | None = None) -> dict[str, Matrix]:
    """Outputs (rows, units) of the leaves of a copy of the model, on the step's inputs with its random numbers."""
    model = copy.deepcopy(snapshot.model)
    if values is not None:
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                parameter.copy_(values[name])
    found: dict[str, Matrix] = {}

    def keep(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, arguments: Any, output: Any) -> None:
            x = output[0] if isinstance(output, tuple) else output
            x = x.permute(0, 2, 3, 1) if x.dim() == 4 else x
            found[name] = x.detach().reshape(-1, x.shape[-1]).numpy().copy()

        return hook

    for name, module in model.named_modules():
        inside = ".self_attn." in name
        if not inside and (not list(module.children()) or isinstance(module, nn.MultiheadAttention)):
            module.register_forward_hook(keep(name))
    snapshot.batch.call.random.restore()
    model(*snapshot.batch.call.arguments)
    return found


def pairs(snapshot: Snapshot) -> dict[str, tuple[Matrix, Matrix]]:
    assert snapshot.initial is not None
    start = caught(snapshot, snapshot.initial)
    return {name: (x, start[name]) for name, x in caught(snapshot).items()}


def centred(x: Matrix) -> Matrix:
    return x - x.mean(0)


def hsic_alignment(x: Matrix, y: Matrix) -> float:
    n = len(x)
    h = np.eye(n) - 1 / n
    k, l = h @ x @ x.T @ h, h @ y @ y.T @ h  # noqa: E741
    with np.errstate(invalid="ignore"):
        return float(np.sum(k * l) / np.sqrt(np.sum(k * k) * np.sum(l * l)))


def unbiased_alignment(x: Matrix, y: Matrix) -> float:
    """Song et al. 2012, eq. 5, in its form with three sums."""
    n = len(x)
    if n < 4:
        return math.nan

    def hsic(k: Matrix, l: Matrix) -> float:  # noqa: E741
        one = np.ones(n)
        first = np.trace(k @ l)
        second = (one @ k @ one) * (one @ l @ one) / ((n - 1) * (n - 2))
        third = 2 * (one @ k @ l @ one) / (n - 2)
        return float((first + second - third) / (n * (n - 3)))

    k, l = (z @ z.T - np.diag(np.diag(z @ z.T)) for z in (x, y))  # noqa: E741
    return hsic(k, l) / math.sqrt(hsic(k, k) * hsic(l, l))


def basis(x: Matrix, variance: float) -> Matrix:
    u, s, _ = np.linalg.svd(centred(x), full_matrices=False)
    kept = int((s > 1e-12 * s[0]).sum())
    if variance < 1:
        kept = min(kept, int(np.searchsorted(np.cumsum(s**2) / np.sum(s**2), variance) + 1))
    return u[:, :kept]


def correlations(x: Matrix, y: Matrix, variance: float = 1.0) -> tuple[float, float]:
    """(mean, projection-weighted mean); NaN where the rows are too few."""
    if len(x) < 2:
        return math.nan, math.nan
    p, q = basis(x, variance), basis(y, variance)
    if p.shape[1] + q.shape[1] > len(x) - 1:
        return math.nan, math.nan
    r, rho, _ = np.linalg.svd(p.T @ q, full_matrices=False)
    weights = np.abs((p @ r).T @ centred(x)).sum(1)
    return float(rho.mean()), float((weights * rho).sum() / weights.sum())


def of_alignment(snapshot: Snapshot) -> Mapping[str, Any]:
    both = pairs(snapshot)
    return {
        "cka_to_init": {name: hsic_alignment(*pair) if len(pair[0]) > 1 else math.nan for name, pair in both.items()},
        "cka_debiased_to_init": {name: unbiased_alignment(*pair) for name, pair in both.items()},
    }


def of_correlations(snapshot: Snapshot) -> Mapping[str, Any]:
    both = pairs(snapshot)
    return {
        "cca_to_init": {name: correlations(*pair)[0] for name, pair in both.items()},
        "pwcca_to_init": {name: correlations(*pair)[1] for name, pair in both.items()},
        "svcca_to_init": {name: correlations(*pair, 0.99)[0] for name, pair in both.items()},
    }


def of_shape(snapshot: Snapshot) -> Mapping[str, Any]:
    effective, stable, ratio = {}, {}, {}
    for name, x in caught(snapshot).items():
        if len(x) < 2:
            effective[name] = stable[name] = ratio[name] = math.nan
            continue
        s = np.linalg.svd(centred(x), compute_uv=False)
        p = s[s > 1e-13 * s[0]] / s.sum()
        effective[name] = math.exp(-np.sum(p * np.log(p)))
        covariance = centred(x).T @ centred(x)
        stable[name] = np.trace(covariance) / np.linalg.norm(covariance, 2)
        ratio[name] = np.trace(covariance) ** 2 / np.trace(covariance @ covariance)
    return {
        "feature_effective_rank": effective,
        "feature_stable_rank": stable,
        "feature_participation_ratio": ratio,
    }


def of_units(snapshot: Snapshot) -> Mapping[str, Any]:
    found = {}
    for name, x in caught(snapshot).items():
        if len(x) < 3:
            found[name] = math.nan
            continue
        c = np.abs(np.corrcoef(x.T)) - np.eye(x.shape[1])
        found[name] = float((c.max(0) >= 0.99).mean())
    return {"duplicate_unit_share": found}


def of_dimension(snapshot: Snapshot) -> Mapping[str, Any]:
    values = {}
    for name, x in caught(snapshot).items():
        x = np.unique(x, axis=0)
        n = len(x)
        if n < 10:
            values[name] = math.nan
            continue
        distances = np.sort(np.sqrt(((x[:, None] - x) ** 2).sum(2)), axis=1)
        logs = np.sort(np.log(distances[:, 2] / distances[:, 1]))
        kept = round(0.9 * n)
        values[name] = (kept - 1) / (logs[:kept].sum() + (n - kept) * logs[kept - 1])
    return {"intrinsic_dimension": values}


def of_collapse(snapshot: Snapshot) -> Mapping[str, Any]:
    model = copy.deepcopy(snapshot.model)
    head = [module for module in model.modules() if isinstance(module, nn.Linear)][-1]
    seen: list[Matrix] = []
    head.register_forward_pre_hook(lambda _, entered: seen.append(entered[0].detach().reshape(-1, head.in_features)))
    snapshot.batch.call.random.restore()
    logits = model(*snapshot.batch.call.arguments).detach()
    logits = logits.reshape(-1, logits.shape[-1]).numpy()
    x, w = seen[0].numpy(), head.weight.detach().numpy()
    assert snapshot.targets is not None
    return dict(textbook_collapse(x, snapshot.targets.numpy(), w, logits))


def textbook_collapse(x: Matrix, y: Matrix, w: Matrix, logits: Matrix) -> Iterator[tuple[str, float]]:
    """Papyan, Han, Donoho 2020, class by class; classes of one example left out."""
    classes = [c for c in np.unique(y) if (y == c).sum() > 1]
    k = len(classes)
    if k < 2:
        yield from ((name, math.nan) for name in ("nc1", "nc2", "nc3", "nc4"))
        return
    means = np.stack([x[y == c].mean(0) for c in classes])
    within = sum(centred(x[y == c]).T @ centred(x[y == c]) / (y == c).sum() for c in classes) / k
    m = centred(means)
    between = m.T @ m / k
    yield "nc1", float(np.trace(within @ np.linalg.pinv(between, rcond=1e-11, hermitian=True)) / k)
    simplex = np.eye(k) - 1 / k
    gram = m @ m.T
    yield "nc2", float(np.linalg.norm(gram / np.linalg.norm(gram) - simplex / np.linalg.norm(simplex)))
    norms = np.linalg.norm(m, axis=1)
    cosines = [m[i] @ m[j] / norms[i] / norms[j] for i, j in itertools.combinations(range(k), 2)]
    yield "nc2_equinorm", float(norms.std() / norms.mean())
    yield "nc2_equiangularity", float(np.std(cosines))
    rows = w[classes]
    yield "nc3", float(((rows / np.linalg.norm(rows) - m / np.linalg.norm(m)) ** 2).sum())
    nearest = np.array([classes[int(np.argmin(((z - means) ** 2).sum(1)))] for z in x])
    yield "nc4", float((nearest != logits.argmax(1)).mean())


@pytest.mark.parametrize(
    ("probe", "oracle"),
    [
        (representation.alignment, of_alignment),
        (representation.correlations, of_correlations),
        (representation.shape, of_shape),
        (representation.units, of_units),
        (representation.dimension, of_dimension),
        (collapse.collapse, of_collapse),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_probe(probe: Probe, oracle: Any) -> None:
    assert check_probe(probe, oracle=oracle, tolerance=1e-9) > 0


def read(measure: Any, snapshot: Snapshot, state: dict[str, Any] | None = None) -> dict[str, Reading]:
    with undisturbed():
        return {reading.series: reading for reading in measure(snapshot, {} if state is None else state)}


# Rows


def test_channels_of_images_and_last_axes_of_sequences_are_units() -> None:
    images = torch.arange(2 * 3 * 4 * 5.0).reshape(2, 3, 4, 5)
    rows = feature_rows(nn.ReLU(), images)
    assert rows.shape == (40, 3)
    assert torch.equal(rows[7], images[0, :, 1, 2])
    sequences = torch.randn(2, 6, 5)
    assert torch.equal(feature_rows(nn.Linear(5, 5), sequences), sequences.reshape(12, 5))
    assert torch.equal(feature_rows(nn.Conv1d(6, 6, 1), sequences), sequences.transpose(1, 2).reshape(10, 6))
    assert feature_rows(nn.Flatten(), torch.randn(7)).shape == (7, 1)


def test_many_rows_are_taken_at_even_distances() -> None:
    rows = torch.arange(1000.0)[:, None]
    taken = evenly(rows, 300)[:, 0]
    assert len(taken) == 300 and taken[0] == 0
    steps = taken.diff()
    assert set(steps.tolist()) == {3.0, 4.0}
    assert torch.equal(evenly(rows, 1000), rows)


def test_features_before_an_activation_in_place_are_those_the_layer_gave() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(inplace=True), nn.Linear(6, 3))
    x = torch.randn(9, 4)
    snapshot = snapshot_of(model, "cross_entropy", x, torch.arange(9) % 3)
    with undisturbed():
        features = representation.snapshot_features(snapshot)
    torch.testing.assert_close(features["0"], model[0](x).detach())
    torch.testing.assert_close(features["1"], model[0](x).detach().relu())


def test_parametrized_modules_are_leaves_themselves() -> None:
    torch.manual_seed(0)
    normed = nn.utils.parametrizations.spectral_norm
    x = torch.randn(9, 4)
    inner = nn.Sequential(normed(nn.Linear(4, 6)), nn.ReLU())
    for model, names in ((inner, ["m.0", "m.1"]), (normed(nn.Linear(4, 3)), ["m.ParametrizedLinear"])):
        assert list(leaf_layers(model, "m.")) == names
        model.eval()
        features = leaf_features(leaf_layers(model), lambda model=model: model(x))
        torch.testing.assert_close(features[names[-1].removeprefix("m.")], model(x).detach())


def test_nothing_has_moved_at_the_first_snapshot() -> None:
    snapshot = example_snapshots()["transformer"]()
    snapshot.initial = {label: p.detach().clone() for label, p in snapshot.parameters.items()}
    found = {**read(representation.measure_alignment, snapshot), **read(representation.measure_correlations, snapshot)}
    for reading in found.values():
        values = torch.as_tensor(reading.values)
        torch.testing.assert_close(values, torch.ones_like(values), rtol=0, atol=1e-9)


def test_features_that_are_not_finite_give_no_number() -> None:
    model = nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 3)).double()
    with torch.no_grad():
        model[0].weight[0, 0] = torch.nan
    first = {name: p.detach().clone() for name, p in model.named_parameters()}
    x, y = torch.randn(30, 4).double(), torch.arange(30) % 3
    snapshot = snapshot_of(model, "cross_entropy", x, y, initial=first)
    probes = (representation.alignment, representation.correlations, representation.shape, collapse.collapse)
    for probe in (*probes, representation.units, representation.dimension):
        for reading in read(probe.measure, snapshot).values():
            assert bool(torch.as_tensor(reading.values).isnan().all()), reading.series


# Neural collapse


def sequence_snapshot(way: Callable[[torch.Tensor], torch.Tensor], targets: torch.Tensor) -> Snapshot:
    """A snapshot whose loss function is given part of the output (5, 6, 3) of a model of sequences."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double()
    snapshot = snapshot_of(model, "cross_entropy", torch.randn(5, 6, 4).double(), torch.zeros(30, dtype=torch.int64))
    with undisturbed():
        result = snapshot.forward()
    given = way(result.detach())
    snapshot.batch.link = find_link(result, given)
    assert snapshot.batch.view is not None
    snapshot.batch.view = dataclasses.replace(snapshot.batch.view, outputs=given, targets=targets)
    snapshot.__dict__.pop("classes", None)
    return snapshot


@pytest.mark.parametrize(
    ("way", "rows"),
    [
        (lambda x: x[:, -1], lambda x: x[:, -1]),
        (lambda x: x[:, 0], lambda x: x[:, 0]),
        (lambda x: x[:, :-1].reshape(-1, 3), lambda x: x[:, :-1].reshape(-1, 5)),
        (lambda x: x.movedim(-1, 1), lambda x: x.reshape(-1, 5)),
    ],
    ids=["last", "first", "all but last", "classes second"],
)
def test_last_features_of_parts_of_sequences(way: Any, rows: Any) -> None:
    count = way(torch.zeros(5, 6, 3)).numel() // 3
    targets = torch.arange(count) % 3
    shaped = targets.reshape(5, 6) if way(torch.zeros(5, 6, 3)).dim() == 3 else targets
    snapshot = sequence_snapshot(way, shaped)
    with undisturbed():
        layer = collapse.last_layer(snapshot)
        entering = rows(snapshot.model[:2](snapshot.inputs[0])).detach()
    torch.testing.assert_close(layer.features, entering, rtol=1e-12, atol=1e-12)
    assert torch.equal(layer.labels, targets)
    torch.testing.assert_close(layer.scores, entering @ layer.weight.T + snapshot.model[2].bias.detach())


def test_ignored_rows_and_log_probabilities() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3), nn.LogSoftmax(1)).double()
    x, y = torch.randn(12, 4).double(), torch.arange(12) % 3
    y[:4] = 0
    snapshot = snapshot_of(model, "nll_loss", x, y, ignore_index=0)
    found = read(collapse.measure_collapse, snapshot)
    kept = y != 0
    features, logits = model[:2](x[kept]).detach().numpy(), model(x[kept]).detach().numpy()
    expected = dict(textbook_collapse(features, y[kept].numpy(), model[2].weight.detach().numpy(), logits))
    for name, value in expected.items():
        assert float(found[name].values) == pytest.approx(value, rel=1e-9, abs=1e-12)


def test_collapsed_features_show_it() -> None:
    means = torch.eye(3).double() - 1 / 3
    model = nn.Linear(3, 3, bias=False).double()
    with torch.no_grad():
        model.weight.copy_(2 * means)
    y = torch.arange(12) % 3
    found = read(collapse.measure_collapse, snapshot_of(model, "cross_entropy", means[y], y))
    for name in ("nc1", "nc2", "nc3", "nc4", "nc2_equinorm", "nc2_equiangularity"):
        assert float(found[name].values) == pytest.approx(0.0, abs=1e-12), name


def test_a_model_without_a_last_linear_layer_is_refused() -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.Tanh()).double()
    snapshot = snapshot_of(model, "cross_entropy", torch.randn(6, 4).double(), torch.arange(6) % 3)
    with pytest.raises(ReplayError, match="no linear layer"):
        read(collapse.measure_collapse, snapshot)


# Spectral bias


class Waves(nn.Module):
    """sum of a_k cos(2 pi k x) on coordinates x; learnable amplitudes."""

    def __init__(self, amplitudes: list[float], dims: int = 1) -> None:
        super().__init__()
        self.amplitudes = nn.Parameter(torch.tensor(amplitudes, dtype=torch.float64))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        k = torch.arange(1, 1 + len(self.amplitudes), dtype=x.dtype)
        return torch.cos(2 * torch.pi * x[:, :1] * k) @ self.amplitudes[:, None]


def test_frequencies_that_a_network_lacks_have_their_share_of_error() -> None:
    x = torch.linspace(0.0, 2.0, 201, dtype=torch.float64)[:, None]
    target = Waves([1.0, 1.0, 1.0, 1.0])(x).detach()
    snapshot = snapshot_of(Waves([1.0, 0.9, 0.2, 0.0]), "mse_loss", x, target)
    before = fingerprint([snapshot.parameters, snapshot.model], "snapshot"), surroundings()
    found = read(coordinates.measure_frequencies, snapshot)
    assert (fingerprint([snapshot.parameters, snapshot.model], "snapshot"), surroundings()) == before
    errors = dict(zip(found["frequency_error"].labels or (), found["frequency_error"].values.tolist(), strict=True))
    # The box is two long: k periods along it are k / 2 cycles a unit.
    assert [errors[k] for k in ("2", "4", "6", "8")] == pytest.approx([0.0, 0.01, 0.64, 1.0], abs=1e-9)
    assert math.isnan(errors["1"]) and math.isnan(errors["3"])
    assert float(found["learnt_bandwidth"].values) == pytest.approx(2.0)


def test_frequencies_come_in_whole_shells_without_opposites() -> None:
    assert coordinates.frequencies(1, 4000) == [(k,) for k in range(1, 33)]
    assert coordinates.frequencies(1, 30) == [(k,) for k in range(1, 8)]
    plane = coordinates.frequencies(2, 4000)
    assert len(plane) <= coordinates.MOST_FREQUENCIES
    longest = max(a * a + b * b for a, b in plane)
    everything = {k for k in itertools.product(range(-9, 10), repeat=2) if 0 < k[0] ** 2 + k[1] ** 2 <= longest}
    assert {k for k in plane} | {(-a, -b) for a, b in plane} == everything
    assert len(everything) == 2 * len(plane)
    assert coordinates.frequencies(3, 20) == [(0, 0, 1), (0, 1, 0), (1, 0, 0)]
    assert coordinates.frequencies(3, 10) == []


def test_waves_stay_those_of_the_first_batch() -> None:
    state: dict[str, Any] = {}
    first = torch.rand(64, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    model = Waves([1.0])
    labels = []
    for points in (first, first[:60] * 0.9):
        snapshot = snapshot_of(model, "mse_loss", points, torch.zeros(len(points), 1).double())
        labels.append(read(coordinates.measure_frequencies, snapshot, state)["frequency_error"].labels)
        assert torch.equal(state["box"], first.amax(0) - first.amin(0))
    assert labels[0] == labels[1]


@pytest.mark.parametrize(
    ("x", "kind", "y"),
    [
        (torch.randn(50, 4).double(), "mse_loss", torch.randn(50, 1).double()),
        (torch.randn(5, 1).double(), "mse_loss", torch.randn(5, 1).double()),
        (torch.ones(50, 1).double(), "mse_loss", torch.randn(50, 1).double()),
        (torch.randn(50, 1).double(), "binary_cross_entropy_with_logits", torch.ones(50, 1).double()),
    ],
    ids=["many coordinates", "few points", "one point", "classes"],
)
def test_what_has_no_frequencies_is_refused(x: torch.Tensor, kind: str, y: torch.Tensor) -> None:
    with pytest.raises(ReplayError, match=r"spectral bias|too few"):
        read(coordinates.measure_frequencies, snapshot_of(Waves([1.0]), kind, x, y))


# Comparison of networks


def small(seed: int, width: int = 7) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 3, 3),
        nn.BatchNorm2d(3),
        nn.ReLU(inplace=True),
        nn.Flatten(),
        nn.Linear(48, width),
        nn.Dropout(0.5),
    )


def test_networks_are_compared_layer_by_layer_and_stay_as_they_are() -> None:
    a, b, x = small(0), small(1, 5), torch.randn(40, 1, 6, 6)
    before = fingerprint([a, b], "models"), surroundings()
    found = compare_representations(a, b, x)
    assert (fingerprint([a, b], "models"), surroundings()) == before
    assert isinstance(found, Comparison) and found.measure == "cka"
    assert found.layers_a == found.layers_b == ("0", "1", "2", "3", "4", "5")
    p, q = a.eval(), b.eval()
    expected = hsic_alignment(p[0](x).detach().flatten(1).double().numpy(), q[:5](x).detach().double().numpy())
    assert float(found.values[0, 4]) == pytest.approx(expected, rel=1e-9)
    assert found.same_layers["4"] == float(found.values[4, 4])


def test_networks_that_draw_and_checkpoints_leave_everything_as_it_was() -> None:
    class Noisy(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x + torch.randn_like(x))

    model, x = Noisy(4, 3), torch.randn(20, 4)
    before = fingerprint(model, "model"), surroundings()
    found = compare_representations(model, {name: 2 * p for name, p in model.state_dict().items()}, x)
    assert (fingerprint(model, "model"), surroundings()) == before
    assert found.layers_a == ("Noisy",)


@pytest.mark.parametrize("measure", ["cka", "cka-debiased", "rbf-cka", "cca", "svcca", "pwcca"])
def test_a_network_is_like_itself_and_its_checkpoint(measure: str) -> None:
    model, x = small(0), torch.randn(120, 1, 6, 6)
    same = compare_representations(model, model.state_dict(), x, measure=measure, layers=["0", "4"])
    assert same.values.diagonal().tolist() == pytest.approx([1.0, 1.0], abs=1e-9)
    other = {name: torch.randn_like(v) if v.is_floating_point() else v for name, v in model.state_dict().items()}
    other["1.running_var"] = torch.ones(3)
    changed = compare_representations(model, other, x, measure=measure, layers=["4"])
    if measure != "svcca":
        assert float(changed.values) < 0.999


def test_too_few_examples_for_correlations_give_no_number() -> None:
    model, x = small(0), torch.randn(40, 1, 6, 6)
    for measure in ("cca", "pwcca"):
        values = compare_representations(model, small(1), x, measure=measure).values
        assert math.isnan(float(values[0, 0])) and 0 < float(values[4, 4]) < 1


def test_a_measure_of_ones_own() -> None:
    model, x = small(0), torch.randn(8, 1, 6, 6)
    found = compare_representations(model, model, x, measure=lambda a, b: torch.tensor(a.shape[1] - b.shape[1]))
    assert float(found.values[0, 4]) == 48 - 7


def test_what_cannot_be_compared_is_said() -> None:
    model, x = small(0), torch.randn(8, 1, 6, 6)
    with pytest.raises(UsageError, match="measure 'nonsense' is unknown: use one of cka"):
        compare_representations(model, model, x, measure="nonsense")
    with pytest.raises(UsageError, match="no layer 'head'"):
        compare_representations(model, model, x, layers=["head"])
    with pytest.raises(UsageError, match="does not fit Sequential"):
        compare_representations(model, small(0, 5).state_dict(), x)
    with pytest.raises(UsageError, match="gives 8 rows"):
        compare_representations(nn.Flatten(0), nn.Flatten(0), x)


# Recorded


def test_series_arrive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    unhurried(monkeypatch)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3)
    x = torch.randn(60, 4)
    y = x[:, :3].argmax(1)
    names = "representation-alignment,representation-correlations,representation-shape,duplicate-units"
    names += ",intrinsic-dimension,neural-collapse"
    with separatrix.record(model, optimizer, run=tmp_path / "run", probes=names, budget=1.0):
        for _ in range(10):
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
    with separatrix.open(tmp_path / "run") as run:
        assert not [e for e in run.events if e.kind in ("unseen", "probe-off", "aborted")]
        for probe in (representation.alignment, representation.correlations, representation.shape):
            for spec in probe.series:
                assert run[spec.name].dims == ("step", "module")
                assert run[spec.name].coords["module"].values.tolist() == ["0", "1", "2"]
        for name in ("duplicate_unit_share", "intrinsic_dimension", "intrinsic_dimension_error"):
            assert run[name].dims == ("step", "module")
        for name in ("nc1", "nc2", "nc3", "nc4"):
            assert run[name].dims == ("step",)
        cka = run["cka_to_init"]
        assert cka[0].values.tolist() == pytest.approx([1.0, 1.0, 1.0], abs=1e-6)
        assert float(cka[-1].sel(module="2")) < 0.999
        assert float(run["nc1"][-1]) < float(run["nc1"][0])


def test_frequencies_arrive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    unhurried(monkeypatch)
    model = Waves([0.0, 0.0, 0.0])
    x = torch.linspace(0.0, 1.0, 60, dtype=torch.float64)[:, None]
    target = Waves([1.0, 1.0, 1.0])(x).detach()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3)
    with separatrix.record(model, optimizer, run=tmp_path / "run", probes="spectral-bias", budget=1.0):
        for _ in range(8):
            optimizer.zero_grad()
            F.mse_loss(model(x), target).backward()
            optimizer.step()
    with separatrix.open(tmp_path / "run") as run:
        errors = run["frequency_error"]
        assert errors.dims == ("step", "mode")
        assert errors[0].sel(mode=["1", "2", "3"]).values.tolist() == pytest.approx([1.0, 1.0, 1.0], rel=1e-6)
        assert float(errors[-1].sel(mode="1")) < 0.1
        assert float(run["learnt_bandwidth"][-1]) == pytest.approx(3.0)
