"""Routes requests: a photo for people, TensorFlow Serving's and the Open Inference Protocol for clients that exist."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import TypeVar

import numpy as np
from starlette.applications import Starlette
from starlette.convertors import Convertor, register_url_convertor
from starlette.datastructures import MutableHeaders, UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, HTMLResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pipeline.command import FormatError, installed_version
from trainer.serve import metrics, openapi, page
from trainer.serve.models import Model
from trainer.serve.protocols import open_inference, tf_serving
from trainer.serve.protocols.bodies import Answer
from trainer.serve.responses import JSON, error_response, json_response, kind_of, require_kind, split
from trainer.serve.service import Service

_T = TypeVar("_T")
_BESIDE_THE_LOOP = 1 << 18  # bytes of JSON, above which it is read in a thread
_MULTIPART, _BYTES = "multipart/form-data", "application/octet-stream"
# `curl -d`, as the documents of TensorFlow Serving have it, says that it sends a form.
_JSONS = (JSON, "", "application/x-www-form-urlencoded", "text/json")
_TOP = 5
_MOST_TOP = 1_000


def make_app(service: Service) -> ASGIApp:
    """Makes the application that answers for a service."""
    register_url_convertor("part", _Part())
    routes, versions = _Routes(service), "/versions/{version:part}"
    v1, v2 = "/v1/models/{name:part}", "/v2/models/{name:part}"
    table = [
        Route("/", routes.index),
        Route("/predict", routes.predict, methods=["POST"]),
        Route("/healthz", routes.healthz),
        Route("/readyz", routes.readyz),
        Route("/metrics", routes.metrics),
        Route("/openapi.json", routes.openapi),
        Route("/v2", routes.server),
        Route("/v2/health/live", routes.v2_live),
        Route("/v2/health/ready", routes.v2_ready),
    ]
    for at in ("", versions):
        table += [
            Route(f"{v1}{at}:predict", routes.tfs_predict, methods=["POST"]),
            Route(f"{v1}{at}", routes.tfs_status),
            Route(f"{v1}{at}/metadata", routes.tfs_metadata),
            Route(f"{v2}{at}", routes.v2_metadata),
            Route(f"{v2}{at}/ready", routes.v2_model_ready),
            Route(f"{v2}{at}/infer", routes.v2_infer, methods=["POST"]),
        ]
    handlers = {HTTPException: _refuse, FormatError: _refuse, ClientDisconnect: _refuse, Exception: _fail}
    app = Starlette(routes=table, exception_handlers=handlers)
    app.router.redirect_slashes = False
    return _Observed(app, service)


class _Part(Convertor[str]):
    """Matches a part of a path that ends before a verb: `NAME:predict`."""

    regex = "[^/:]+"

    def convert(self, value: str) -> str:
        return value

    def to_string(self, value: str) -> str:
        return value


class _Routes:
    """Answers requests, one method a route."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def index(self, request: Request) -> Response:
        own = page.own_page(self._service.model.place.export)
        if own:
            return FileResponse(own, media_type="text/html")
        return HTMLResponse(page.index(self._service, str(request.base_url).rstrip("/")))

    async def healthz(self, request: Request) -> Response:
        return json_response({"live": True})

    async def readyz(self, request: Request) -> Response:
        ready = not self._service.draining
        return json_response({"ready": ready}, 200 if ready else 503)

    async def metrics(self, request: Request) -> Response:
        text = self._service.metrics.text(waiting=self._service.intake.images)
        return Response(text, media_type=metrics.CONTENT_TYPE)

    async def openapi(self, request: Request) -> Response:
        model = self._service.model
        return json_response(openapi.document(self._service.name, model.version, model.labels, self._service.limits))

    async def predict(self, request: Request) -> Response:
        top = _top(request)
        kind = kind_of(request)
        if kind != _MULTIPART:
            images = kind if kind.startswith("image/") else ""
            require_kind(
                request, (_BYTES, images) if images else (_BYTES,),
                "send a photo as image/jpeg, image/png … or application/octet-stream, or files as "
                "multipart/form-data (curl -F image=@photo.jpg …)",
            )  # fmt: skip
        else:
            require_kind(request, (_MULTIPART,), "")
        model = self._service.model
        async with self._service.intake.body(request) as body:
            if kind == _MULTIPART:
                names, files = await _files(request, body, self._service.limits.waiting)
            else:
                names, files = [], [body]
            found = await self._service.answer(request, model, files)
        answers, refused = split(found, names)
        if refused:
            return refused
        rows = [_named(answer, model.labels, top) for answer in answers]
        known = {"model": self._service.name, "version": model.version}
        if kind != _MULTIPART:
            return json_response({**rows[0], **known})
        return json_response(
            {"predictions": [{"file": name, **row} for name, row in zip(names, rows, strict=True)], **known}
        )

    async def tfs_predict(self, request: Request) -> Response:
        model = self._model(request)
        require_kind(request, (*_JSONS, _BYTES), "send application/json")
        async with self._service.intake.body(request) as body:
            asked = await _read(body, lambda: tf_serving.read_predict(body))
            found = await self._service.answer(request, model, asked.images)
        answers, refused = split(found)
        return refused or json_response(tf_serving.predictions(answers, columns=asked.columns))

    async def tfs_status(self, request: Request) -> Response:
        return json_response(tf_serving.status(self._model(request).version))

    async def tfs_metadata(self, request: Request) -> Response:
        model = self._model(request)
        return json_response(tf_serving.metadata(self._service.name, model.version, classes=len(model.labels)))

    async def server(self, request: Request) -> Response:
        version = installed_version() or "0"
        return json_response({"name": "tpu-retraining", "version": version, "extensions": open_inference.EXTENSIONS})

    async def v2_live(self, request: Request) -> Response:
        return await self.healthz(request)

    async def v2_ready(self, request: Request) -> Response:
        return await self.readyz(request)

    async def v2_metadata(self, request: Request) -> Response:
        model = self._model(request)
        return json_response(open_inference.metadata(self._service.name, model.version, classes=len(model.labels)))

    async def v2_model_ready(self, request: Request) -> Response:
        self._model(request)
        return await self.readyz(request)

    async def v2_infer(self, request: Request) -> Response:
        model = self._model(request)
        require_kind(request, (*_JSONS, _BYTES), f"send {JSON}, or {_BYTES} with binary tensors")
        length = request.headers.get(open_inference.HEADER_LENGTH)
        async with self._service.intake.body(request) as body:
            asked = await _read(body, lambda: open_inference.read_infer(body, length))
            found = await self._service.answer(request, model, asked.images)
        answers, refused = split(found)
        if refused:
            return refused
        content, head = open_inference.infer_response(asked, answers, name=self._service.name, version=model.version)
        if head is None:
            return Response(content, media_type=JSON)
        return Response(content, headers={open_inference.HEADER_LENGTH: str(head)}, media_type=_BYTES)

    def _model(self, request: Request) -> Model:
        return self._service.model_for(request.path_params["name"], request.path_params.get("version"))


