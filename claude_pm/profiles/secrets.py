"""Finds keys, tokens and passwords in texts, and puts words in brackets in their place.

Three kinds are found: what has the form of somebody's key (by detect-secrets, and by patterns of
our own for what it does not know or knows only in part); what is assigned to a name that says it
is secret, such as ``OPENAI_API_KEY=...`` or ``"password": "..."``; and the values of this process's
own variables of such names, wherever they stand. There is no guess by entropy: commits, hashes, ids
and prose look as random as a key.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import quote

if TYPE_CHECKING:
    from detect_secrets.plugins.base import BasePlugin

LEAST_VALUE = 8
"""Characters of a variable's value from which on it is looked for."""

_SECRET_VARIABLE = re.compile(
    "(KEY|TOKEN|SECRET|PASSWORD|PASSWD|PASSPHRASE|_PASS|CREDENTIALS?)(_|$)", re.IGNORECASE
)
_PLACED = "[secret: "


class _Pattern(NamedTuple):
    """What a kind of secret is called, a text that every one holds, and its form.

    Where the form has a group ``secret``, that alone is replaced.
    """

    kind: str
    marks: tuple[str, ...]
    form: re.Pattern[str]


class _Detector(NamedTuple):
    """One of detect-secrets' detectors, what every text with its secret holds, and its kind."""

    plugin: BasePlugin
    marks: tuple[str, ...]
    kind: str


def _pattern(kind: str, marks: str, form: str) -> _Pattern:
    return _Pattern(kind, tuple(marks.split()), re.compile(form))


