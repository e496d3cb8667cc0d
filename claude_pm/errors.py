"""Every error that claude_pm raises on purpose.

::

    ClaudePMError
    ├── SettingsError                a CLAUDE_PM_* value or an option that is not allowed
    ├── RequestError                 the request cannot be served: empty, of a wrong type
    ├── AgentError
    │   ├── UnknownAgentError        no agent of that name
    │   └── AgentFileError           an agent's Markdown file that cannot be read
    ├── ModeError                    no such orchestration mode, or one that cannot be had here
    ├── ModelError
    │   ├── UnknownModelError        the server does not know the model
    │   ├── WeightsError             the weights could not be fetched, or are wrong
    │   ├── ModelConnectionError     nobody answers at the address        (retried)
    │   ├── ModelAuthenticationError the key was refused
    │   ├── ModelRequestError        the server refused the request
    │   │   └── ContextTooLongError  the prompt does not fit the model's context
    │   ├── ModelOverloadedError     rate limit, overload, server fault   (retried)
    │   └── ModelResponseError       an answer that is not of the Messages API
    ├── BusError                     a handler of the message bus broke its contract
    │   └── BusClosedError           the bus, or its orchestrator, was shut down
    ├── WorkerError                  a SUBPROCESS worker crashed or spoke nonsense
    ├── OrchestrationTimeoutError    the request took longer than it may (also a TimeoutError)
    ├── RecordingError               a profile cannot be recorded now (another profiler is on)
    ├── ComparisonError              the samples, profiles or metrics cannot be compared
    └── ProfileError
        ├── ProfileNotFoundError     no profile at that path or of that id
        ├── ProfileDamagedError      files are missing or cannot be read
        ├── ProfileSchemaError       the tables are not of this version's schema
        └── ProfileStorageError      the disk refused to store it

A message is one sentence, or a few: what was wrong, where, and what to do about it.
"""

from __future__ import annotations


class ClaudePMError(Exception):
    """Base of all errors that claude_pm raises on purpose."""

    def _render_traceback_(self) -> list[str]:
        """Return what IPython shows in place of a traceback: the message says it all."""
        return [f"{type(self).__name__}: {self}"]


class SettingsError(ClaudePMError):
    """A setting has a value that it may not have."""


class RequestError(ClaudePMError):
    """The request cannot be served as it is: empty, or of a wrong type."""


class AgentError(ClaudePMError):
    """Something is wrong with an agent."""


class UnknownAgentError(AgentError):
    """There is no agent of that name."""


class AgentFileError(AgentError):
    """An agent's Markdown file cannot be read."""


class ModeError(ClaudePMError):
    """The orchestration mode does not exist, or cannot be had here."""


class ModelError(ClaudePMError):
    """The model could not answer.

    ``retry_after_s`` is the wait that the server asked for, in seconds, or None.
    """

    retryable = False

    def __init__(self, message: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class UnknownModelError(ModelError):
    """The server does not know the model."""


class WeightsError(ModelError):
    """The weights could not be fetched, or are not what they should be."""


class ModelConnectionError(ModelError):
    """Nobody answers at the model's address, or the connection broke."""

    retryable = True


class ModelAuthenticationError(ModelError):
    """The server refused the key."""


class ModelRequestError(ModelError):
    """The server refused the request."""


class ContextTooLongError(ModelRequestError):
    """The prompt does not fit the model's context."""


class ModelOverloadedError(ModelError):
    """The server is overloaded, limits the rate, or has a fault of its own."""

    retryable = True


class ModelResponseError(ModelError):
    """The server's answer is not one of the Messages API."""


class BusError(ClaudePMError):
    """A handler of the message bus did not keep to what handlers have to do."""


class BusClosedError(BusError):
    """The bus was shut down: it takes no message, and ended this one if it was on its way."""


class WorkerError(ClaudePMError):
    """A SUBPROCESS worker crashed, could not start, or answered nonsense."""


class OrchestrationTimeoutError(ClaudePMError, TimeoutError):
    """The request took longer than its time limit and was cancelled."""


class RecordingError(ClaudePMError):
    """A profile cannot be recorded now."""


class ComparisonError(ClaudePMError):
    """What was given cannot be compared."""


class ProfileError(ClaudePMError):
    """Something is wrong with a profile."""


class ProfileNotFoundError(ProfileError):
    """There is no profile at that path, or of that id."""


class ProfileDamagedError(ProfileError):
    """A profile's files are missing or cannot be read."""


class ProfileSchemaError(ProfileError):
    """The tables are not of the schema that this version reads."""


class ProfileStorageError(ProfileError):
    """The profile could not be stored; nothing half-written was left behind."""


def error_class(name: str) -> type[ClaudePMError]:
    """Return the class of that name, or ``ClaudePMError`` for a name from elsewhere.

    A worker process reports its error by class name; this finds the class again.
    """
    found = globals().get(name)
    if isinstance(found, type) and issubclass(found, ClaudePMError):
        return found
    return ClaudePMError
