"""to_share: secrets, homes and names go, and nothing else does."""

from __future__ import annotations

import base64
import json
import os
import random
import string
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

import claude_pm
from claude_pm.errors import ProfileError
from claude_pm.profiles import Profile, schema
from claude_pm.profiles.secrets import is_secret_name, secret_finder
from claude_pm.profiles.sharing import to_share
from claude_pm.views.report import write_report

SAMPLES = sorted((Path(__file__).parents[2] / "profiles" / "samples").iterdir())
_RANDOM = random.Random(20261123)
_LETTERS = string.ascii_letters + string.digits
_HEX = "0123456789abcdef"
_CAPITALS = string.ascii_uppercase + string.digits


def _made(length: int, letters: str = _LETTERS) -> str:
    # Made here, so that no key stands in the repository.
    return "".join(_RANDOM.choice(letters) for _ in range(length - 2)) + "A7"


def _hex(length: int) -> str:
    return "".join(_RANDOM.choice(_HEX) for _ in range(length - 2)) + "a7"


def _pem(label: str) -> str:
    lines = "\n".join(_made(64) for _ in range(6))
    return f"-----BEGIN {label}-----\n{lines}\n-----END {label}-----"


KEYS = {
    "Anthropic key": f"sk-ant-api03-{_made(93)}-{_made(6)}AA",
    "OpenAI key": f"sk-{_made(20)}T3BlbkFJ{_made(20)}",
    "OpenAI project key": f"sk-proj-{_made(60)}_{_made(30)}-{_made(20)}",
    "DeepSeek key": f"sk-{_hex(32)}",
    "Google key": f"AIza{_made(35)}",
    "Google token": f"ya29.{_made(60)}",
    "Hugging Face token": f"hf_{_made(34)}",
    "Groq key": f"gsk_{_made(52)}",
    "xAI key": f"xai-{_made(80)}",
    "OpenRouter key": f"sk-or-v1-{_hex(64)}",
    "Perplexity key": f"pplx-{_made(48)}",
    "Replicate token": f"r8_{_made(37)}",
    "Langfuse key": f"sk-lf-{_hex(8)}-{_hex(4)}-{_hex(4)}-{_hex(12)}",
    "Azure key": f"{_made(52)}JQQJ99{_made(26)}",
    "Azure storage": f"AccountKey={_made(86)}==",
    "AWS key": f"AKIA{_made(16, _CAPITALS)}",
    "AWS session key": f"ASIA{_made(16, _CAPITALS)}",
    "GitHub token": f"ghp_{_made(36)}",
    "GitHub fine-grained token": f"github_pat_{_made(22)}_{_made(59)}",
    "GitLab token": f"glpat-{_made(20)}",
    "Slack token": f"xoxb-{'1234567890' * 2}-{_made(24)}",
    "Stripe key": f"sk_live_{_made(24)}",
    "JSON web token": f"eyJ{_made(20)}.eyJ{_made(40)}.{_made(43)}",
    "SendGrid key": f"SG.{_made(22)}.{_made(43)}",
    "Telegram token": f"123456789:{_made(35)}",
    "private key": _pem("RSA PRIVATE KEY"),
    "OpenSSH key": _pem("OPENSSH PRIVATE KEY"),
}
"""Secrets that are known by their form, wherever they stand."""

_WORD = _made(24)
NAMED = {
    "bearer": (f"Authorization: Bearer {_WORD}", _WORD),
    "bearer alone": (f"with Bearer {_WORD} sent", _WORD),
    "bearer in JSON": (json.dumps({"authorization": f"Bearer {_WORD}"}), _WORD),
    "basic": (
        f"Basic {base64.b64encode(b'user:pass word').decode()}",
        base64.b64encode(b"user:pass word").decode(),
    ),
    "header pair": (f'("x-api-key", "{_WORD}")', _WORD),
    "URL": ("postgres://bob:hunter2@db:5432/x", "hunter2"),
    "URL without a user": ("redis://:hunter2@cache:6379", "hunter2"),
    "URL with a slash in it": ("mysql://bob:hun/ter@2@db/x", "ter@2"),
    "URL parameter": (f"https://api.example/v1?key={_WORD}&x=1", _WORD),
    "signature": (f"https://blob.example/a?sv=1&sig={_WORD}", _WORD),
    "user is the token": (f"https://{_WORD}@host.example/repo.git", _WORD),
    "connection string": ("Server=tcp:x,1433;User=sa;Password=hunter;", "hunter;"),
    "libpq": ("host=db password=correcthorse user=x", "correcthorse"),
    "shell": (f"export MISTRAL_API_KEY={_WORD}", _WORD),
    "shell, only letters": ("DB_PASSWORD=correcthorse", "correcthorse"),
    "environ": (f'os.environ["CO_API_KEY"] = "{_WORD}"', _WORD),
    "Python": (f"client = Client(api_key='{_WORD}')", _WORD),
    "annotated": ('password: str = "hunter2"', "hunter2"),
    "JSON": ('{"api_key": "short one"}', "short one"),
    "JSON in JSON": (json.dumps({"x": json.dumps({"password": "hunter2"})}), "hunter2"),
    "camel case": ('clientSecret: "hunter2"', "hunter2"),
    "YAML": (f"access_token: {_WORD}", _WORD),
    "option": ("tool --password 'hunter2' --max-tokens 5", "hunter2"),
    "AWS secret": (f"AKIA{_made(16, _CAPITALS)} {(secret := _made(40))}", secret),
    "AWS assignment": (f"aws_secret_access_key = {secret}", secret),
    "half a key": (_pem("PRIVATE KEY")[:180], _pem("PRIVATE KEY")[40:80]),
}
"""Texts with a secret that is known by what stands around it, and the secret."""

