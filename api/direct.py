"""Calls that take nothing but the request go to their function directly.

FastAPI describes all calls, and works for those with parameters: it matches, copies, resolves and serialises. That is
most of what logging one event costs, and a call that reads its own body and makes its own answer needs none of it.
"""

import inspect
from collections.abc import Awaitable, Callable, Iterable

from fastapi import APIRouter, FastAPI, Request
from fastapi.responses import Response
from fastapi.routing import APIRoute
from starlette.types import ASGIApp, Receive, Scope, Send

from api.errors import answer_to


def direct_routes(routers: Iterable[APIRouter]) -> dict[tuple[str, str], APIRoute]:
    """Return the calls that can be reached so, by method and path: they take the request and return the response."""
    routes = [route for router in routers for route in router.routes if isinstance(route, APIRoute)]
    return {(method, route.path): route for route in routes if _is_direct(route) for method in route.methods or ()}


def _is_direct(route: APIRoute) -> bool:
    signature = inspect.signature(route.endpoint)
    answers = isinstance(signature.return_annotation, type) and issubclass(signature.return_annotation, Response)
    return list(signature.parameters) == ["request"] and answers and not route.dependencies


class DirectCalls:
    """Answers the direct calls, and hands everything else on."""

    def __init__(self, app: ASGIApp, *, routes: dict[tuple[str, str], APIRoute]) -> None:
        self._app, self._routes = app, routes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or hand on."""
        route = self._routes.get((scope.get("method", ""), scope.get("path", "")))
        if route is None:
            return await self._app(scope, receive, send)
        scope["route"] = route
        request = Request(scope, receive)
        endpoint: Callable[[Request], Awaitable[Response]] = route.endpoint
        try:
            response = await endpoint(request)
        except Exception as error:  # noqa: BLE001  # the request edge; what nobody expects is raised again
            response = await answer_to(request, error)
        return await response(scope, receive, send)


def add_direct_calls(app: FastAPI, routers: Iterable[APIRouter]) -> None:
    """Add them to an application, beneath the middleware that is added later."""
    app.add_middleware(DirectCalls, routes=direct_routes(routers))