class _Observed:
    """Names the model in every answer, counts it, and ends connections while the server drains."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self._app = app
        self._service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start, status, version = time.perf_counter(), 500, ""
        state: dict[str, str] = {}
        scope["state"] = state

        async def answer(message: Message) -> None:
            nonlocal status, version
            if message["type"] == "http.response.start":
                status, version = message["status"], state.get("version", self._service.model.version)
                headers = MutableHeaders(raw=message["headers"])
                headers["x-model-version"] = version
                if self._service.draining:
                    headers["connection"] = "close"
            await send(message)

        try:
            await self._app(scope, receive, answer)
        finally:
            route = getattr(scope.get("endpoint"), "__name__", "none")
            self._service.metrics.request(route, status, version, time.perf_counter() - start)


async def _read(body: bytes, read: Callable[[], _T]) -> _T:
    """Reads a body; a long one in a thread, since the loop answers others meanwhile."""
    return await asyncio.to_thread(read) if len(body) > _BESIDE_THE_LOOP else read()


async def _files(request: Request, body: bytes, most: int) -> tuple[list[str], list[bytes]]:
    """Returns names and contents of the files of a form."""

    async def stream() -> AsyncIterator[bytes]:
        yield body

    try:
        form = await MultiPartParser(request.headers, stream(), max_files=most, max_fields=most).parse()  # type: ignore[arg-type]
    except (MultiPartException, ValueError) as error:  # ValueError: python-multipart's own, in older versions
        raise HTTPException(400, f"the form cannot be read: {getattr(error, 'message', error)}") from error
    names, files = [], []
    for field, value in form.multi_items():
        if not isinstance(value, UploadFile):
            raise HTTPException(
                400, f"the field {field[:100]!r} is no file; curl -F {field[:20] or 'image'}=@photo.jpg"
            )
        names.append(value.filename or "")
        files.append(await value.read())
    await form.close()
    if not files:
        raise HTTPException(400, "the form has no file; curl -F image=@photo.jpg …")
    return names, files


def _top(request: Request) -> int:
    given = request.query_params.get("top", str(_TOP))
    if not (given.isascii() and given.isdecimal() and len(given) < 5 and 1 <= int(given) <= _MOST_TOP):
        raise HTTPException(400, f"top={given[:40]!r}: must be 1 to {_MOST_TOP}")
    return int(given)


def _named(answer: Answer, labels: Sequence[str], top: int) -> dict[str, object]:
    best = np.argsort(-answer.probabilities, kind="stable")[:top].tolist()
    chances = answer.probabilities
    return {
        "label": answer.label,
        "probability": float(chances[answer.class_index]),
        "top": [{"label": labels[at], "probability": float(chances[at])} for at in best],
    }


async def _refuse(request: Request, error: Exception) -> Response:
    if isinstance(error, HTTPException):
        hint = "; / lists what there is" if error.status_code == 404 and error.detail == "Not Found" else ""
        return error_response(error.status_code, f"{error.detail}{hint}", error.headers)
    if isinstance(error, ClientDisconnect):
        return Response(status_code=400)  # nobody reads it
    return error_response(400, str(error))


async def _fail(request: Request, error: Exception) -> Response:
    return error_response(500, "a bug, or a machine that failed; the log of the server says more")