STAY = [
    "a1398e2b7b159908c4ed54b029e882f67b14def1",
    "b04f1ba487daadba32b98a33b864a959",
    "32b98a33b864a959",
    "sha256:b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    '{"cache_key": "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"}',
    '{"detect-secrets": "1.5.0", "tokenizers": "0.22.1", "keyring": "25.6.0"}',
    "2026.10.11549",
    "20261123T130932505-modes-100b",
    "Linux-6.18.44-fc-v669-x86_64-with-glibc2.36",
    "SmolLM2-135M-Instruct.Q4_1.gguf",
    "claude-sonnet-4-5-20250929",
    "KeyError: 'abcDEF1234567890xyzABC'",
    "In two sentences: what should I look at first in this project?",
    "Explain basic authentication and bearer tokens; the token: what is it?",
    "The password: must have 8 characters, and no secret: everything is public.",
    "Is a key: value store faster? See key=itemgetter(1) and sorted(x, key=len).",
    "f(password=password, token=token, api_key=settings.api_key)",
    'api_key = os.environ["ANTHROPIC_API_KEY"]',
    "password = getpass.getpass()",
    "postgres://{user}:{password}@host and https://user:$PASSWORD@host",
    "http://localhost:8000/@user http://[::1]:80/ https://example.com/a?b=c#d",
    "task-2026-11-23-with-a-long-name and sk-learn and risk-2026112320261123",
    "{'max_tokens': 24, 'stop_token': '<|im_end|>', 'api_key_set': False}",
    "qualname (file.py:12);main (In[3]:1)",
    "ssh -i key.pem user@host; tool --max-tokens 500 --secret-file name",
    "src/app/home.py and /homeless/x and https://example.com/home/about",
    "an em \N{EM DASH} dash, 日本語, \N{RIGHT-TO-LEFT MARK}and emoji \N{GRINNING FACE}",
]
"""What looks a little like a secret and is none."""

