"""What every rule promises, whoever wrote it: checked for all that discovery finds."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from tests.analysis.synthetic import run_of

import separatrix
from separatrix.analysis import assess, rules
from separatrix.runs import NotAssessed

VOCABULARY = frozenset(
    {
        "nonfinite",
        "diverging",
        "lr-too-high",
        "lr-too-low",
        "loss-spike",
        "vanishing-gradient",
        "exploding-gradient",
        "dead-units",
        "saturated-units",
        "bad-init",
        "frozen-parameters",
        "missing-zero-grad",
        "eval-mode-training",
        "loss-mismatch",
        "unnormalized-inputs",
        "unshuffled-data",
        "label-noise",
        "class-imbalance",
        "overfitting",
        "collapsed-output",
        "attention-entropy-collapse",
        "attention-logit-growth",
        "clipping-always-active",
        "scheduler-misuse",
        "epsilon-underflow",
        "weight-decay-dominates",
        "batch-too-small",
        "batch-too-large",
        "lazy-training",
        "plateau",
    }
)

NAMES = frozenset(
    {
        "loss",
        "loss_terms",
        "learning_rate",
        "momentum",
        "weight_decay",
        "beta1",
        "beta2",
        "epsilon",
        "step_seconds",
        "gradient_norm",
        "clip_coefficient",
        "skipped_steps",
        "loss_scale",
        "closure_calls",
        "batch_size",
        "training_mode",
        "gradient_rms",
        "nonfinite_share",
        "gradient_carryover",
        "gradient_absent",
        "weight_rms",
        "update_rms",
        "update_ratio",
        "adam_second_moment_rms",
        "epsilon_share",
        "activation_rms",
        "activation_mean",
        "zero_share",
        "dead_unit_share",
        "saturation_share",
        "activation_nonfinite_share",
        "input_mean",
        "input_std",
        "input_feature_std_ratio",
        "label_share",
        "prediction_share",
        "output_entropy",
        "accuracy",
        "distribution_share",
        "log_probability_error",
        "unit_interval_share",
        "output_min",
        "output_max",
        "target_mean",
        "target_std",
        "prediction_spread",
        "batch_variance_share",
        "attention_entropy",
        "attention_logit_max",
        "lazy_rich_index",
        "eval_loss",
        "eval_accuracy",
        "eval_mode",
        "overhead",
        "memory_bytes",
        "repeated_row_share",
    }
)

RULES = rules()
DOCS = Path(__file__).parents[2] / "docs" / "findings.md"


@pytest.mark.parametrize("code", RULES)
def test_a_rule_is_well_formed(code: str) -> None:
    rule = RULES[code]
    assert rule.code == code
    assert code in VOCABULARY or re.fullmatch(r"[a-z0-9-]+/[a-z0-9-]+", code)
    assert set(rule.needs) <= set(NAMES)
    assert rule.title.strip() and rule.source.strip()
    assert set(rule.caused_by) <= {*VOCABULARY, *RULES} - {code}


@pytest.mark.parametrize("code", RULES)
def test_a_run_without_anything_is_not_assessed(code: str, tmp_path: Path) -> None:
    diagnosis = assess(run_of(tmp_path / "run", {}), [RULES[code]])
    assert diagnosis.findings == ()
    assert [entry.code for entry in diagnosis.not_assessed] == [code]
    assert all(missing and "internal error" not in missing for missing in diagnosis.not_assessed[0].missing)


@pytest.mark.parametrize("code", [code for code, rule in RULES.items() if rule.needs])
def test_values_that_are_all_missing_or_single_do_not_break_a_rule(code: str, tmp_path: Path) -> None:
    scalars = {name: [float("nan")] for name in ("loss", "learning_rate", "gradient_norm", "input_mean", "input_std")}
    vectors = {
        name: (dim, {"a": [float("nan")], "b": [float("nan")]})
        for name, dim in (
            ("gradient_rms", "parameter"),
            ("gradient_carryover", "parameter"),
            ("dead_unit_share", "module"),
        )
    }
    for index, run in enumerate(
        (
            run_of(tmp_path / "nan", scalars, vectors),
            run_of(tmp_path / "one", {name: [1.0] for name in scalars}, vectors),
        )
    ):
        diagnosis = assess(run, [RULES[code]])
        errors = [m for entry in diagnosis.not_assessed for m in entry.missing if "internal error" in m]
        assert not errors
        assert [f.code for f in diagnosis.findings] == (["nonfinite"] if (code, index) == ("nonfinite", 0) else [])


@pytest.mark.parametrize("code", RULES)
def test_a_rule_has_its_line_in_the_documentation(code: str) -> None:
    line = next(line for line in DOCS.read_text().splitlines() if line.startswith(f"| `{code}` |"))
    assert all(f"`{name}`" in line for name in RULES[code].needs)


def test_an_imported_log_is_judged_by_what_it_holds(tmp_path: Path) -> None:
    loss = [2.3 * 0.97**step for step in range(50)] + [2.3 * 1.5**step for step in range(50)]
    with run_of(tmp_path / "log", {"loss": loss, "learning_rate": [0.1]}) as run:
        diagnosis = separatrix.diagnose(run)
    assert diagnosis.codes[0] == "diverging"
    assert "0.1" in diagnosis.findings[0].remedy
    unjudged = {entry.code for entry in diagnosis.not_assessed}
    assert unjudged == set(RULES) - {"diverging", "loss-spike", "nonfinite", "plateau", "scheduler-misuse"}
    assert all(isinstance(entry, NotAssessed) and entry.missing for entry in diagnosis.not_assessed)
