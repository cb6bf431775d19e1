"""What a refused request is told: problem+json (RFC 9457), and never which tenants exist."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property

from .errors import (
    CrossTenantAccessError,
    MalformedTenantError,
    MissingTenantContextError,
    TenancyError,
    UnknownTenantError,
)


@dataclass(frozen=True)
class Problem:
    status: int
    title: str
    detail: str

    @cached_property
    def body(self) -> bytes:
        return json.dumps(
            {
                "type": "about:blank",
                "title": self.title,
                "status": self.status,
                "detail": self.detail,
            }
        ).encode()

    @cached_property
    def headers(self) -> dict[str, str]:
        return {
            "content-type": "application/problem+json",
            "content-length": str(len(self.body)),
            "cache-control": "no-store",
        }


_NOT_FOUND = Problem(404, "Not Found", "There is nothing here.")

_PROBLEMS: dict[type[BaseException], Problem] = {
    MissingTenantContextError: Problem(400, "Bad Request", "This request needs a tenant."),
    MalformedTenantError: Problem(400, "Bad Request", "The tenant is malformed."),
    UnknownTenantError: _NOT_FOUND,
    CrossTenantAccessError: _NOT_FOUND,
}

ANSWERED = (
    MissingTenantContextError,
    MalformedTenantError,
    UnknownTenantError,
    CrossTenantAccessError,
)


def problem_of(error: TenancyError) -> Problem:
    """What the client is told of an error in `ANSWERED`; the others are the application's own."""
    return next(_PROBLEMS[kind] for kind in type(error).__mro__ if kind in _PROBLEMS)
