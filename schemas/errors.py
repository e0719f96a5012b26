"""The error tree, the codes of the errors, and who must act on each. Knows nothing of what causes an error.

TailraceError
├── SettingsError            the operator must act: the message names the setting
├── RequestRejected          the caller must act; nothing was enqueued
│   ├── RequestTooLarge
│   └── RequestConflict      a request with this id exists, with other content
├── UpstreamError            the model's server
│   ├── UpstreamUnavailable  429, 5xx, timeout, connection lost: trying again may help
│   ├── UpstreamRefused      400, 401, 403, 404, policy: trying again will not help
│   └── UpstreamProtocol     the stream is malformed or incomplete
├── StoreError               Redis
│   ├── StoreUnavailable     it cannot be reached or used for now: the same operation may be sent again
│   │   └── ResultsUnavailable   the same for the database of outcomes; Redis keeps them meanwhile
│   ├── StoreFull            out of memory
│   └── StoreRefused         missing rights, wrong password, not a Redis
├── AttemptLost              another attempt has begun, or the log is gone: stop writing
├── LogFull                  an attempt reached the maximum of entries or bytes of its log
├── AccessDenied             an API key or token is missing, or does not allow the call
├── TokenInvalid             a token is malformed, forged or expired
├── LimitExceeded            a call exceeds a limit of the gateway
├── DeadlineExceeded         the request's deadline, counted from submit, passed
└── TailError
    ├── UnknownRequest       no such id, or its lifetime is over
    ├── CursorInvalid        not a cursor of this log
    ├── TextDiscarded        `Tail.text`: the text given so far is not part of the answer
    └── RequestFailed        `Tail.text`: the request failed
"""

from typing import Literal, Self

Whose = Literal["caller", "operator", "provider"]


class TailraceError(Exception):
    """The root of all errors Tailrace raises on purpose.

    `code` is a stable identifier for programs, `str(error)` a message for people; `whose` names who must act.
    """

    code: str = "internal"
    whose: Whose = "operator"

    def with_context(self, *, before: str = "", after: str = "") -> Self:
        """A new error of the same class with more text around its message. All attributes are kept.

        Without arguments it is a copy, for one error that is raised several times: each raise adds to its traceback.
        """
        return self.with_message(f"{before}{self}{after}")

    def with_message(self, message: str) -> Self:
        """A new error of the same class and attributes with another message."""
        error = type(self).__new__(type(self), message)
        error.__dict__.update(self.__dict__)
        return error


class SettingsError(TailraceError):
    """A setting is missing, unknown or out of range; the message names it and how to fix it."""

    code = "settings_invalid"


class RequestRejected(TailraceError):
    """The request cannot be accepted as it is; nothing was enqueued."""

    code = "request_invalid"
    whose: Whose = "caller"


class RequestTooLarge(RequestRejected):
    """The request is larger than the limit; the message names both sizes."""

    code = "request_too_large"


class RequestConflict(RequestRejected):
    """A request with this id exists and has other content."""

    code = "request_conflict"


class UpstreamError(TailraceError):
    """The model's server did not give a whole answer.

    Args:
        message: what happened, without any secret.
        code: such as `upstream_429`, `upstream_timeout`, `upstream_truncated`.
        whose: who must act.
        status: the HTTP status, if there was one.
        retry_after_s: the wait that the server asked for, in seconds, if it did.
    """

    def __init__(
        self,
        message: str,
        *,
        code: str,
        whose: Whose = "provider",
        status: int | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.whose = whose
        self.status = status
        self.retry_after_s = retry_after_s


class UpstreamUnavailable(UpstreamError):
    """429, 5xx, timeout or a lost connection: another try may help."""


class UpstreamRefused(UpstreamError):
    """The server refused the request: another try will not help."""


class UpstreamProtocol(UpstreamError):
    """The body is malformed, or stopped before its end: handled as a lost connection."""


class StoreError(TailraceError):
    """An operation on Redis failed."""

    code = "store_error"


class StoreUnavailable(StoreError):
    """Redis cannot be reached, or cannot be used for now: a lost connection, a replica, a server that is loading.

    The same operation may be sent again.
    """

    code = "store_unavailable"


class ResultsUnavailable(StoreUnavailable):
    """The database of outcomes cannot be used now, or as it is; Redis keeps the outcomes meanwhile."""

    code = "results_unavailable"


class StoreFull(StoreError):
    """Redis is out of memory (`OOM`); nothing of the commit was written."""

    code = "store_full"


class StoreRefused(StoreError):
    """Redis refuses, and a retry will not help: missing rights, a wrong password, a cluster node named as a server."""

    code = "store_refused"


class AttemptLost(TailraceError):
    """This attempt may no longer write: a later one has begun, the request has ended, or its log is gone."""

    code = "attempt_lost"


class LogFull(TailraceError):
    """The attempt reached the maximum of entries or bytes of its log; its entries are kept."""

    code = "log_full"


class AccessDenied(TailraceError):
    """The caller has no valid API key or token, or it does not allow this call.

    Args:
        message: what is missing or not allowed.
        status: the HTTP status of the response: 401 or 403.
    """

    code = "access_denied"
    whose: Whose = "caller"

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class TokenInvalid(TailraceError):
    """The token is malformed or forged, was signed with another secret, or has expired."""

    code = "token_invalid"
    whose: Whose = "caller"


class LimitExceeded(TailraceError):
    """A call exceeds a limit of the gateway.

    Args:
        message: which limit.
        status: the HTTP status of the response.
        retry_after_s: seconds after which the caller may try again, if that helps.
    """

    code = "limit"
    whose: Whose = "caller"

    def __init__(self, message: str, status: int, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.retry_after_s = retry_after_s


class DeadlineExceeded(TailraceError):
    """The request did not end before its deadline, which counts from submit."""

    code = "deadline_exceeded"
    whose: Whose = "caller"


class TailError(TailraceError):
    """A log cannot be followed."""

    code = "tail_error"
    whose: Whose = "caller"


class UnknownRequest(TailError):
    """No request has this id, or its lifetime is over."""

    code = "unknown_request"

    @classmethod
    def of(cls, request_id: str) -> Self:
        """The error for an id without a record and log."""
        return cls(f"no request has the id {request_id[:80]!r}, or its lifetime is over")


class CursorInvalid(TailError):
    """The cursor is malformed, or no entry of this log can have it."""

    code = "cursor_invalid"


class TextDiscarded(TailError):
    """The text that `Tail.text` has given so far is not part of the answer.

    Args:
        message: why.
        cursor: the text restarts after it; None if the log no longer has the whole text: read the outcome.
    """

    code = "text_discarded"

    def __init__(self, message: str, cursor: str | None) -> None:
        super().__init__(message)
        self.cursor = cursor


class RequestFailed(TailError):
    """The request ended as failed; `code` and `whose` are those of the failure.

    Args:
        message: what happened.
        code: the code of the failure, such as `upstream_429`.
        whose: who must act.
    """

    def __init__(self, message: str, *, code: str, whose: Whose) -> None:
        super().__init__(message)
        self.code = code
        self.whose = whose