# Not within a word: "risk-" and "task-" end as a key begins. What follows has to hold a digit
# where words with hyphens could be meant.
_AT_START = r"(?<![A-Za-z0-9_])"
_HAS_DIGIT = r"(?=[A-Za-z_-]*[0-9])"
_PEM_LABEL = r"[A-Z0-9 ]{0,30}PRIVATE KEY(?: BLOCK)?"
_FORMS = (
    _pattern(
        "private key",
        "PRIVATE",
        # A block that was cut off has no end: all that could be of it goes.
        rf"-----BEGIN {_PEM_LABEL}-----"
        rf"(?:(?:(?!-----BEGIN)[\s\S])*?-----END {_PEM_LABEL}-----|(?:[A-Za-z0-9+/=:,\s\\-])*)",
    ),
    _pattern("Anthropic key", "sk-ant-", rf"{_AT_START}sk-ant-[A-Za-z0-9_-]{{8,}}"),
    _pattern("OpenRouter key", "sk-or-", rf"{_AT_START}sk-or-[A-Za-z0-9_-]{{16,}}"),
    _pattern("Langfuse key", "-lf-", rf"{_AT_START}[sp]k-lf-[A-Za-z0-9-]{{16,}}"),
    _pattern(
        "OpenAI key",
        "sk-proj- sk-svcacct- sk-admin- sk-None-",
        rf"{_AT_START}sk-(?:proj|svcacct|admin|None)-[A-Za-z0-9_-]{{8,}}",
    ),
    # OpenAI's older ones, DeepSeek's, and many others' that speak its protocol.
    _pattern("OpenAI key", "sk-", rf"{_AT_START}sk-{_HAS_DIGIT}[A-Za-z0-9_-]{{16,}}"),
    _pattern("Google key", "AIza", rf"{_AT_START}AIza[A-Za-z0-9_-]{{30,}}"),
    _pattern("Google token", "ya29.", rf"{_AT_START}ya29\.[A-Za-z0-9._-]{{20,}}"),
    _pattern("Google client secret", "GOCSPX-", rf"{_AT_START}GOCSPX-[A-Za-z0-9_-]{{20,}}"),
    _pattern("Hugging Face token", "hf_", rf"{_AT_START}hf_[A-Za-z0-9]{{20,}}"),
    _pattern("Hugging Face token", "api_org_", rf"{_AT_START}api_org_[A-Za-z0-9]{{20,}}"),
    _pattern("Groq key", "gsk_", rf"{_AT_START}gsk_[A-Za-z0-9]{{20,}}"),
    _pattern("xAI key", "xai-", rf"{_AT_START}xai-{_HAS_DIGIT}[A-Za-z0-9_-]{{20,}}"),
    _pattern("Perplexity key", "pplx-", rf"{_AT_START}pplx-[A-Za-z0-9]{{20,}}"),
    _pattern("Replicate token", "r8_", rf"{_AT_START}r8_[A-Za-z0-9]{{20,}}"),
    _pattern("Cerebras key", "csk-", rf"{_AT_START}csk-{_HAS_DIGIT}[A-Za-z0-9]{{20,}}"),
    _pattern("NVIDIA key", "nvapi-", rf"{_AT_START}nvapi-[A-Za-z0-9_-]{{20,}}"),
    _pattern("Tavily key", "tvly-", rf"{_AT_START}tvly-[A-Za-z0-9-]{{16,}}"),
    _pattern("Pinecone key", "pcsk_", rf"{_AT_START}pcsk_[A-Za-z0-9_]{{20,}}"),
    _pattern("LangSmith key", "lsv2_", rf"{_AT_START}lsv2_(?:pt|sk)_[A-Za-z0-9_]{{20,}}"),
    _pattern("Databricks token", "dapi", rf"{_AT_START}dapi[0-9a-f]{{32}}(?:-\d)?(?!\w)"),
    _pattern(
        "Azure key", "JQQJ99", rf"{_AT_START}[A-Za-z0-9]{{40,60}}JQQJ99[A-Za-z0-9]{{20,30}}"
    ),
    _pattern("AWS secret", "AKIA ASIA", (
        r"(?:AKIA|ASIA)[A-Z0-9]{16}[^A-Za-z0-9/+]{1,8}(?:[A-Za-z_ ]{0,40}[\"'=: ]{1,4})?"
        r"(?P<secret>[A-Za-z0-9/+]{40})(?![A-Za-z0-9/+])"
    )),
    _pattern(
        "AWS key", "AKIA ASIA ABIA ACCA", rf"{_AT_START}(?:AKIA|ASIA|ABIA|ACCA)[A-Z0-9]{{16}}"
    ),
    _pattern("GitHub token", "gh", rf"{_AT_START}gh[oprsu]_[A-Za-z0-9_]{{20,}}"),
    _pattern("GitHub token", "github_pat_", rf"{_AT_START}github_pat_[A-Za-z0-9_]{{20,}}"),
    _pattern("GitLab token", "glpat-", rf"{_AT_START}glpat-[A-Za-z0-9_.-]{{16,}}"),
    _pattern("Slack token", "xox xapp-", rf"{_AT_START}(?:xox[a-z]|xapp)-[A-Za-z0-9.-]{{10,}}"),
    _pattern(
        "Stripe key", "k_live_ k_test_", rf"{_AT_START}[sr]k_(?:live|test)_[A-Za-z0-9]{{16,}}"
    ),
    _pattern("Stripe key", "whsec_", rf"{_AT_START}whsec_[A-Za-z0-9]{{16,}}"),
    _pattern("JSON web token", "eyJ", (
        rf"{_AT_START}eyJ[A-Za-z0-9_-]{{8,}}\.[A-Za-z0-9_-]{{4,}}(?:\.[A-Za-z0-9_-]*)*"
    )),
    _pattern("npm token", "npm_", rf"{_AT_START}npm_[A-Za-z0-9]{{30,}}"),
    # The password of a URL; {password}, <password> and $PASSWORD are none yet.
    _pattern("password in a URL", "://", (
        r"://[^\s/:@\"'<>]*:(?P<secret>(?![{<$*\[])(?:[^\s/@\"'<>]|(?<!:)@)+)@(?=[\w\[-])"
    )),
    _pattern("password in a URL", "://", (
        r"://[^\s/:@\"'<>]+:(?P<secret>(?![{<$*\[]|\d+/)[^\s\"'<>]+)@(?=[\w\[-])"
    )),
    _pattern("key in a URL", "://", (
        r"://(?P<secret>(?=[A-Za-z_-]*[0-9])[A-Za-z0-9_-]{20,})@(?=[\w\[-])"
    )),
    _pattern("key in a URL", "= &", (
        r"[?&](?:key|sig|sign|signature|auth|code)=(?P<secret>[^&\s\"'#\[]{8,})"
    )),
)  # fmt: skip

