"""Settings: what each CLAUDE_PM_* variable may be, and what is said where it is not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from claude_pm.errors import SettingsError
from claude_pm.model_names import EMBEDDED
from claude_pm.settings import Settings, read_settings, variable_name

KEY = "sk-ant-very-secret-0123456789"


def case(variable: str, text: str, value: Any) -> Any:
    """A table's row whose id reads as it would be typed in a shell."""
    return pytest.param(variable, text, value, id=f"{variable}={text}")


class TestVariables:
    """One environment variable a setting."""

    def test_defaults(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """With nothing set: LOCAL, the embedded model, caches on, and no limit but time."""
        for field in Settings.model_fields:
            monkeypatch.delenv(variable_name(field), raising=False)
        assert read_settings().public() == {
            "orchestration_mode": "local",
            "force_subprocess_mode": False,
            "cache_enabled": True,
            "max_workers": 4,
            "request_timeout": 60.0,
            "model": EMBEDDED,
            "base_url": None,
            "memory_limit_mb": None,
            "profiles_dir": "profiles",
            "model_dir": None,
            "max_tokens": None,
            "api_key_set": False,
        }

    @pytest.mark.parametrize(
        ("variable", "text", "value"),
        [
            case("CLAUDE_PM_ORCHESTRATION_MODE", "subprocess", "subprocess"),
            case("CLAUDE_PM_ORCHESTRATION_MODE", "HYBRID", "hybrid"),
            case("CLAUDE_PM_ORCHESTRATION_MODE", " Local ", "local"),
            case("CLAUDE_PM_FORCE_SUBPROCESS_MODE", "true", True),
            case("CLAUDE_PM_FORCE_SUBPROCESS_MODE", "0", False),
            case("CLAUDE_PM_CACHE_ENABLED", "false", False),
            case("CLAUDE_PM_CACHE_ENABLED", "on", True),
            case("CLAUDE_PM_MAX_WORKERS", "1", 1),
            case("CLAUDE_PM_REQUEST_TIMEOUT", "0.5", 0.5),
            case("CLAUDE_PM_MODEL", "claude-haiku-4-5", "claude-haiku-4-5"),
            case("CLAUDE_PM_MODEL", "/models/tiny.gguf", "/models/tiny.gguf"),
            case("CLAUDE_PM_BASE_URL", "http://127.0.0.1:8080", "http://127.0.0.1:8080"),
            case("CLAUDE_PM_MEMORY_LIMIT_MB", "1024", 1024),
            case("CLAUDE_PM_PROFILES_DIR", "/data/profiles", Path("/data/profiles")),
            case("CLAUDE_PM_MODEL_DIR", "/data/models", Path("/data/models")),
            case("CLAUDE_PM_MAX_TOKENS", "1", 1),
        ],
    )
    def test_allowed(
        self, monkeypatch: pytest.MonkeyPatch, variable: str, text: str, value: object
    ) -> None:
        """A variable's text becomes a value of the setting's type."""
        monkeypatch.setenv(variable, text)
        field = variable.removeprefix("CLAUDE_PM_").lower()
        assert getattr(read_settings(), field) == value

    def test_every_setting_has_its_variable(self) -> None:
        """The contract's variables are exactly the settings there are."""
        assert {variable_name(field) for field in Settings.model_fields} == {
            "CLAUDE_PM_ORCHESTRATION_MODE",
            "CLAUDE_PM_FORCE_SUBPROCESS_MODE",
            "CLAUDE_PM_CACHE_ENABLED",
            "CLAUDE_PM_MAX_WORKERS",
            "CLAUDE_PM_REQUEST_TIMEOUT",
            "CLAUDE_PM_MODEL",
            "CLAUDE_PM_BASE_URL",
            "CLAUDE_PM_API_KEY",
            "CLAUDE_PM_MEMORY_LIMIT_MB",
            "CLAUDE_PM_PROFILES_DIR",
            "CLAUDE_PM_MODEL_DIR",
            "CLAUDE_PM_MAX_TOKENS",
        }

    def test_settings_are_values(self) -> None:
        """Settings that were read do not change."""
        with pytest.raises(ValidationError):
            read_settings().max_workers = 8  # type: ignore[misc]

    @pytest.mark.parametrize(
        "variable", ["ANTHROPIC_API_KEY", "CLAUDE_PM_MODEL", "CLAUDE_PM_MAX_WORKERS"]
    )
    def test_set_to_nothing_is_not_set(
        self, monkeypatch: pytest.MonkeyPatch, variable: str
    ) -> None:
        """A variable that is set to nothing counts as not set."""
        unset = read_settings()
        monkeypatch.setenv(variable, "")
        assert read_settings() == unset

    @pytest.mark.parametrize(
        ("variable", "base_url", "is_there"),
        [
            ("ANTHROPIC_API_KEY", None, True),
            ("ANTHROPIC_API_KEY", "https://api.anthropic.com", True),
            ("ANTHROPIC_API_KEY", "http://127.0.0.1:11434", False),
            ("ANTHROPIC_API_KEY", "https://notanthropic.com", False),
            ("CLAUDE_PM_API_KEY", "http://127.0.0.1:11434", True),
        ],
    )
    def test_claudes_key_is_for_claude(
        self, monkeypatch: pytest.MonkeyPatch, variable: str, base_url: str | None, is_there: bool
    ) -> None:
        """ANTHROPIC_API_KEY is not sent to another server; CLAUDE_PM_API_KEY goes where it says."""
        monkeypatch.setenv(variable, "sk-1")
        assert (read_settings(base_url=base_url).api_key is not None) is is_there

    def test_password_in_an_address(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """An address with a password is refused, without showing it."""
        monkeypatch.setenv("CLAUDE_PM_BASE_URL", "https://me:s3cret@host/v1")
        with pytest.raises(SettingsError, match="CLAUDE_PM_API_KEY") as caught:
            read_settings()
        assert "s3cret" not in str(caught.value)


class TestRefusals:
    """A bad value is one sentence: the variable, the value, what it may be."""

    @pytest.mark.parametrize(
        ("variable", "text", "may_be"),
        [
            case("CLAUDE_PM_ORCHESTRATION_MODE", "remote", "LOCAL, SUBPROCESS or HYBRID"),
            case("CLAUDE_PM_FORCE_SUBPROCESS_MODE", "maybe", "true or false"),
            case("CLAUDE_PM_CACHE_ENABLED", "2", "true or false"),
            case("CLAUDE_PM_MAX_WORKERS", "0", "a whole number from 1"),
            case("CLAUDE_PM_MAX_WORKERS", "many", "a whole number from 1"),
            case("CLAUDE_PM_MAX_WORKERS", "2.5", "a whole number from 1"),
            case("CLAUDE_PM_REQUEST_TIMEOUT", "0", "seconds, more than 0"),
            case("CLAUDE_PM_REQUEST_TIMEOUT", "-1", "seconds, more than 0"),
            case("CLAUDE_PM_REQUEST_TIMEOUT", "inf", "seconds, more than 0"),
            case("CLAUDE_PM_REQUEST_TIMEOUT", "nan", "seconds, more than 0"),
            case("CLAUDE_PM_REQUEST_TIMEOUT", "5s", "seconds, more than 0"),
            case("CLAUDE_PM_BASE_URL", "localhost:8080", "http(s) address"),
            case("CLAUDE_PM_BASE_URL", "ftp://models", "http(s) address"),
            case("CLAUDE_PM_BASE_URL", "https://", "http(s) address"),
            case("CLAUDE_PM_MEMORY_LIMIT_MB", "1023", "a whole number from 1024"),
            case("CLAUDE_PM_MAX_TOKENS", "0", "a whole number from 1"),
        ],
    )
    def test_refused(
        self, monkeypatch: pytest.MonkeyPatch, variable: str, text: str, may_be: str
    ) -> None:
        """The sentence names the variable and the value as given, and says what it may be."""
        monkeypatch.setenv(variable, text)
        with pytest.raises(SettingsError) as caught:
            read_settings()
        message = str(caught.value)
        assert message.startswith(f"{variable} is {text!r}, which is not allowed; it may be ")
        assert may_be in message
        assert message.endswith(".")
        assert "\n" not in message

    def test_all_refusals_are_told(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Two bad values are two sentences, so that nobody has to try twice."""
        monkeypatch.setenv("CLAUDE_PM_MAX_WORKERS", "0")
        monkeypatch.setenv("CLAUDE_PM_MAX_TOKENS", "none")
        with pytest.raises(SettingsError, match=r"CLAUDE_PM_MAX_WORKERS is '0'.*\. CLAUDE_PM_MAX"):
            read_settings()

    def test_keyword_is_refused_by_its_variable(self) -> None:
        """A bad keyword is reported under the variable it stands in for."""
        with pytest.raises(SettingsError, match=r"^CLAUDE_PM_MAX_WORKERS is -3, which"):
            read_settings(max_workers=-3)


class TestOverrides:
    """Keywords stand in for variables."""

    def test_keyword_wins(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A keyword comes before the environment."""
        monkeypatch.setenv("CLAUDE_PM_MAX_WORKERS", "2")
        assert read_settings(max_workers=7).max_workers == 7

    def test_none_is_not_given(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A keyword of None leaves the environment's value."""
        monkeypatch.setenv("CLAUDE_PM_MAX_WORKERS", "2")
        assert read_settings(max_workers=None).max_workers == 2

    def test_unknown(self) -> None:
        """An unknown keyword is named, with all that there are."""
        with pytest.raises(SettingsError) as caught:
            read_settings(max_worker=2)
        assert "no setting named 'max_worker'" in str(caught.value)
        for field in Settings.model_fields:
            assert field in str(caught.value)


class TestKey:
    """The key is read from two places and shown in none."""

    @pytest.mark.parametrize(
        ("environment", "key"),
        [
            pytest.param({}, None, id="neither"),
            pytest.param({"CLAUDE_PM_API_KEY": "ours"}, "ours", id="ours"),
            pytest.param({"ANTHROPIC_API_KEY": "theirs"}, "theirs", id="theirs"),
            pytest.param(
                {"ANTHROPIC_API_KEY": "theirs", "CLAUDE_PM_API_KEY": "ours"}, "ours", id="both"
            ),
        ],
    )
    def test_source(
        self, monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], key: str | None
    ) -> None:
        """ANTHROPIC_API_KEY will do; CLAUDE_PM_API_KEY wins over it."""
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        found = read_settings().api_key
        assert (found.get_secret_value() if found is not None else None) == key

    @pytest.mark.parametrize("variable", ["CLAUDE_PM_API_KEY", "ANTHROPIC_API_KEY"])
    def test_keyword_wins(self, monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
        """A key given as keyword comes before both variables."""
        monkeypatch.setenv(variable, "environment")
        found = read_settings(api_key="keyword").api_key
        assert found is not None
        assert found.get_secret_value() == "keyword"

    def test_public_has_no_secret(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The public values are JSON and say only whether there is a key."""
        monkeypatch.setenv("ANTHROPIC_API_KEY", KEY)
        public = read_settings().public()
        assert public["api_key_set"] is True
        assert "api_key" not in public
        assert KEY not in json.dumps(public)

    def test_never_shown(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Neither the settings' text nor their dump shows the key."""
        monkeypatch.setenv("CLAUDE_PM_API_KEY", KEY)
        settings = read_settings()
        for shown in (repr(settings), str(settings), settings.model_dump_json()):
            assert KEY not in shown

    @pytest.mark.parametrize("field", ["api_key", "max_workers"])
    def test_not_in_a_refusal(self, monkeypatch: pytest.MonkeyPatch, field: str) -> None:
        """A refusal shows no key, whether the key is what is wrong or not."""
        monkeypatch.setenv("CLAUDE_PM_API_KEY", KEY)
        bad: dict[str, object] = {"api_key": KEY.encode() * 2 + b"\xff", "max_workers": 0}
        with pytest.raises(SettingsError) as caught:
            read_settings(**{field: bad[field]})
        assert str(caught.value).startswith(variable_name(field))
        assert KEY not in str(caught.value)
        assert caught.value.__suppress_context__
