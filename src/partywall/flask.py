"""Flask: the middleware, what a refused client is told, and commands with `--tenant`.

It opens no session. Use your own, or Flask-SQLAlchemy's.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextlib import closing
from typing import Any, TypeVar, cast

import click
from flask import Flask, Response

from .context import tenant_scope
from .errors import MalformedTenantError, TenancyError
from .middleware import OnMissingTenant, ResolveTenantNow, TenantSessionMiddlewareWSGI
from .problems import ANSWERED, problem_of

_KEPT = "werkzeug.debug.preserve_context"
_F = TypeVar("_F", bound=Callable[..., Any])


def init_app(
    app: Flask, *, resolve_tenant: ResolveTenantNow, on_missing_tenant: OnMissingTenant = "defer"
) -> None:
    """Bind a tenant to every request of the application; `resolve_tenant` receives the environ."""
    if "partywall" in app.extensions:
        raise RuntimeError("partywall is already set up on this application.")

    wsgi_app = app.wsgi_app

    def buffered(environ: Any, start_response: Any) -> Any:
        body = wsgi_app(environ, start_response)
        if _KEPT not in environ:
            return body

        # `with app.test_client():` enters the request's context anew, outside of the copy it was
        # made in. A streaming body must be through with it by then.
        with closing(cast(Any, body)):
            return list(body)

    app.extensions["partywall"] = middleware = TenantSessionMiddlewareWSGI(
        buffered, resolve_tenant=resolve_tenant, on_missing_tenant=on_missing_tenant
    )
    setattr(app, "wsgi_app", middleware)  # noqa: B010 - an assignment would be to a method
    for kind in ANSWERED:
        app.register_error_handler(kind, _answer)


def with_tenant(*, type: Any = str) -> Callable[[_F], _F]:
    """Give a command the option `--tenant`, and run it inside that tenant.

    ```python
    @app.cli.command("close-month")
    @with_tenant()
    def close_month() -> None: ...
    ```
    """

    def decorate(function: _F) -> _F:
        @click.option("--tenant", required=True, type=type, help="Whose rows the command sees.")
        @functools.wraps(function)
        def command(*args: Any, tenant: Any, **kwargs: Any) -> Any:
            try:
                scope = tenant_scope(tenant)
            except MalformedTenantError as error:
                raise click.BadParameter(str(error), param_hint="--tenant") from None

            with scope:
                return function(*args, **kwargs)

        return cast(_F, command)

    return decorate


def _answer(error: TenancyError) -> Response:
    problem = problem_of(error)
    return Response(problem.body, problem.status, problem.headers)