_DETECTORS: tuple[tuple[str, str, tuple[str, ...], str], ...] = (
    ("GitHubTokenDetector", "github_token", ("gh",), "GitHub token"),
    ("GitLabTokenDetector", "gitlab_token", ("gl", "GR1348941"), "GitLab token"),
    ("SlackDetector", "slack", ("xox", "XOX", "hooks.slack.com"), "Slack token"),
    ("StripeDetector", "stripe", ("k_live_",), "Stripe key"),
    ("SendGridDetector", "sendgrid", ("SG.",), "SendGrid key"),
    ("SquareOAuthDetector", "square_oauth", ("sq0csp-",), "Square secret"),
    ("PypiTokenDetector", "pypi_token", ("pypi-",), "PyPI token"),
    ("NpmDetector", "npm", ("_authToken",), "npm token"),
    ("AzureStorageKeyDetector", "azure_storage_key", ("AccountKey=",), "Azure key"),
    ("OpenAIDetector", "openai", ("T3BlbkFJ",), "OpenAI key"),
    ("DiscordBotTokenDetector", "discord", (".",), "Discord token"),
    ("TelegramBotTokenDetector", "telegram_token", (":",), "Telegram token"),
    ("TwilioKeyDetector", "twilio", ("AC", "SK"), "Twilio key"),
    ("MailchimpDetector", "mailchimp", ("-us",), "Mailchimp key"),
    ("AWSKeyDetector", "aws", ("AKIA", "ASIA", "ABIA", "ACCA", "A3T", "aws", "AWS"), "AWS key"),
    ("CloudantDetector", "cloudant", ("cloudant",), "Cloudant key"),
    ("SoftlayerDetector", "softlayer", ("softlayer", "sl_"), "SoftLayer key"),
)
"""Of detect-secrets: class, module, what every text with such a secret holds, what it is called.

Not its guesses by entropy, its addresses of the network, and what its kinds above do better."""
_MARKS = tuple(dict.fromkeys(mark for pattern in _FORMS for mark in pattern.marks))
_DETECTOR_MARKS = tuple(dict.fromkeys(mark for found in _DETECTORS for mark in found[2]))

# Quotes may be escaped, once or more: JSON within JSON.
_QUOTE = r"\\*[\"'`]"
_NAME = r"(?<![A-Za-z0-9])(?P<name>[A-Za-z0-9_.-]{0,60}%s[A-Za-z0-9_]{0,20})"
_NAME_WORDS = (
    "key", "token", "secret", "password", "passwd", "pwd", "passphrase", "_pass", "credential",
    "authorization", "cookie", "sharedaccess",
)  # fmt: skip
_WORDS = (
    r"(?i:key|token|secret|passw(?:or)?d|pwd|passphrase|_pass|credentials?|authorization|cookie)"
)
_ASSIGNED = re.compile(
    _NAME % _WORDS
    # The quote and bracket of os.environ["..."], and the type of an annotated name.
    + rf"(?:{_QUOTE})?(?P<sign>\s*:\s*[A-Za-z_.|\[\] ]{{1,40}}=\s*|\s*\]?\s*(?:=>|:=|=|:)\s*"
    + rf"|{_QUOTE}\s*,\s*(?={_QUOTE}))"
    + r"(?P<value>"
    + r"[rbuf]{0,2}(?P<quote>\\*[\"'`])(?P<quoted>(?:(?!(?P=quote))[^\n])*)(?P=quote)"
    + r"|(?P<plain>[^\s\"'`,;&()\[\]{}<>\\]+))"
)
_OPTION = re.compile(
    r"(?<![\w-])--?(?P<name>[A-Za-z0-9-]{0,40}(?i:key|token|secret|password|passphrase))"
    r"[= ]\s*(?P<quote>[\"']?)(?P<value>(?![-$<{\[%])[^\s\"']+)"
)
_CONNECTION = re.compile(
    r"(?i)(?<![A-Za-z0-9])(?:password|pwd|AccountKey|SharedAccessKey|SharedAccessSignature)"
    r"\s*=\s*(?P<secret>(?![{<$*\[])[^;\s\"']+)(?=;)"
)
_AUTHORIZATION = re.compile(
    r"(?i)(?<![A-Za-z0-9])authorization(?:\\*[\"'])?\s*[:=,]\s*(?:b?\\*[\"'])?"
    r"(?:(?:bearer|basic|token|digest|apikey|negotiate|bot)\s+)?(?P<secret>(?![{<$\[])"
    r"[A-Za-z0-9._~+/=:-]{6,})(?! \[secret)"
)
_BEARER = re.compile(
    r"(?i)(?<![A-Za-z0-9])bearer\s+(?P<secret>(?=[A-Za-z._~+/=-]*[0-9])[A-Za-z0-9._~+/=-]{12,})"
)
_BASIC = re.compile(
    r"(?i)(?<![A-Za-z0-9])basic\s+(?P<secret>[A-Za-z0-9+/]{8,}={0,2})(?![A-Za-z0-9+/=])"
)

