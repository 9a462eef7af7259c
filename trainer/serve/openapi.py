"""Describes the server for programs: OpenAPI 3.1, of what it does and nothing else."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pipeline.command import installed_version
from trainer.serve.limits import Limits
from trainer.serve.protocols.bodies import CLASS_INDEX, LABEL, PROBABILITIES
from trainer.serving.signature import INPUT, SIGNATURE

_Object = dict[str, Any]
_ERRORS = {
    400: "Not understood, or an image is refused: which one, and why.",
    404: "There is no such model or version; the text names what there is.",
    408: "The body did not arrive in time.",
    413: "The body, or the number of images, is above the limit.",
    415: "The content type is not understood, or the body is compressed.",
    503: "Busy; try again after Retry-After seconds.",
}
_VERSION = {"x-model-version": {"description": "Version of the model.", "schema": {"type": "string"}}}


def document(name: str, version: str, labels: Sequence[str], limits: Limits) -> _Object:
    """Returns the description of a server of a model with these labels, in the version that it serves now."""
    predicts = {
        "/predict": {"post": _predict(limits)},
        **_each(f"/v1/models/{name}", ":predict", version, "post", "tfs_predict", _tfs_predict()),
        **_each(f"/v2/models/{name}", "/infer", version, "post", "infer", _infer()),
    }
    about = {
        **_each(
            f"/v1/models/{name}", "", version, "get", "tfs_status", _get("State of the version that is served.", 404)
        ),
        **_each(f"/v1/models/{name}", "/metadata", version, "get", "tfs_metadata", _get("The signature.", 404)),
        **_each(f"/v2/models/{name}", "", version, "get", "metadata", _get("Inputs and outputs.", 404)),
        **_each(f"/v2/models/{name}", "/ready", version, "get", "ready", _get("Whether it answers.", 404, 503)),
    }
    server = {
        "/": {"get": _text("text/html", "index", "A page to try the model with.")},
        "/healthz": {"get": {"operationId": "healthz", **_get("The process lives.")}},
        "/readyz": {"get": {"operationId": "readyz", **_get("Whether it takes requests.", 503)}},
        "/metrics": {"get": _text("text/plain", "metrics", "Counters for Prometheus.")},
        "/openapi.json": {"get": {"operationId": "openapi", **_get("This description.")}},
        "/v2": {"get": {"operationId": "server", **_get("The server and its extensions.")}},
        "/v2/health/live": {"get": {"operationId": "live", **_get("The process lives.")}},
        "/v2/health/ready": {"get": {"operationId": "server_ready", **_get("Whether it takes requests.", 503)}},
    }
    return {
        "openapi": "3.1.0",
        "info": {
            "title": name,
            "version": installed_version() or "0",
            "description": f"An image classifier of {len(labels)} labels.",
        },
        "paths": {**predicts, **about, **server},
        "components": {"schemas": _schemas()},
    }


def _each(start: str, end: str, version: str, method: str, key: str, operation: _Object) -> _Object:
    """Returns the paths without and with a version."""
    known = {"name": "version", "in": "path", "required": True, "schema": {"enum": [version]}}
    return {
        f"{start}{end}": {method: {"operationId": key, **operation}},
        f"{start}/versions/{{version}}{end}": {
            "parameters": [known],
            method: {"operationId": f"{key}_of_version", **operation},
        },
    }


def _json(schema: _Object) -> _Object:
    return {"application/json": {"schema": schema}}


def _ref(name: str) -> _Object:
    return {"$ref": f"#/components/schemas/{name}"}


def _answers(good: _Object, *errors: int) -> _Object:
    failed = {
        str(code): {"description": _ERRORS[code], "content": _json(_ref("Error")), "headers": _VERSION}
        for code in errors
    }
    return {"200": {"description": "Answered.", "content": good, "headers": _VERSION}, **failed}


def _get(summary: str, *errors: int) -> _Object:
    answers = _answers(_json({"type": "object"}), *(code for code in errors if code != 503))
    if 503 in errors:
        answers["503"] = {"description": "It does not.", "content": _json({"type": "object"}), "headers": _VERSION}
    return {"summary": summary, "responses": answers}


def _text(kind: str, key: str, summary: str) -> _Object:
    return {"operationId": key, "summary": summary, "responses": _answers({kind: {"schema": {"type": "string"}}})}


def _predict(limits: Limits) -> _Object:
    top = {"type": "integer", "minimum": 1, "maximum": 1000, "default": 5}
    files = {
        "type": "array",
        "minItems": 1,
        "maxItems": limits.waiting,
        "items": {"type": "string", "format": "binary"},
    }
    photo = {"schema": {"type": "string", "format": "binary"}}
    form = {"type": "object", "properties": {"image": files}, "required": ["image"]}
    return {
        "operationId": "predict",
        "summary": "Asks about a photo, or about the files of a form.",
        "description": f"A body may have {limits.body} bytes.",
        "parameters": [{"name": "top", "in": "query", "description": "Labels to name.", "schema": top}],
        "requestBody": {
            "required": True,
            "content": {"image/*": photo, "application/octet-stream": photo, "multipart/form-data": {"schema": form}},
        },
        "responses": _answers(_json({"anyOf": [_ref("Photo"), _ref("Photos")]}), 400, 408, 413, 415, 503),
    }


def _tfs_predict() -> _Object:
    return {
        "summary": "Asks as TensorFlow Serving's REST protocol does.",
        "requestBody": {"required": True, "content": _json(_ref("Predict"))},
        "responses": _answers(_json(_ref("Predicted")), 400, 404, 408, 413, 415, 503),
    }


def _infer() -> _Object:
    tensors = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}
    return {
        "summary": "Asks as the Open Inference Protocol does, in JSON or with binary tensors.",
        "parameters": [
            {
                "name": "Inference-Header-Content-Length", "in": "header", "required": False,
                "description": "Bytes of JSON before binary tensors; 0 if the body is one image.",
                "schema": {"type": "integer", "minimum": 0},
            }
        ],
        "requestBody": {"required": True, "content": {**_json(_ref("Infer")), **tensors}},
        "responses": _answers({**_json(_ref("Inferred")), **tensors}, 400, 404, 408, 413, 415, 503),
    }  # fmt: skip


def _object(required: Iterable[str], properties: Mapping[str, Any], **more: Any) -> _Object:
    return {"type": "object", "required": list(required), "properties": dict(properties), **more}


def _list(items: _Object, **more: Any) -> _Object:
    return {"type": "array", "items": items, **more}


def _schemas() -> _Object:
    text, number, integer = {"type": "string"}, {"type": "number"}, {"type": "integer"}
    image = _object(["b64"], {"b64": {"type": "string", "format": "byte"}}, additionalProperties=False)
    named = _object([INPUT], {INPUT: image}, additionalProperties=False)
    signature = {"enum": ["", SIGNATURE]}
    columns = {"anyOf": [_list(image, minItems=1), _object([INPUT], {INPUT: _list(image, minItems=1)},
                                                           additionalProperties=False)]}  # fmt: skip
    rows = _list({"anyOf": [image, named]}, minItems=1)
    answer = {LABEL: text, CLASS_INDEX: integer, PROBABILITIES: _list(number)}
    chance = {"label": text, "probability": number}
    photo = {**chance, "top": _list(_object(chance, chance))}
    known = {"model": text, "version": text}
    refused = {"index": integer, "file": text, "code": text, "reason": text}
    tensor = {"name": text, "datatype": text, "shape": _list(integer), "data": {"type": "array"},
              "parameters": {"type": "object"}}  # fmt: skip
    asked = {**tensor, "name": {"const": INPUT}, "datatype": {"const": "BYTES"},
             "shape": _list({"type": "integer", "minimum": 1}, minItems=1)}  # fmt: skip
    wanted = _object(
        ["name"], {"name": {"enum": [LABEL, CLASS_INDEX, PROBABILITIES]}, "parameters": {"type": "object"}}
    )
    return {
        "Error": _object(["error"], {"error": text, "images": _list(_object(["index", "code", "reason"], refused))}),
        "Photo": _object([*photo, *known], {**photo, **known}),
        "Photos": _object(
            ["predictions", *known], {"predictions": _list(_object(["file", *photo], {"file": text, **photo})), **known}
        ),
        "Predict": {
            "oneOf": [
                _object(["instances"], {"instances": rows, "signature_name": signature}, additionalProperties=False),
                _object(["inputs"], {"inputs": columns, "signature_name": signature}, additionalProperties=False),
            ]
        },
        "Predicted": {
            "oneOf": [
                _object(["predictions"], {"predictions": _list(_object(answer, answer))}),
                _object(["outputs"], {"outputs": _object(answer, {key: _list(of) for key, of in answer.items()})}),
            ]
        },
        "Infer": _object(
            ["inputs"],
            {
                "id": text,
                "parameters": {"type": "object"},
                "inputs": _list(_object(["name", "datatype", "shape"], asked), minItems=1, maxItems=1),
                "outputs": _list(wanted),
            },
        ),
        "Inferred": _object(
            ["model_name", "model_version", "outputs"],
            {"model_name": text, "model_version": text, "id": text, "outputs": _list(_object(["name"], tensor))},
        ),
    }
