"""No secret reaches a run folder, and ordinary words stay as they are."""

from __future__ import annotations

import json
import os
import string
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from separatrix.runs import Redactor, RunWriter, SeriesSpec, Status, open_run
from separatrix.runs.redaction import MASK, allowed_environment, is_secret_name

SECRETS = st.text(string.ascii_letters + string.digits + "+/=_-.~%!$*^", min_size=8, max_size=60).filter(
    lambda text: sum(map(str.isdigit, text)) > 1 and any(map(str.isalpha, text)) and not text.startswith("-")
)
AWKWARD = st.text(st.characters(blacklist_categories=("Cs",)), min_size=8, max_size=40).filter(
    lambda text: len(set(text)) > 3 and text.lower() not in ("password", "disabled")
)


@settings(max_examples=150, deadline=None)
@given(secret=AWKWARD)
@example(secret="a'b\"c\\d\n9x")
@example(secret="päß\x00wörd€")
def test_a_secret_of_the_environment_is_masked_in_every_spelling(secret: str) -> None:
    redactor = Redactor({"DB_PASSWORD": secret})
    error = f"connect({secret!r}) failed: {json.dumps({'p': secret})} {secret}"
    for text in (error, repr([secret]), json.dumps(secret), f"before {secret} after"):
        masked = redactor.text(text)
        for spelling in (secret, repr(secret)[1:-1], json.dumps(secret)[1:-1]):
            assert spelling not in masked
    assert secret not in json.dumps(redactor.plain({"anything": [secret, {secret: (secret,)}]}), ensure_ascii=False)


OPTIONS = ("--token", "--api-key", "--hf_token", "--password", "-k", "--apiKey", "--auth", "--wandb-key")


@settings(max_examples=150, deadline=None)
@given(
    secret=SECRETS.filter(lambda text: len(text) >= 16 and not set("/.") & set(text)),
    option=st.sampled_from(OPTIONS),
    joined=st.booleans(),
)
def test_a_secret_of_the_command_line_is_masked_there_and_everywhere_else(
    secret: str, option: str, joined: bool
) -> None:
    command = ["train.py", *([f"{option}={secret}"] if joined else [option, secret]), "--epochs", "3"]
    redactor = Redactor({}, command)
    masked = redactor.arguments(command)
    assert secret not in " ".join(masked)
    assert (masked[0], masked[-2:]) == ("train.py", ["--epochs", "3"])
    assert any(option in argument for argument in masked)
    assert secret not in redactor.text(f"RuntimeError: 401 for {secret}")


@settings(max_examples=150, deadline=None)
@given(secret=SECRETS, quote=st.sampled_from(("'", '"')), name=st.sampled_from(("API_TOKEN", "password", "apiKey")))
def test_a_secret_in_a_script_a_config_or_an_address_is_masked(secret: str, quote: str, name: str) -> None:
    redactor = Redactor({})
    sources = (
        f"{name} = {quote}{secret}{quote}\n",
        f"login({name}={quote}{secret}{quote})",
        f"{{{quote}{name}{quote}: {quote}{secret}{quote}}}",
        f"os.environ[{quote}{name}{quote}] = {quote}{secret}{quote}",
        f"os.environ[{quote}{name}{quote}] = f{quote}{secret}{quote}",
    )
    for source in sources:
        fresh = Redactor({})
        assert secret not in fresh.text(source), source
    plain = redactor.plain({name: secret, "nested": {name: [secret, {"x": secret}]}})
    assert secret not in json.dumps(plain)


KNOWN_SHAPES = (
    "hf_abcdEFGHijklMNOP1234qrst",
    "hf_" + "abcdefghijklmnopqrstuvwxyzABCDEFGH",
    "ghp_16C7e42F292c6912E7710c838347Ae178B4a",
    "github_pat_11ABCDEFG0abcdefghijkl_mnopqrstuvwxyz",
    "AKIAIOSFODNN7EXAMPLE",
    "AIzaSyA1234567890abcdefghijklmnopqrstuv",
    "sk-proj-abc123DEF456ghi789",
    "xoxb-123456789012-abcdefABCDEF",
    "glpat-1234567890abcdefghij",
    "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.c2lnbmF0dXJlMTIz",
)


@pytest.mark.parametrize("token", KNOWN_SHAPES)
def test_well_known_tokens_are_masked_wherever_they_stand(token: str) -> None:
    masked = Redactor({}).text(f"HTTP 401: {token}, try again ({token})")
    assert token not in masked
    assert masked == f"HTTP 401: {MASK}, try again ({MASK})"


def test_private_keys_and_passwords_in_addresses_and_headers_are_masked() -> None:
    redactor = Redactor({})
    key = "-----BEGIN RSA PRIVATE KEY-----\nMIIEpAIBAAKCAQ\nabc\n-----END RSA PRIVATE KEY-----"
    assert redactor.text(f"x {key} y") == f"x {MASK} y"
    assert redactor.text("x -----BEGIN PRIVATE KEY-----\ncut off") == f"x {MASK}"
    assert redactor.text("postgres://me:hunter2@host/db") == f"postgres://me:{MASK}@host/db"
    assert redactor.text("GET https://h/?token=abc123def456&x=1") == f"GET https://h/?token={MASK}&x=1"
    assert "abcdefgh12345678" not in redactor.text("{'Authorization': 'Bearer abcdefgh12345678'}")
    assert redactor.plain({"password": 123456, "tokens": 123456}) == {"password": MASK, "tokens": 123456}