TEXT_COLUMNS = [
    (table.name, column.name)
    for table in schema.TABLES.values()
    for column in table.columns
    if column.dtype == "string" and column.name != "attributes"
]


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run as a user with a name, whose environment holds no secrets but those of the test."""
    for name in list(os.environ):
        if any(word in name for word in ("KEY", "TOKEN", "SECRET", "PASS", "CREDENTIAL")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", "/home/ada.lovelace")
    monkeypatch.setenv("LOGNAME", "ada.lovelace")


def full(text: str, *, named: str = "note") -> Profile:
    """Return a profile with the text in every place that can hold one."""
    rows = {
        name: {column.name: text if column.dtype == "string" else 1 for column in table.columns}
        for name, table in schema.TABLES.items()
    }
    rows["spans"]["attributes"] = json.dumps(
        {named: text, "nested": {"list": [text, {text: 1}]}, "request": text, "number": 3}
    )
    meta = {
        "schema_version": schema.SCHEMA_VERSION,
        "id": "20260131T090000123-synthetic-1a2b",
        "name": text,
        "created_at": "2026-01-31T09:00:00.123000+00:00",
        "duration_s": 1.0,
        "source": text,
        "settings": {"base_url": text, text: None, "more": [text, {"deep": text}]},
        "model_use": "live",
        "lines": text,
    }
    return Profile(
        meta, {name: schema.frame_from_rows(schema.TABLES[name], [rows[name]]) for name in rows}
    )


def everything(profile: Profile) -> str:
    """Return all that a profile holds, as text; that of attributes and meta without escapes."""
    attributes = [json.loads(text) for text in profile.spans["attributes"]]
    cells = [
        str(value)
        for name in schema.TABLES
        for column in profile.table(name).columns
        if column != "attributes"
        for value in profile.table(name)[column]
    ]
    return "\n".join([*cells, *_leaves(attributes), *_leaves(profile.meta)])


def _leaves(value: Any) -> list[str]:
    if isinstance(value, dict):
        return [leaf for key, part in value.items() for leaf in (str(key), *_leaves(part))]
    if isinstance(value, list):
        return [leaf for part in value for leaf in _leaves(part)]
    return [str(value)]


def same(a: Profile, b: Profile) -> bool:
    return a.meta == b.meta and all(a.table(name).equals(b.table(name)) for name in schema.TABLES)


class TestSecrets:
    @pytest.mark.parametrize("kind", KEYS)
    @pytest.mark.parametrize("around", ["see {}.", "x={}", 'f("{}")', "/{}/a"])
    def test_a_key_is_gone_from_every_place(self, kind: str, around: str) -> None:
        key = KEYS[kind]
        found = everything(to_share(full(around.format(key))))
        assert key not in found
        assert not any(line in found for line in key.splitlines() if len(line) > 50)
        assert key[12:] not in found
        assert "[secret: " in found

    @pytest.mark.parametrize("kind", NAMED)
    def test_what_a_name_or_a_header_says_is_secret(self, kind: str) -> None:
        text, secret = NAMED[kind]
        found = everything(to_share(full(text)))
        assert secret not in found
        assert "[secret: " in found

    @pytest.mark.parametrize("kind", [*KEYS, *NAMED])
    def test_gone_from_the_report_and_its_tables(self, kind: str, tmp_path: Path) -> None:
        text, secret = NAMED.get(kind) or (KEYS[kind], KEYS[kind])
        report = write_report(to_share(full(text)), tmp_path / "report.html")
        html = report.read_text(encoding="utf-8")
        assert secret not in html
        assert base64.b64encode(secret.encode()).decode()[:-4] not in html
        assert secret not in everything(claude_pm.load(report))

    def test_says_what_it_was(self) -> None:
        find = secret_finder({})
        assert find(f"use {KEYS['Anthropic key']} now") == "use [secret: Anthropic key] now"
        assert find('{"password": "hunter2"}') == '{"password": "[secret: password]"}'
        assert find("a://b:hunter2@c") == "a://b:[secret: password in a URL]@c"
        assert (
            find(f'x = """{KEYS["private key"]}""" # end')
            == 'x = """[secret: private key]""" # end'
        )

    @pytest.mark.parametrize("text", STAY)
    def test_what_is_no_secret_stays(self, text: str) -> None:
        assert same(to_share(full(text)), full(text))

    @pytest.mark.parametrize("folder", SAMPLES, ids=lambda folder: folder.name)
    def test_the_recorded_samples_stay_as_they_are(self, folder: Path) -> None:
        assert same(to_share(claude_pm.load(folder)), claude_pm.load(folder))

    @settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
    @given(
        st.text(
            st.characters(exclude_categories=["Cs"], exclude_characters="/\\:=@'\"-_"), max_size=60
        )
    )
    @example("the secret of a good token is its key")
    def test_any_text_without_signs_of_one_stays(self, text: str) -> None:
        assert same(to_share(full(text)), full(text))

    @settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
    @given(
        st.sampled_from(sorted(KEYS)),
        st.text(st.characters(exclude_categories=["Cs"]), max_size=30),
        st.text(st.characters(exclude_categories=["Cs"]), max_size=30),
    )
    def test_any_text_around_a_key_hides_nothing(self, kind: str, before: str, after: str) -> None:
        text = f"{before} {KEYS[kind]} {after}"
        assert KEYS[kind] not in everything(to_share(full(text)))

    @pytest.mark.parametrize("text", [*KEYS.values(), *(text for text, _ in NAMED.values())])
    def test_a_second_time_changes_nothing_of_what_was_found(self, text: str) -> None:
        once = to_share(full(text))
        assert same(to_share(once), once)

    @settings(max_examples=100, deadline=None)
    @given(st.text(st.characters(exclude_categories=["Cs"]), max_size=200))
    def test_a_second_time_changes_nothing(self, text: str) -> None:
        find = secret_finder({})
        assert find(find(text)) == find(text)

    @pytest.mark.parametrize(("table", "column"), TEXT_COLUMNS)
    def test_each_column(self, table: str, column: str) -> None:
        row = {column: f"in {KEYS['Groq key']}"}
        profile = Profile(
            full("x").meta, {table: schema.frame_from_rows(schema.TABLES[table], [row, {}])}
        )
        shared = to_share(profile).table(table)
        assert shared[column].iloc[0] == "in [secret: Groq key]"
        assert shared[column].isna().tolist() == [False, True]
        schema.check(schema.TABLES[table], shared, where="the test")

    def test_a_name_of_an_attribute_tells(self) -> None:
        shared = to_share(full("hunter2", named="db_password"))
        attributes = json.loads(shared.spans["attributes"].iloc[0])
        assert attributes["db_password"] == "[secret: db_password]"
        assert attributes["request"] == "hunter2"

    @pytest.mark.parametrize("name", ["MY_API_KEY", "token", "DB_PASSWORD", "aws_credentials"])
    @pytest.mark.parametrize("write", [str, lambda value: json.dumps(value)[1:-1]])
    def test_values_of_this_process_s_variables(
        self, name: str, write: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        value = 'quite "ordinary" words'
        monkeypatch.setenv(name, value)
        found = everything(to_share(full(f"he said: {write(value)}!")))
        assert value not in found
        assert f"he said: [secret: value of {name}]!" in found

    def test_a_short_value_or_a_name_that_is_not_secret_stays(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("MY_TOKEN", "seven77")
        monkeypatch.setenv("MONKEYS", "ordinary words")
        assert same(to_share(full("seven77 ordinary words")), full("seven77 ordinary words"))

    @pytest.mark.parametrize(
        ("name", "said"),
        [("api_key", True), ("apiKey", True), ("OPENAI_KEY", True), ("x-api-key", True),
         ("pwd", True), ("client_secret", True), ("DB_PASS", True), ("cache_key", False),
         ("max_tokens", False), ("stop_token", False), ("key", False), ("monkey", False),
         ("secretary", False), ("compass", False), ("detect", False)],
    )  # fmt: skip
    def test_names(self, name: str, said: bool) -> None:
        assert is_secret_name(name) is said

    def test_a_secret_in_the_name_is_not_in_the_id(self) -> None:
        key = f"sk-ant-{_hex(20)}"
        profile = full(key)
        profile.meta["id"] = f"20260131T090000123-{key}-1a2b"
        assert to_share(profile).id == "20260131T090000123-shared-1a2b"


class TestHomes:
    @pytest.mark.parametrize(
        ("path", "said"),
        [
            ("/home/ada.lovelace/work/a.py", "~/work/a.py"),
            ("file:///home/ada.lovelace", "file://~"),
            ("/home/ada.lovelace2/x", "/home/[user]/x"),
            ("/home/bob/x.py:3", "/home/[user]/x.py:3"),
            ("/Users/bob/x", "/Users/[user]/x"),
            ("/Users/Shared/x", "/Users/Shared/x"),
            ("/mnt/c/Users/bob/x", "/mnt/c/Users/[user]/x"),
            ("C:\\Users\\Bob B\\x", "C:\\Users\\[user]\\x"),
            ("C:\\\\Users\\\\bob\\\\x", "C:\\\\Users\\\\[user]\\\\x"),
            ("c:/users/bob", "c:/users/[user]"),
            ("C:\\Users\\Public\\x", "C:\\Users\\Public\\x"),
            ("/tmp/pytest-of-ada.lovelace/a", "/tmp/pytest-of-[user]/a"),
            ("/data/ada.lovelace/a", "/data/[user]/a"),
            ("main (/home/bob/a.py:1);f (/home/bob/b.py:2)",
             "main (/home/[user]/a.py:1);f (/home/[user]/b.py:2)"),
            ("/tmp/build-1/x.py", "/tmp/build-1/x.py"),
            ("ada.lovelace said so", "ada.lovelace said so"),
        ],
    )  # fmt: skip
    def test_paths(self, path: str, said: str) -> None:
        shared = to_share(full(path))
        assert shared.functions["file"].iloc[0] == said
        assert shared.samples["stack"].iloc[0] == said
        assert shared.meta["source"] == said
        assert json.loads(shared.spans["attributes"].iloc[0])["note"] == said

    def test_of_root(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HOME", "/root")
        monkeypatch.setenv("LOGNAME", "root")
        text = "/root/a.py /rootfs/b /data/root/c"
        assert to_share(full(text)).meta["source"] == "~/a.py /rootfs/b /data/root/c"

    @pytest.mark.parametrize("home", ["/", ""])
    def test_where_there_is_no_home(self, home: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HOME", home)
        assert to_share(full("/a/b")).meta["source"] == "/a/b"


class TestContent:
    def test_prompts_and_answers_go_and_numbers_stay(self) -> None:
        attributes = {
            "request": "Who is Ada?", "response": "A pioneer.", "reason": "default",
            "gen_ai.input.messages": [{"role": "user", "content": "Who is Ada?"}],
            "gen_ai.output.messages": '[{"content": "A pioneer."}]',
            "gen_ai.system_instructions": "Who is Ada?", "gen_ai.prompt.0.content": "Who is Ada?",
            "gen_ai.tool.call.arguments": {"q": "Who is Ada?"}, "gen_ai.request.model": "claude",
            "gen_ai.request.max_tokens": 5, "llm.input_messages.0.message.content": "Who is Ada?",
            "question": "Who is Ada?", "is_good": True, "score": 0.5, "scores": [1, 2],
            "own": {"text": "Who is Ada?", "n": 3}, "fallback": "Error: Who is Ada?",
        }  # fmt: skip
        row = {
            "name": "chat", "agent": "qa", "error": "ModelError: cannot answer 'Who is Ada?'",
            "output_tokens": 3, "attributes": json.dumps(attributes),
        }  # fmt: skip
        profile = Profile(
            full("x").meta | {"source": "ask('Who is Ada?')", "lines": "ended with Who is Ada?"},
            {
                "spans": schema.frame_from_rows(schema.SPANS, [row]),
                "lines": schema.frame_from_rows(schema.LINES, [{"source": "ask('Who is Ada?')"}]),
            },
        )
        shared = to_share(profile, content=False)
        found = everything(shared)
        assert "Ada" not in found
        assert "pioneer" not in found
        kept = json.loads(shared.spans["attributes"].iloc[0])
        assert kept["request"] == "[left out: 11 characters]"
        assert kept["response"] == "[left out: 10 characters]"
        assert kept["reason"] == "default"
        assert kept["gen_ai.request.model"] == "claude"
        assert kept["gen_ai.request.max_tokens"] == 5
        assert (kept["is_good"], kept["score"], kept["scores"]) == (True, 0.5, [1, 2])
        assert kept["own"] == {"text": "[left out: 11 characters]", "n": 3}
        assert shared.spans["error"].iloc[0] == "ModelError: [left out: 27 characters]"
        assert (shared.spans["agent"].iloc[0], shared.spans["output_tokens"].iloc[0]) == ("qa", 3)
        assert shared.meta["source"] == "[left out: 18 characters]"

    @pytest.mark.parametrize("folder", SAMPLES, ids=lambda folder: folder.name)
    def test_what_is_measured_of_a_sample_is_the_same(self, folder: Path) -> None:
        profile = claude_pm.load(folder)
        shared = to_share(profile, content=False)
        texts = [json.loads(row) for row in profile.spans["attributes"]]
        contents = {row[key] for row in texts for key in ("request", "response") if key in row}
        found = everything(shared)
        assert contents
        assert not any(text in found for text in contents)
        assert shared.summary().equals(profile.summary())
        columns = [name for name in profile.spans.columns if name != "attributes"]
        assert shared.spans[columns].equals(profile.spans[columns])


class TestProfile:
    def test_the_given_one_is_untouched(self) -> None:
        profile, before = full(KEYS["Groq key"]), full(KEYS["Groq key"])
        to_share(profile, content=False).save  # noqa: B018
        everything(to_share(profile, content=False))
        assert same(profile, before)

    def test_tables_are_made_when_asked_for(self) -> None:
        asked: list[str] = []

        def table(name: str) -> Any:
            asked.append(name)
            return schema.frame(schema.TABLES[name])

        profile = Profile(full("x").meta, {name: partial(table, name) for name in schema.TABLES})
        shared = to_share(profile)
        assert asked == []
        assert len(shared.spans) == 0
        assert asked == ["spans"]

    def test_refuses_one_that_is_still_recorded(self) -> None:
        with pytest.raises(ProfileError, match="still being recorded"):
            to_share(Profile({"name": "x"}, None))

    def test_attributes_that_are_no_json(self) -> None:
        rows = [{"attributes": f"no json {KEYS['Groq key']}"}, {"attributes": r'{"a": "\ud800"}'}]
        profile = Profile(full("x").meta, {"spans": schema.frame_from_rows(schema.SPANS, rows)})
        shared = to_share(profile).spans["attributes"].tolist()
        assert shared == ["no json [secret: Groq key]", r'{"a": "\ud800"}']
        assert to_share(profile, content=False).spans["attributes"].iloc[1] == (
            '{"a": "[left out: 1 characters]"}'
        )
