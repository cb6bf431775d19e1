"""What partywall raises. Every refusal is a `TenancyError` and is logged once, where it is raised."""

from __future__ import annotations

import logging
from typing import Any, TypeVar

_log = logging.getLogger("partywall")
_log.addHandler(logging.NullHandler())


class TenancyError(Exception):
    """Something was refused; `details` holds the names and values that disagree, never row data."""

    def __init__(self, message: str = "", /, **details: Any) -> None:
        super().__init__(message)
        self.details = details

    def to_dict(self) -> dict[str, Any]:
        """For logs and tests. It may name two tenants, so it is not for an HTTP body."""
        told = {"error": type(self).__name__, "message": str(self)}
        details = {name: _plain(value) for name, value in self.details.items()}
        return told | details | told


class MissingTenantContextError(TenancyError):
    """No tenant is current, and owned rows were asked for."""

    def __init__(
        self,
        message: str = (
            "No tenant is current. Wrap the call in 'with SessionScope(...)', "
            "or in 'with unscoped(\"why\")' if it must see every row."
        ),
        /,
        **details: Any,
    ) -> None:
        super().__init__(message, **details)


class CrossTenantAccessError(TenancyError):
    """A row, an object or a session belongs to another tenant than the current one."""


class CrossTenantReferenceError(CrossTenantAccessError):
    """A foreign key would point from one tenant's row to another's."""


class UnscopedStatementError(TenancyError):
    """The statement cannot be kept inside one tenant, so it is not run."""


class ConfigurationError(TenancyError):
    """A model, an engine or a version that partywall cannot guard."""


class MalformedTenantError(ConfigurationError):
    """A value that cannot be a tenant, as a request may bring it."""

    def __init__(self, message: str = "The tenant is malformed.", /, **details: Any) -> None:
        super().__init__(message, **details)


class UnknownTenantError(TenancyError):
    """There is no such tenant, or not for this caller."""

    def __init__(self, message: str = "The tenant is unknown.", /, **details: Any) -> None:
        super().__init__(message, **details)


_E = TypeVar("_E", bound=TenancyError)


def refused(error: _E) -> _E:
    """Log a refusal and hand it back to be raised."""
    _log.warning(
        "refused: %s",
        error,
        extra={"event": "refused", "error": type(error).__name__, "details": error.details},
    )
    return error


def _plain(value: Any) -> Any:
    return value if isinstance(value, (str, int, float, bool, type(None))) else str(value)