ORDINARY = (
    "max_tokens=128 num_tokens: 123456 pad_token='<pad>' eos_token_id = 50256",
    "tokenizer = AutoTokenizer.from_pretrained('bert-base-uncased')",
    "TOKENIZERS_PARALLELISM=false",
    "author='Ada Lovelace', authors=['Grace Hopper'], authored by someone",
    "token = tokens[i2]; token=token; use_auth_token=True",
    "for token in sequence1234: tokens_seen += 128",
    "git commit 0123456789abcdef0123456789abcdef01234567",
    "checkout/0123456789abcdef0123456789abcdef01234567/model.py",
    "sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
    "key='validation_loss_2', keys = ['a1b2', 'c3d4'], monkey = 'x' * 12",
    "self.query_key2 = nn.Linear(512, 512); hidden_key2 = self.key_projection2",
    "cross_attention = CrossAttention64x64(dim); head_key = MultiHead2d3d",
    "print('token', 'hello there'); os.environ.get('API_KEY', 'fallback')",
    "sk-learn 1.5, pk_constraint_of_table, rk-methods-of-order-4",
    "layers.0.self_attn.q_proj.weight transformer.h.11.mlp.c_proj.weight",
    "secret = load_secret_v22(path); password = getpass.getpass()",
    "https://example.org:8080/path and http://localhost:6006/",
    "a basic understanding, a bearer of news",
    "-----BEGIN CERTIFICATE-----",
)


@pytest.mark.parametrize("text", ORDINARY)
def test_ordinary_text_is_left_alone(text: str) -> None:
    assert Redactor({"PATH": "/usr/bin", "HOME": "/home/me"}).text(text) == text


@pytest.mark.parametrize(
    "source", sorted((Path(__file__).resolve().parents[2] / "src").rglob("*.py")), ids=lambda p: p.stem
)
def test_source_code_without_secrets_is_left_alone(source: Path) -> None:
    text = source.read_text()
    masked = Redactor({}).text(text)
    changed = [line for line, other in zip(text.split("\n"), masked.split("\n"), strict=True) if line != other]
    assert changed == []


@settings(max_examples=100, deadline=None)
@given(text=st.text(st.characters(blacklist_categories=("Cs",)), max_size=300))
def test_lines_stay_in_number_and_masking_twice_is_masking_once(text: str) -> None:
    redactor = Redactor({})
    masked = redactor.text(text)
    if "PRIVATE KEY" not in text:
        assert masked.count("\n") == text.count("\n")
    assert redactor.text(masked) == masked


def test_names() -> None:
    secret = ("token", "HF_TOKEN", "apiKey", "aws_secret_access_key", "db-password", "Authorization", "client-secret")
    harmless = (
        "max_tokens",
        "tokenizer",
        "author",
        "authors",
        "n_tokens",
        "token_ids",
        "tokens_per_second",
        "keyboard",
    )
    assert [name for name in secret if not is_secret_name(name)] == []
    assert [name for name in harmless if is_secret_name(name)] == []
    assert allowed_environment({"OMP_NUM_THREADS": "2", "OMP_NUM_THREADS_TOKEN": "x", "HOME": "/"}) == {
        "OMP_NUM_THREADS": "2"
    }


def test_plain_data_becomes_json_whatever_it_is() -> None:
    class Rude:
        def __repr__(self) -> str:
            raise RuntimeError("no")

        def __len__(self) -> int:
            raise AssertionError("a user's object must not be asked for its items")

        def __iter__(self) -> object:
            raise AssertionError("a user's object must not be walked")

    loop: list[object] = []
    loop.append(loop)
    value = {"a": (1, 2.5, None, True), 3: {4, 5}, "n": np.float32(0.5), "r": Rude(), "l": loop, "i": np.int64(7)}
    plain = json.loads(json.dumps(Redactor({}).plain(value)))
    assert (plain["a"], plain["3"], plain["n"], plain["i"]) == ([1, 2.5, None, True], [4, 5], 0.5, 7)
    assert plain["r"] == "<Rude>"


def test_no_byte_of_any_file_of_a_run_holds_the_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    of_environment, of_arguments, of_script = "s3cr3t-ENV-value", "s3cr3tARGvalue99", "s3cr3tSCRIPTvalue77"
    secrets = [text.encode() for text in (of_environment, of_arguments, of_script)]
    monkeypatch.setenv("MY_API_TOKEN", of_environment)
    command = ["train.py", "--token", of_arguments]

    def found() -> list[str]:
        files = (file for file in (tmp_path / "r").rglob("*") if file.is_file())
        return [file.name for file in files if any(secret in file.read_bytes() for secret in secrets)]

    child = os.fork() if hasattr(os, "fork") else pytest.skip("the platform cannot fork")
    if child == 0:
        redactor = Redactor(arguments=command)
        run = RunWriter(tmp_path / "r", redactor=redactor)
        (tmp_path / "r" / "script.py").write_text(redactor.text(f"API_KEY = '{of_script}'\n"))
        every = " ".join((of_environment, of_arguments, of_script))
        run.meta("config", {"command": redactor.arguments(command), "api_key": of_script, every: [every]})
        run.meta(every, every)
        run.event(every, every, data={every: every})
        run.scalar(run.series(SeriesSpec(every, units=every, description=every, source=every)), 0, 1.0)
        run.positions("parameter", [every])
        run.positions("optimizer", [every])
        run.series(SeriesSpec("x", labels={"optimizer": every}))
        run.flush()
        code = 1
        try:
            assert (tmp_path / "r" / "run.sqlite-wal").stat().st_size > 0
            assert found() == []
            run.close(Status.CRASHED, f"Traceback: login({of_environment!r}, {of_arguments!r}, {of_script!r})")
            assert found() == []
            code = 0
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    opened = open_run(tmp_path / "r")
    assert opened.traceback is not None and opened.traceback.count(MASK) == 3
    assert opened.config["command"] == ["train.py", "--token", MASK]
