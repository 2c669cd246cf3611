"""Keeps secrets out of runs: known secret values, secret-looking names and token-shaped text are masked first."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any
from urllib.parse import quote

import numpy as np

MASK = "[masked]"

_SECRET_NAME = re.compile(
    r"(?i)(?:^|[^a-z])(?:[a-z0-9]*(?:token|secret|passw(?:or)?d|passphrase|credential|api_?key|access_?key|private_?key"
    r"|auth(?:orization)?|bearer|cookie|session_?id|dsn|conn(?:ection)?_?str(?:ing)?))s?(?:$|[^a-z])"
)
_HARMLESS_NAME = re.compile(
    r"(?i)(?:max|min|num|n|eos|bos|pad|sep|cls|mask|unk|vocab|special|new|per|total|seen|image|add|skip|stop|ignore)"
    r"_?(?:\w+_)?tokens?(?:$|[^a-z])"
    r"|tokens?_?(?:id|ids|izer|ized|type|count|per|s_per|len|length|size|seen|embedding|loss|accuracy)|tokeni[sz]"
)
# Names under which a number, too, is a secret; a number called token is rather an index or a count.
_SECRET_NUMBER = re.compile(r"(?i)passw|secret|passphrase|credential|_key|apikey")
# Names too common to mask whatever they hold: only values that look random are masked behind them.
_KEY_NAME = re.compile(r"(?i)(?:\w+_)?(?:key|pat|pwd|pw|pass|jwt|signature|sig)")
# Lower-case pieces of which every name that hides something has one.
_HINTS = (
    *("token", "secret", "pass", "credential", "key", "auth", "bearer", "basic", "cookie", "session", "dsn", "conn"),
    *("pat", "pwd", "pw", "jwt", "sig", "-k"),
)
_TOKEN_SHAPES = re.compile(
    r"""(?x)
    \b(?:hf|api_org|ghp|gho|ghu|ghs|ghr|glpat|npm|pypi|sk|pk|rk|xox[abprs]|wandb|dop_v1|shpat|ya29|lin_api|nvapi|r8|gsk)
        [-_.](?=(?:[A-Za-z_\-.]*[0-9]){2})[A-Za-z0-9_\-.]{12,}
    | \b(?:hf_|gh[opsur]_|sk-)[A-Za-z0-9]{30,}
    | \bgithub_pat_[A-Za-z0-9_]{20,}
    | \b(?:AKIA|ASIA|AROA|AIDA)[A-Z0-9]{12,}\b
    | \bAIza[0-9A-Za-z_\-]{30,}
    | \beyJ[A-Za-z0-9_\-]{8,}\.[A-Za-z0-9_\-]{8,}(?:\.[A-Za-z0-9_\-]*)?
    """
)
_LONG_WORD = re.compile(r"[A-Za-z0-9_\-.]{14,}")
_PRIVATE_KEY = re.compile(r"-----BEGIN[ A-Z]{0,40}PRIVATE KEY-----[\s\S]*?(?:-----END[ A-Z]{0,40}PRIVATE KEY-----|\Z)")
_URL_PASSWORD = re.compile(r"(?i)(?<![a-z0-9+.\-])([a-z][a-z0-9+.\-]{0,30}://[^\s/:@\"']*):([^\s/@\"']+)@")
_NAME = r"(?<![A-Za-z0-9_\-])(?P<name>[\"']?-{0,2}[A-Za-z_][A-Za-z0-9_\-]{0,80}(?:\\?[\"'])?)"
_QUOTED = re.compile(
    _NAME + r"(?P<operator>\]?\s{0,20}[:=]\s{0,20}|\s{1,20}|,\s{0,20})[bfru]{0,2}"
    r"(?P<quote>\\?[\"'])(?P<value>(?:(?!(?P=quote))[^\n]){4,})(?P=quote)"
)
_BARE = re.compile(
    _NAME + r"(?P<operator>=|:\s?|\s)(?P<quote>)(?P<value>[A-Za-z0-9_\-+/=~.%!$*^]{6,})(?![A-Za-z0-9_(\[])"
)
_BEARER = re.compile(r"(?i)\b(bearer|basic)\s{1,20}(?=[A-Za-z+/_\-.=]{0,80}[0-9])[A-Za-z0-9+/_\-.=]{8,}")
_SHORTEST_SECRET = 6
_NO_SECRETS = frozenset(
    (
        "true",
        "false",
        "none",
        "null",
        "default",
        "enabled",
        "disabled",
        "password",
        "secret",
        "token",
        "basic",
        "bearer",
    )
)
_DEEPEST = 20
_LONGEST = 10_000

_ALLOWED_ENVIRONMENT = re.compile(
    r"(?:OMP_NUM_THREADS|MKL_NUM_THREADS|OPENBLAS_NUM_THREADS|CUDA_VISIBLE_DEVICES|HIP_VISIBLE_DEVICES|PYTHONHASHSEED"
    r"|CUBLAS_WORKSPACE_CONFIG|TORCH_(?:LOGS|COMPILE_DEBUG|USE_CUDA_DSA)|TORCHDYNAMO_DISABLE"
    r"|PYTORCH_(?:CUDA_ALLOC_CONF|ALLOC_CONF)|NCCL_DEBUG|RANK|LOCAL_RANK|WORLD_SIZE|LOCAL_WORLD_SIZE"
    r"|ACCELERATE_MIXED_PRECISION|SLURM_(?:JOB_ID|NNODES|PROCID))"
)


def is_secret_name(name: str) -> bool:
    """Whether a variable, option or key of this name is likely to hold a secret."""
    spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name[:200].replace("-", "_"))
    return bool(_SECRET_NAME.search(spaced)) and not _HARMLESS_NAME.search(spaced)


def allowed_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """The few environment variables that change how a training runs and cannot hold a secret."""
    return {name: value for name, value in sorted(environment.items()) if _ALLOWED_ENVIRONMENT.fullmatch(name)}


def _looks_random(value: str, shortest: int = 16) -> bool:
    """Whether it is hardly a word, a path or an expression."""
    digits = sum(letter.isdigit() for letter in value)
    return len(value) >= shortest and digits >= 2 and any(map(str.isalpha, value)) and not re.search(r"[\s/\\.]", value)


def _hides(name: str, value: str) -> bool:
    """Whether the value of an option or key must be masked."""
    bare = name.strip("\\\"'")
    if is_secret_name(bare.lstrip("-")):
        return True
    key = bare == "-k" or _KEY_NAME.fullmatch(bare.lstrip("-").replace("-", "_"))
    return bool(key) and _looks_random(value)


def _secret_arguments(arguments: Sequence[str]) -> Iterator[str]:
    for position, argument in enumerate(arguments):
        name, equals, value = argument.partition("=")
        following = arguments[position + 1] if position + 1 < len(arguments) else ""
        if equals and _hides(name, value):
            yield value
        elif not equals and argument.startswith("-") and _hides(name, following) and not following.startswith("--"):
            yield following


def _spellings(secret: str) -> Iterator[str]:
    """The ways in which a value turns up in texts: as it is, as repr and JSON show it, in an address."""
    yield secret
    yield repr(secret)[1:-1]
    yield json.dumps(secret)[1:-1]
    yield json.dumps(secret, ensure_ascii=False)[1:-1]
    yield quote(secret.encode("utf-8", "surrogateescape"), safe="")


class Redactor:
    """Masks secrets in text and in nested plain data.

    Secrets are the values of secret-named environment variables and command-line options, text of well-known token
    shapes, passwords in addresses, and values that stand behind secret-looking names. Values shorter than six
    characters are masked where they stand behind such a name, but not searched for elsewhere. Hashes of commits are
    kept unless their name is secret.
    """

    def __init__(self, environment: Mapping[str, str] | None = None, arguments: Sequence[str] = ()) -> None:
        environment = os.environ if environment is None else environment
        values = [value for name, value in environment.items() if is_secret_name(name)]
        values += _secret_arguments(arguments)
        self._secrets: list[str] = []
        self._learn(values)

    def text(self, text: str) -> str:
        """`text` with every secret masked."""
        for secret in self._secrets:
            text = text.replace(secret, MASK)
        if "PRIVATE KEY" in text:
            text = _PRIVATE_KEY.sub(MASK, text)
        text = _LONG_WORD.sub(lambda word: _TOKEN_SHAPES.sub(MASK, word[0]), text)
        if "://" in text:
            text = _URL_PASSWORD.sub(rf"\1:{MASK}@", text)
        lines = text.split("\n")
        for index, line in enumerate(lines):
            lowered = line.lower()
            if any(hint in lowered for hint in _HINTS):
                # A name at the end of a line may have its value on the next one.
                lines[index : index + 2] = self._named("\n".join(lines[index : index + 2])).split("\n")
        return "\n".join(lines)

    def _named(self, text: str) -> str:
        text = _BEARER.sub(rf"\1 {MASK}", text)
        text = _QUOTED.sub(self._mask_quoted, text)
        return _BARE.sub(self._mask_bare, text)

    def arguments(self, arguments: Sequence[str]) -> list[str]:
        """A command line with the values of secret options masked, short ones included."""
        masked: list[str] = []
        option = ""
        for argument in arguments:
            if option and not argument.startswith("--") and _hides(option, argument):
                masked.append(MASK)
                option = ""
                continue
            name, equals, value = argument.partition("=")
            masked.append(f"{self.text(name)}={MASK}" if equals and _hides(name, value) else self.text(argument))
            option = argument if argument.startswith("-") and not equals else ""
        return masked

    def plain(self, value: Any) -> Any:
        """Mappings, sequences, sets and scalars as JSON-ready data with secrets masked; other objects by their repr."""
        return self._plain(value, hide=False, depth=0)

    def _plain(self, value: Any, hide: bool, depth: int) -> Any:
        if isinstance(value, np.generic):
            value = value.item()
        if value is None or isinstance(value, bool | int | float):
            return MASK if hide and value is not None and not isinstance(value, bool) else value
        if isinstance(value, str):
            return self._hidden(value) if hide else self.text(value)
        if depth < _DEEPEST and isinstance(value, Mapping):
            return {self.text(str(key)): self._item(key, item, hide, depth) for key, item in value.items()}
        if depth < _DEEPEST and isinstance(value, list | tuple | AbstractSet | range):
            items = sorted(value, key=repr) if isinstance(value, AbstractSet) else value[:_LONGEST]
            return [self._plain(item, hide, depth + 1) for item in items]
        return MASK if hide else self.text(_shown(value))

    def _item(self, key: Any, item: Any, hide: bool, depth: int) -> Any:
        name = str(key)
        if isinstance(item, str):
            hide = hide or _hides(name, item)
        elif isinstance(item, int | float | np.generic):
            hide = hide or (is_secret_name(name) and bool(_SECRET_NUMBER.search(name)))
        else:
            hide = hide or is_secret_name(name)
        return self._plain(item, hide, depth + 1)

    def _hidden(self, value: str) -> str:
        if _looks_random(value, shortest=12):
            self._learn([value])
        return MASK

    def _learn(self, values: Iterable[str]) -> None:
        """Search for these values, too, from now on."""
        worth = {value for value in values if len(value) >= _SHORTEST_SECRET and value.lower() not in _NO_SECRETS}
        if worth.issubset(self._secrets):
            return
        found = {spelling for value in worth for spelling in _spellings(value)}
        self._secrets = sorted(found.union(self._secrets), key=lambda secret: (-len(secret), secret))

    def _mask_quoted(self, match: re.Match[str]) -> str:
        if match["value"] == MASK or not _hides(match["name"], match["value"]):
            return match[0]
        apart = match["operator"].strip() in ("", ",") and not match["name"].startswith("-")
        if apart and not _looks_random(match["value"], 8):
            return match[0]
        start, end = match.span("value")
        self._hidden(match["value"])
        return match[0][: start - match.start()] + MASK + match[0][end - match.start() :]

    def _mask_bare(self, match: re.Match[str]) -> str:
        # Without quotes most values are expressions of a script: what has no digits is taken for a name.
        name, value = match["name"], match["value"]
        option = name.startswith("-")
        if not _hides(name, value) or not (option or _looks_random(value, shortest=8)):
            return match[0]
        return match[0][: match.start("value") - match.start()] + MASK


def _shown(value: Any) -> str:
    try:
        return repr(value)[:_LONGEST]
    except Exception:
        return f"<{type(value).__name__}>"