_STRONG = re.compile(
    r"(?i)(?:^|[^a-z])(?:passw(?:or)?d|pwd|passphrase|(?<=[_.-])pass|secrets?|credentials?|authorization|"
    r"cookie|(?:api|auth|access|secret|private|client|account|service|master|signing|encryption|"
    r"subscription|session|refresh|bearer|bot|id|storage|shared|license|app|hub|personal)[_. -]?"
    r"(?:access[_. -]?)?(?:key|token)|apikey|authtoken|csrf[_-]?token)(?:$|[^a-z])"
)
_PASSWORD = re.compile(r"(?i)passw(?:or)?d|pwd|passphrase")
# A variable of a shell: its letters are all large.
_VARIABLE = re.compile(r"[A-Z][A-Z0-9_]*_(?:API)?(?:KEY|TOKEN|SECRET|PASS|PASSWORD|CREDENTIALS?)")
_HARMLESS = re.compile(
    r"(?i)(?:^|[_. -])(?:cache|primary|public|foreign|sort|partition|map|dict|idempotency|max|min|"
    r"num|count|stop|next|eos|bos|pad|mask|unk|first|last|input|output|prompt|completion|total)"
    r"[_. -]?(?:keys?|tokens?)$|(?:public|key)[_. -]?(?:name|id|type|file|path|length|size)s?$"
)
# The name of a value rather than a value: a dotted name without a digit, a call, a template.
_REFERENCE = re.compile(r"[A-Za-z_]+(?:\.[A-Za-z_]+)*")
_PLACEHOLDER = re.compile(
    r"(?i)(?:[*x.#_-]+|\[.*|[<{$%].*|.*\$\{.*|none|null|true|false|undefined|not[ _-]?set|unset|"
    r"your[_ -].*|my[_ -]?(?:key|token|secret|password)|redacted|changeme|example|secret|token|"
    r"str|string|int|bool|optional.*|required|default|hidden|omitted|missing|env:.*)"
)
_LEAST_PLAIN = 6
_BARE = re.compile(r"(?i)(?:^|[_. -])(key|token)$")
_ONE_WORD = re.compile(r"[A-Za-z0-9_+/=.~-]{16,}")
_VERSION = re.compile(r"v?\d+(?:\.\w+){1,5}")
_SHORT_NAME = re.compile(r"[\w.-]{0,12}")
_HEX_ID = re.compile(r"[0-9a-f]{16}|[0-9a-f]{32}")


def is_secret_name(name: str) -> bool:
    """Say whether a name tells that its value is secret: ``api_key``, ``OPENAI_KEY``, ``pwd``."""
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name)
    if _HARMLESS.search(spaced):
        return False
    return _STRONG.search(spaced) is not None or _VARIABLE.fullmatch(spaced) is not None


def label(kind: str) -> str:
    """Return what stands in a secret's place."""
    return f"{_PLACED}{kind}]"


def is_value(name: str, value: str) -> bool:
    """Say whether a value that stands under a name, as in JSON, is a secret."""
    if not value or _PLACEHOLDER.fullmatch(value) or _VERSION.fullmatch(value):
        return False
    return is_secret_name(name) or _is_key_like(name, value)


def secret_finder(variables: Mapping[str, str]) -> Callable[[str], str]:
    """Return a function that replaces every secret in a text.

    ``variables`` are names and values of which those whose name says so are secret; of these,
    values of 8 characters and more are found wherever they stand.
    """
    values = _values(variables)
    detectors = _detectors()

    def without_secrets(text: str) -> str:
        if len(text) < _LEAST_PLAIN:
            return text
        if values is not None:
            text = values[0].sub(lambda found: values[1][found[0]], text)
        # Most of a profile's texts: ids of spans and traces, and names of tasks.
        if _HEX_ID.fullmatch(text) or _SHORT_NAME.fullmatch(text):
            return text
        return _without_named(_without_detected(detectors, _without_forms(text)))

    return without_secrets


def _without_forms(text: str) -> str:
    present = {mark for mark in _MARKS if mark in text}
    if present:
        for kind, marks, form in _FORMS:
            if not present.isdisjoint(marks):
                text = _replaced(form, kind, text)
    return text


def _without_detected(detectors: Sequence[_Detector], text: str) -> str:
    present = {mark for mark in _DETECTOR_MARKS if mark in text}
    if present:
        for plugin, marks, kind in detectors:
            if not present.isdisjoint(marks):
                for secret in sorted(plugin.analyze_string(text), key=len, reverse=True):
                    if secret and not secret.startswith(_PLACED):
                        text = text.replace(secret, label(kind))
    return text


