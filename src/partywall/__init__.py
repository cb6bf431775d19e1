"""Multi-tenant row isolation for SQLAlchemy, sync and async."""

from . import sessions as _sessions  # noqa: F401  has the first mark install everything
from .context import (
    TenantContext,
    TenantId,
    atenant_scope,
    bind_tenant,
    current_tenant,
    tenant_scope,
    try_current_tenant,
    unscoped,
)
from .errors import (
    ConfigurationError,
    CrossTenantAccessError,
    CrossTenantReferenceError,
    MalformedTenantError,
    MissingTenantContextError,
    TenancyError,
    UnknownTenantError,
    UnscopedStatementError,
)
from .explain import Explanation, explain
from .jobs import afor_each_tenant, capture, for_each_tenant, restore
from .middleware import TenantSessionMiddleware, TenantSessionMiddlewareWSGI
from .ownership import tenant_aware, tenant_table
from .rawsql import tenant_text
from .scopes import (
    AsyncSessionScope,
    SessionScope,
    bind_async_session_to_tenant,
    bind_session_to_tenant,
)

__all__ = [
    "AsyncSessionScope",
    "ConfigurationError",
    "CrossTenantAccessError",
    "CrossTenantReferenceError",
    "Explanation",
    "MalformedTenantError",
    "MissingTenantContextError",
    "SessionScope",
    "TenancyError",
    "TenantContext",
    "TenantId",
    "TenantSessionMiddleware",
    "TenantSessionMiddlewareWSGI",
    "UnknownTenantError",
    "UnscopedStatementError",
    "afor_each_tenant",
    "atenant_scope",
    "bind_async_session_to_tenant",
    "bind_session_to_tenant",
    "bind_tenant",
    "capture",
    "current_tenant",
    "explain",
    "for_each_tenant",
    "restore",
    "tenant_aware",
    "tenant_scope",
    "tenant_table",
    "tenant_text",
    "try_current_tenant",
    "unscoped",
]
