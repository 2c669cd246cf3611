"""Edges of single rules: short, sparse, noisy, negative and ambiguous runs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.analysis.synthetic import parameter, run_of

from separatrix.analysis import Diagnosis, assess, rules
from separatrix.runs import Finding

RULES = rules()
NAN, INF = math.nan, math.inf
KINDS = {"modules": [{"name": "relu", "kind": "ReLU"}, {"name": "pool", "kind": "MaxPool2d"}]}


def judged(code: str, path: Path, scalars: dict[str, Any], *args: Any, **kwargs: Any) -> Diagnosis:
    with run_of(path / "run", scalars, *args, **kwargs) as run:
        return assess(run, [RULES[code]])


def only(diagnosis: Diagnosis) -> Finding:
    (finding,) = diagnosis.findings
    return finding


def noisy(seed: int, level: Sequence[float] | np.ndarray, spread: float = 0.1) -> np.ndarray:
    level = np.asarray(level, dtype=float)
    return level * np.exp(spread * np.random.default_rng(seed).standard_normal(len(level)))


FALLING = 0.1 + 2.2 * np.exp(-np.arange(300) / 40)


class TestDiverging:
    @pytest.mark.parametrize("seed", range(5))
    @pytest.mark.parametrize(
        "level",
        [FALLING, FALLING[:10], np.full(300, 2.3), 1e-7 * FALLING, np.concatenate([np.linspace(2.3, 5, 8), FALLING])],
        ids=["falling", "ten steps", "flat", "near zero", "early catapult"],
    )
    def test_silent(self, seed: int, level: np.ndarray, tmp_path: Path) -> None:
        assert not judged("diverging", tmp_path, {"loss": noisy(seed, level, 0.3)}).findings

    @pytest.mark.parametrize(
        ("level", "how", "step"),
        [
            (np.concatenate([np.full(50, 1.0), 1.2 ** np.arange(50)]), "rise", (50, 56)),
            (np.concatenate([[2.3] * 5, [50.0] * 10, np.full(60, 2.4)]), "blow-up", (4, 7)),
            (np.concatenate([FALLING, np.full(100, 2.6)]), "relapse", (299, 302)),
            (np.array([0.5, 4.0, 60.0, 900.0]), "rise", (1, 1)),
        ],
    )
    def test_found_with_its_beginning(self, level: np.ndarray, how: str, step: tuple[int, int], tmp_path: Path) -> None:
        finding = only(judged("diverging", tmp_path, {"loss": noisy(0, level, 0.02)}))
        assert (finding.evidence["how"], finding.severity) == (how, "error")
        assert finding.step is not None and step[0] <= finding.step <= step[1]

    def test_a_run_cut_off_within_one_of_several_spikes_does_not_diverge(self, tmp_path: Path) -> None:
        calm, high = np.full(60, 0.3), np.full(30, 5.0)
        spiky = [np.full(10, 1.0), calm, high, calm, high, calm]
        cut_off, goes_on = (noisy(0, np.concatenate([*spiky, np.full(n, 5.0)]), 0.02) for n in (25, 60))
        assert not judged("diverging", tmp_path / "a", {"loss": cut_off}).findings
        assert judged("diverging", tmp_path / "b", {"loss": goes_on}).findings
        never_low = np.concatenate(
            [np.full(10, 1.0), *[np.full(60, 0.8), high] * 2, np.full(60, 0.8), np.full(25, 5.0)]
        )
        assert judged("diverging", tmp_path / "c", {"loss": noisy(0, never_low, 0.02)}).findings

    def test_another_loss_after_another_optimizer_is_another_phase(self, tmp_path: Path) -> None:
        first, second = noisy(0, 0.05 + 0.2 * np.exp(-np.arange(100) / 20), 0.02), noisy(1, FALLING, 0.02)
        loss = np.concatenate([first, 2.0 + second])
        clock = [{"kind": "clock", "step": 99}]
        for code in ("diverging", "loss-spike"):
            assert judged(code, tmp_path / code / "one", {"loss": loss}).findings
            assert not judged(code, tmp_path / code / "two", {"loss": loss}, events=clock).findings

    def test_a_loss_that_goes_on_under_a_new_optimizer_is_one_phase(self, tmp_path: Path) -> None:
        # The new optimizer's first loss is that of the old weights; it is its step that ruins them.
        loss = noisy(0, np.concatenate([FALLING, [FALLING[-1]], np.full(100, 9.0)]), 0.02)
        clock = [{"kind": "clock", "step": 299}]
        assert only(judged("diverging", tmp_path, {"loss": loss}, events=clock)).step in range(300, 303)

    def test_growth_in_front_of_a_nan_counts(self, tmp_path: Path) -> None:
        assert judged("diverging", tmp_path, {"loss": [2.3, 300.0, 1e9, INF, NAN, NAN, NAN]}).codes == ("diverging",)

    def test_opposed_losses_may_rise_but_a_shared_one_may_not(self, tmp_path: Path) -> None:
        rise = np.linspace(0.7, 6.0, 100)
        game = {"opt_d": rise[::-1], "opt_g": rise}
        assert not judged("diverging", tmp_path / "game", {"loss": game}).findings
        assert judged("diverging", tmp_path / "one", {"loss": {"a": rise, "b": rise}}).findings

    def test_a_negative_loss_has_no_ratio(self, tmp_path: Path) -> None:
        wandering = np.random.default_rng(0).standard_normal(300).cumsum() * 0.05 - 0.1
        assert not judged("diverging", tmp_path / "a", {"loss": wandering}).findings
        escaping = -1.0 + np.concatenate([np.zeros(100), np.linspace(0, 1e3, 100)])
        assert judged("diverging", tmp_path / "b", {"loss": escaping}).findings

    def test_a_loss_that_falls_ever_faster_with_weights_out_of_scale_runs_away(self, tmp_path: Path) -> None:
        def codes(name: str, loss: np.ndarray, size: np.ndarray) -> tuple[str, ...]:
            weights: Any = {"weight_rms": ("parameter", {"a.weight": size.tolist(), "b.weight": size.tolist()})}
            meta = {"parameters": [parameter("a.weight"), parameter("b.weight")]}
            return judged("diverging", tmp_path / name, {"loss": noisy(0, loss, 0.02)}, weights, meta=meta).codes

        time = np.arange(300)
        growth = np.exp(time / 60)
        runaway = 2.3 - 0.02 * growth**2 * 10
        assert codes("a", runaway, 0.1 * growth) == ("diverging",)
        assert codes("beyond all numbers", np.append(runaway, [NAN] * 20), 0.1 * np.ones(300)) == ("diverging",)
        assert codes("same weights", runaway, 0.1 * np.ones(300)) == ()
        assert codes("slowing down", 2.3 - 4e3 * (1 - np.exp(-time / 60)), 0.1 * growth) == ()
        assert codes("a gain that is learnt late", -1.0 / (1 + np.exp((200 - time) / 20)), 0.1 + time / 3000) == ()

    def test_the_remedy_carries_the_learning_rate_then_in_force(self, tmp_path: Path) -> None:
        loss = np.concatenate([np.full(50, 1.0), 1.2 ** np.arange(50)])
        rates = np.concatenate([np.full(40, 0.01), np.full(60, 0.25)])
        assert (
            "now 0.25, try 0.025" in only(judged("diverging", tmp_path, {"loss": loss, "learning_rate": rates})).remedy
        )

    def test_a_loss_that_climbs_from_what_it_had_learnt_out_of_all_numbers_has_diverged(self, tmp_path: Path) -> None:
        learnt = np.geomspace(2.0, 0.05, 100)
        climbing = [*learnt, *np.geomspace(0.05, 1.5, 50), *[NAN] * 20]
        assert judged("diverging", tmp_path / "a", {"loss": climbing}).codes == ("diverging",)
        out_of_the_blue = [*learnt, *[0.05] * 50, *[NAN] * 20]
        assert judged("diverging", tmp_path / "b", {"loss": out_of_the_blue}).codes == ()
        assert judged("diverging", tmp_path / "c", {"loss": climbing[:-20]}).codes == ()


class TestLossSpike:
    @pytest.mark.parametrize("seed", range(5))
    def test_noise_of_batches_of_one_is_no_spike(self, seed: int, tmp_path: Path) -> None:
        loss = np.random.default_rng(seed).exponential(FALLING) * np.random.default_rng(seed + 9).exponential(1.0, 300)
        assert not judged("loss-spike", tmp_path, {"loss": loss}).findings

    def test_steps_and_heights_are_right(self, tmp_path: Path) -> None:
        loss = noisy(1, FALLING, 0.05)
        loss[200:206] = [1.0, 3.0, 2.5, 2.0, 1.5, 1.2]
        finding = only(judged("loss-spike", tmp_path, {"loss": loss}))
        assert (finding.severity, finding.step, finding.evidence["peak"]) == ("warning", 200, 3.0)
        assert finding.evidence["count"] == 1
        assert finding.evidence["recovered"]

    @pytest.mark.parametrize(("peak", "severity"), [(4.0, "info"), (400.0, "warning")])
    def test_a_single_small_batch_is_worth_knowing_unless_no_example_is_as_wrong(
        self, peak: float, severity: str, tmp_path: Path
    ) -> None:
        loss = noisy(1, FALLING, 0.05)
        loss[200] = peak
        assert only(judged("loss-spike", tmp_path, {"loss": loss})).severity == severity

    def test_a_small_bump_undoes_too_little(self, tmp_path: Path) -> None:
        loss = noisy(1, FALLING, 0.05)
        loss[200:206] += 0.6
        assert not judged("loss-spike", tmp_path, {"loss": loss}).findings

    def test_a_warm_restart_is_no_spike(self, tmp_path: Path) -> None:
        loss = noisy(2, np.concatenate([FALLING, 0.1 + 0.8 * np.exp(-np.arange(200) / 40)]), 0.05)
        assert not judged("loss-spike", tmp_path, {"loss": loss}).findings


class TestNonfinite:
    def test_the_first_module_in_forward_order_is_named(self, tmp_path: Path) -> None:
        vectors = {
            "activation_nonfinite_share": ("module", {"late": [0, 1.0], "early": [0, 0.5], "before": [0, 0]}),
            "nonfinite_share": ("parameter", {"early.weight": [0, 1.0]}),
        }
        modules = [{"name": name, "kind": "Linear"} for name in ("before", "early", "late")]
        finding = only(
            judged("nonfinite", tmp_path, {"loss": [1.0, NAN, NAN]}, vectors, {"modules": modules}),
        )
        assert (finding.evidence["where"], finding.evidence["labels"], finding.step) == ("module", ["early"], 1)
        assert "module late" in finding.evidence["also"]

    def test_an_event_may_be_the_only_witness(self, tmp_path: Path) -> None:
        event = {"kind": "nonfinite", "step": 2, "data": {"where": "parameter", "name": "w", "step": 2}}
        finding = only(judged("nonfinite", tmp_path, {"loss": [1.0] * 3}, events=[event]))
        assert (finding.severity, finding.step, finding.evidence["labels"]) == ("error", 2, ["w"])

    def test_a_loss_that_recovers_is_a_warning(self, tmp_path: Path) -> None:
        assert only(judged("nonfinite", tmp_path, {"loss": [1.0, NAN, 0.9]})).severity == "warning"

    def test_the_loss_of_one_of_two_optimizers_is_seen(self, tmp_path: Path) -> None:
        losses = {"opt_d": [1.0, 1.0, 1.0], "opt_g": [1.0, NAN, NAN]}
        finding = only(judged("nonfinite", tmp_path, {"loss": losses}))
        assert (finding.severity, finding.step, finding.evidence["where"]) == ("error", 1, "loss")

    def test_gradients_of_steps_that_a_scaler_skips_are_no_finding(self, tmp_path: Path) -> None:
        vectors = {"nonfinite_share": ("parameter", {"w": [0, 1.0, 0, 0]})}
        scalars = {"loss": [1.0] * 4, "skipped_steps": [0, 1, 1, 1]}
        assert not judged("nonfinite", tmp_path / "a", scalars, vectors).findings
        del scalars["skipped_steps"]
        assert judged("nonfinite", tmp_path / "b", scalars, vectors).findings


class TestDeadUnits:
    def test_a_window_of_few_examples_is_not_assessed(self, tmp_path: Path) -> None:
        vectors = {"dead_unit_share": ("module", {"relu": [0.5] * 3})}
        diagnosis = judged("dead-units", tmp_path, {"batch_size": [1] * 3}, vectors, KINDS)
        assert (diagnosis.findings, len(diagnosis.not_assessed)) == ((), 1)

    def test_the_onset_is_the_step_after_which_it_stayed_dead(self, tmp_path: Path) -> None:
        vectors = {"dead_unit_share": ("module", {"relu": [0.6, 0.1, 0.2, 0.7, 0.95, 1.0, 1.0], "pool": [1.0] * 7})}
        finding = only(
            judged("dead-units", tmp_path, {}, vectors, KINDS, steps=[0, 1, 2, 10, 20, 30, 40]),
        )
        assert (finding.step, finding.severity, finding.evidence["labels"]) == (10, "error", ["relu"])

    def test_layers_that_recover_are_fine(self, tmp_path: Path) -> None:
        vectors = {"dead_unit_share": ("module", {"relu": [1.0, 1.0, 0.3, 0.2, 0.2]})}
        assert not judged("dead-units", tmp_path, {}, vectors, KINDS).findings


class TestFrozenParameters:
    def frozen(self, path: Path, vectors: dict[str, Any], **facts: Any) -> Diagnosis:
        meta = {"parameters": [parameter("a.weight", **facts), parameter("b.weight")]}
        return judged("frozen-parameters", path, {}, vectors, meta)

    def test_a_bias_that_normalisation_cancels_is_no_fault(self, tmp_path: Path) -> None:
        vectors = {
            "gradient_rms": ("parameter", {"a.weight": [1e-9] * 5, "b.weight": [0.1] * 5}),
            "update_rms": ("parameter", {"a.weight": [0.0] * 5, "b.weight": [0.01] * 5}),
        }
        assert not self.frozen(tmp_path / "bias", vectors, shape=[8]).findings
        assert only(self.frozen(tmp_path / "matrix", vectors)).evidence["ways"] == {"a.weight": "no movement"}

    def test_nothing_moves_in_warm_up(self, tmp_path: Path) -> None:
        still = {"a.weight": [0.0] * 5, "b.weight": [0.0] * 5}
        vectors = {"gradient_rms": ("parameter", {"a.weight": [0.1] * 5, "b.weight": [0.1] * 5})}
        assert not self.frozen(tmp_path, {**vectors, "update_rms": ("parameter", still)}).findings

    def test_a_zero_gradient_at_first_is_a_zero_initialisation(self, tmp_path: Path) -> None:
        def gradients(own: list[float]) -> dict[str, Any]:
            return {"gradient_rms": ("parameter", {"a.weight": own, "b.weight": [0.1] * 4})}

        assert not self.frozen(tmp_path / "a", gradients([0, 0.1, 0.1, 0.1])).findings
        assert self.frozen(tmp_path / "b", gradients([0, 0, 0, 0])).findings

    @pytest.mark.parametrize("weight", ["a.weight", "a.parametrizations.weight.original"])
    def test_a_bias_that_a_loss_of_differences_cancels_is_no_fault(self, weight: str, tmp_path: Path) -> None:
        meta = {"parameters": [parameter(weight), parameter("a.bias", [8]), parameter("b.weight")]}

        def ways(*zero: str) -> list[str]:
            gradients = {name: [0.0 if name in zero else 0.1] * 4 for name in (weight, "a.bias", "b.weight")}
            vectors = {"gradient_rms": ("parameter", gradients)}
            found = judged("frozen-parameters", tmp_path / str(len(zero)), {}, vectors, meta).findings
            return [name for finding in found for name in finding.evidence["ways"]]

        assert ways("a.bias") == []
        assert ways(weight, "a.bias") == [weight, "a.bias"]

    def test_outside_the_optimizer_counts_unless_measured_to_get_no_gradient(self, tmp_path: Path) -> None:
        other = {"gradient_absent": ("parameter", {"b.weight": [0.0] * 3})}
        none = {"gradient_absent": ("parameter", {"a.weight": [1.0] * 3, "b.weight": [0.0] * 3})}
        assert self.frozen(tmp_path / "unmeasured", other, optimizer=None).findings
        assert not self.frozen(tmp_path / "none", none, optimizer=None).findings
        assert not self.frozen(tmp_path / "meant", other, optimizer=None, requires_grad=False).findings

    def test_a_tied_parameter_is_held_under_its_other_name(self, tmp_path: Path) -> None:
        vectors = {"gradient_rms": ("parameter", {"a.weight": [0.1] * 3, "b.weight": [0.1] * 3})}
        assert not self.frozen(tmp_path / "a", vectors, optimizer=None, tied=["b.weight"]).findings
        assert self.frozen(tmp_path / "b", vectors, optimizer=None).findings


class TestMissingZeroGrad:
    def carried(self, path: Path, carry: list[float]) -> Diagnosis:
        count = len(carry)
        vectors = {
            "gradient_carryover": ("parameter", {"w": carry}),
            "gradient_rms": ("parameter", {"w": [1.0] * count}),
        }
        return judged("missing-zero-grad", path, {"loss": [1.0] * count}, vectors)

    def test_the_first_step_alone_says_nothing(self, tmp_path: Path) -> None:
        diagnosis = self.carried(tmp_path, [0.0])
        assert (diagnosis.findings, len(diagnosis.not_assessed)) == ((), 1)

    def test_rounding_and_rare_carry_over_do_not_count(self, tmp_path: Path) -> None:
        assert not self.carried(tmp_path / "a", [0.0] + [1e-6] * 9).findings
        assert not self.carried(tmp_path / "b", [0.0] + [0, 0, 0, 0.9] * 3).findings
        assert only(self.carried(tmp_path / "c", [0.0] + [0.9] * 9)).step == 1


class TestGradientProfiles:
    def profile(self, code: str, path: Path, levels: Sequence[float], **scalars: Any) -> Diagnosis:
        names = [f"{index}.weight" for index in range(len(levels))]
        vectors = {
            "gradient_rms": ("parameter", {name: [level] * 3 for name, level in zip(names, levels, strict=True)}),
            "weight_rms": ("parameter", {name: [0.1] * 3 for name in names}),
        }
        modules = [{"name": str(index), "kind": "Linear"} for index in range(len(levels))]
        meta = {"parameters": [parameter(name) for name in names], "modules": modules}
        return judged(code, path, scalars, vectors, meta)

    @pytest.mark.parametrize("scale", [1e-20, 1.0, 1e20])
    def test_only_the_shape_of_the_profile_counts(self, scale: float, tmp_path: Path) -> None:
        decay = [scale * 0.15**depth for depth in range(8)]
        for name, levels in (("up", decay), ("down", decay[::-1]), ("flat", [scale] * 8)):
            vanishing = self.profile("vanishing-gradient", tmp_path / name, levels).codes
            exploding = self.profile("exploding-gradient", tmp_path / f"{name}2", levels).codes
            assert bool(vanishing) == (name == "down")
            assert bool(exploding) == (name == "up")

    def test_gradients_of_the_untrained_network_are_no_consequence_of_steps(self, tmp_path: Path) -> None:
        grown = [0.15**depth for depth in range(8)]
        for name, first, step in (("at first", grown, 0), ("later", [1.0] * 8, 1)):
            names = [f"{index}.weight" for index in range(8)]
            rows = {label: [first[k], *[grown[k]] * 4] for k, label in enumerate(names)}
            vectors = {"gradient_rms": ("parameter", rows), "weight_rms": ("parameter", {n: [1.0] * 5 for n in names})}
            modules = [{"name": str(index), "kind": "Linear"} for index in range(8)]
            meta = {"parameters": [parameter(label) for label in names], "modules": modules}
            loss = {"loss": [math.nan, 2.3, 50.0, 900.0, 1e5, 1e9]}
            found = only(judged("exploding-gradient", tmp_path / name, loss, vectors, meta, range(1, 6)))
            assert (found.evidence["how"], found.step) == ("through the layers", step)

    def test_one_unusual_layer_does_not_decide(self, tmp_path: Path) -> None:
        assert not self.profile("vanishing-gradient", tmp_path / "a", [1e-9, 1, 1, 1, 1, 1, 1, 1, 1]).findings
        assert not self.profile("exploding-gradient", tmp_path / "b", [1e9, 1, 1, 1, 1, 1, 1, 1, 1]).findings

    def test_an_escape_from_a_plateau_is_no_explosion_but_harm_is(self, tmp_path: Path) -> None:
        norms = np.concatenate([np.full(50, 1e-3), np.full(10, 1.0), np.full(40, 0.1)])
        falls, rises = (np.concatenate([np.full(50, 2.3), np.full(50, end)]) for end in (0.3, 9.0))
        name = "exploding-gradient"
        assert not judged(name, tmp_path / "a", {"gradient_norm": norms, "loss": falls}).findings
        assert (
            only(judged(name, tmp_path / "b", {"gradient_norm": norms, "loss": noisy(0, rises, 0.01)})).step is not None
        )

    def test_a_wild_batch_explains_its_own_gradient(self, tmp_path: Path) -> None:
        norms, loss = np.full(100, 1.0), np.full(100, 0.1)
        norms[60:64], loss[60:64] = 500.0, [90.0, 100.0, 110.0, 120.0]
        assert not judged("exploding-gradient", tmp_path / "a", {"gradient_norm": norms, "loss": loss}).findings
        loss[60] = 0.1
        exploded = only(judged("exploding-gradient", tmp_path / "b", {"gradient_norm": norms, "loss": loss}))
        assert (exploded.step, exploded.evidence["how"]) == (60, "over time")

    @pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
    def test_sensitivity_at_the_start_has_no_units(self, scale: float, tmp_path: Path) -> None:
        # |g| |w| / loss = (8 * gradient_rms) * (8 * weight_rms) / loss for 64 entries
        def judge(name: str, sensitivity: float, loss: list[float]) -> Diagnosis:
            vectors = {
                "gradient_rms": ("parameter", {"rnn.weight": [sensitivity * scale**2 / 64 / (0.1 * scale)] * 4}),
                "weight_rms": ("parameter", {"rnn.weight": [0.1 * scale] * 4}),
            }
            return judged(
                "exploding-gradient",
                tmp_path / name,
                {"loss": [value * scale**2 for value in loss]},
                vectors,
                {"parameters": [parameter("rnn.weight")]},
            )

        falling = [1.0, 0.9, 0.8, 0.7]
        assert judge("small", 290.0, falling).findings == ()
        large = only(judge("large", 310.0, falling))
        assert large.evidence["sensitivity"] == pytest.approx(310.0, rel=1e-5)
        assert (large.severity, large.step) == ("warning", 0)
        assert only(judge("harmful", 310.0, [1.0, 5.0, 9.0, 50.0])).severity == "error"
        assert only(judge("harmless", 310.0, [1.0, 1.5, 0.8, 0.4])).severity == "info"
        assert only(judge("jump", 310.0, [1.0, 2.5, 0.8, 0.4])).severity == "warning"
        assert judge("signed", 310.0, [1.0, -0.5, -0.6, -0.7]).findings == ()

    def test_norms_that_spread_over_decades_do_not_explode(self, tmp_path: Path) -> None:
        random = np.random.default_rng(3)
        norms = np.exp(3 * random.standard_normal(500))
        loss = norms * 0.1
        assert not judged("exploding-gradient", tmp_path, {"gradient_norm": norms, "loss": loss}).findings


class TestVanishingThroughTime:
    @pytest.mark.parametrize(
        ("level", "ratio", "codes"),
        [
            (np.full(300, 1.386), 1e-9, ("vanishing-gradient",)),
            (np.full(300, 1.386), 0.02, ()),
            (FALLING, 1e-9, ()),
            (0.8 + 0.6 * np.exp(-np.arange(300) / 20), 1e-9, ()),
        ],
        ids=["nothing learnt", "early times get enough", "learnt", "all but noise learnt"],
    )
    def test_it_counts_where_nothing_is_learnt(
        self, level: np.ndarray, ratio: float, codes: tuple[str, ...], tmp_path: Path
    ) -> None:
        scalars = {"loss": noisy(0, level, 0.02), "early_gradient_ratio": [ratio, ratio, ratio, 1.0]}
        vectors = {"gradient_rms": ("parameter", {"rnn.weight": [0.1] * 4})}
        meta = {"parameters": [parameter("rnn.weight")]}
        assert judged("vanishing-gradient", tmp_path, scalars, vectors, meta).codes == codes


class TestUnnormalizedInputs:
    @pytest.mark.parametrize(
        ("mean", "std", "ratio", "found"),
        [
            (0.0, 1.0, 1.0, False),
            (0.13, 0.31, 3e4, False),
            (0.47, 0.25, 1.0, False),
            (0.0, 0.05, 1.0, False),
            (1e-4, 1e-2, 1.0, False),
            (1e-7, 3.2e-4, 1.0, False),
            (33.0, 79.0, 1.0, True),
            (2000.0, 10.0, 1.0, True),
            (0.0, 1e-5, 1.0, True),
            (2.0, 5.0, 1e5, True),
        ],
        ids=[
            *("standard", "mnist 0-1", "cifar 0-1", "audio", "one-hot", "sparse", "0-255", "years", "tiny", "columns"),
        ],
    )
    def test_scales(self, mean: float, std: float, ratio: float, found: bool, tmp_path: Path) -> None:
        scalars = {"input_mean": [mean] * 3, "input_std": [std] * 3, "input_feature_std_ratio": [ratio] * 3}
        assert bool(judged("unnormalized-inputs", tmp_path, scalars).findings) == found