def _values(variables: Mapping[str, str]) -> tuple[re.Pattern[str], dict[str, str]] | None:
    """Return a pattern of all values that are secret, and what stands in the place of each."""
    said: dict[str, str] = {}
    for name, value in variables.items():
        secret = value.strip()
        if len(secret) >= LEAST_VALUE and _SECRET_VARIABLE.search(name):
            # As it is, and as it stands within JSON or a URL.
            for form in (secret, json.dumps(secret)[1:-1], quote(secret), quote(secret, safe="")):
                said.setdefault(form, label(f"value of {name}"))
    if not said:
        return None
    longest_first = sorted(said, key=len, reverse=True)
    return re.compile("|".join(map(re.escape, longest_first))), said


def _detectors() -> list[_Detector]:
    from importlib import import_module

    return [
        _Detector(getattr(import_module(f"detect_secrets.plugins.{module}"), name)(), marks, kind)
        for name, module, marks, kind in _DETECTORS
    ]


def _replaced(form: re.Pattern[str], kind: str, text: str) -> str:
    def put(found: re.Match[str]) -> str:
        if "secret" not in form.groupindex:
            return label(kind)
        start, end = (place - found.start() for place in found.span("secret"))
        return f"{found[0][:start]}{label(kind)}{found[0][end:]}"

    return form.sub(put, text)


def _without_named(text: str) -> str:
    """Replace what is assigned to a name that says it is secret."""
    low = text.lower()
    if "authorization" in low:
        text = _replaced(_AUTHORIZATION, "authorization", text)
    if "bearer" in low:
        text = _replaced(_BEARER, "bearer token", text)
    if "basic" in low:
        text = _BASIC.sub(_basic, text)
    if not any(word in low for word in _NAME_WORDS):
        return text
    text = _replaced(_CONNECTION, "password", text)
    return _OPTION.sub(_option, _ASSIGNED.sub(_assigned, text))


def _basic(found: re.Match[str]) -> str:
    try:
        said = base64.b64decode(found["secret"], validate=True)
    except (binascii.Error, ValueError):
        return found[0]
    return found[0].replace(found["secret"], label("password")) if b":" in said else found[0]


def _option(found: re.Match[str]) -> str:
    name, value = found["name"].replace("-", "_"), found["value"]
    if _HARMLESS.search(name) or _PLACEHOLDER.fullmatch(value):
        return found[0]
    end = found.start("value") - found.start()
    return f"{found[0][:end]}{label(found['name'])}"


def _assigned(found: re.Match[str]) -> str:
    name, quoted, plain = found["name"], found["quoted"], found["plain"]
    value = plain if quoted is None else quoted
    group = "plain" if quoted is None else "quoted"
    is_one = is_value(name, value) if quoted is not None else _is_plain_value(found)
    if not is_one:
        return found[0]
    start, end = (place - found.start() for place in found.span(group))
    return f"{found[0][:start]}{label(name.strip('.-'))}{found[0][end:]}"


def _is_plain_value(found: re.Match[str]) -> bool:
    """Say whether a value without quotes is a secret, and not the name of one, or prose."""
    name, value, sign = found["name"], found["plain"].rstrip("."), found["sign"]
    if len(value) < _LEAST_PLAIN or _PLACEHOLDER.fullmatch(value):
        return False
    if sign == "=" and _VARIABLE.fullmatch(name) and not _HARMLESS.search(name):
        return True
    follows = found.string[found.end() : found.end() + 1]
    if _REFERENCE.fullmatch(value):
        # password=correcthorse, of a database; but neither f(password=given) nor "token: text".
        is_known = _REFERENCE.fullmatch(name) and _PASSWORD.search(name) and sign == "="
        return bool(is_known) and follows not in {",", ")", "(", "["} and "." not in value
    if follows in {"(", "["}:
        return False
    return is_value(name, value)


def _is_key_like(name: str, value: str) -> bool:
    """Say whether a ``token`` or ``key``, which may be anything, has a value as secret ones do."""
    found = _BARE.search(name)
    if found is None or _HARMLESS.search(name) or not _ONE_WORD.fullmatch(value):
        return False
    has = [re.search(kind, value) is not None for kind in ("[0-9]", "[a-z]", "[A-Z]")]
    # Small letters and digits are a hash: the key of a cache, but hardly a token.
    return has[0] and (any(has[1:]) if found[1].lower() == "token" else all(has[1:]))
