"""Makes the answers of HTTP: JSON, errors that say what to do, and the one of images that are refused."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from pipeline.command import printable_line
from pipeline.images.policy import Reject
from trainer.serve.answering import Answered
from trainer.serve.protocols.bodies import Answer, write_json

JSON = "application/json"


def json_response(value: object, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """Makes a response of JSON."""
    return Response(write_json(value), status, dict(headers or {}), JSON)


def error_response(status: int, text: str, headers: Mapping[str, str] | None = None) -> Response:
    """Makes the response of what went wrong, as the protocols have it."""
    return json_response({"error": text}, status, headers)


def kind_of(request: Request) -> str:
    """Returns the content type of a body, without its parameters; "" where there is none."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def require_kind(request: Request, known: Sequence[str], advice: str) -> None:
    """Raises HTTPException 415 for a body that is of none of these types, or is compressed."""
    coding = request.headers.get("content-encoding", "identity").strip().lower()
    if coding not in ("", "identity"):
        raise HTTPException(415, f"the body is compressed ({coding[:40]}), which is not understood; send it as it is")
    if kind_of(request) not in known:
        raise HTTPException(415, f"content type {kind_of(request)[:100]!r} is not understood; {advice}")


def split(found: Sequence[Answered | Reject], names: Sequence[str] = ()) -> tuple[list[Answer], Response | None]:
    """Returns the answers, or the response that names all images that were refused.

    Args:
      found: what became of each image.
      names: of the images' files, if they have some.
    """
    refused = [(at, one) for at, one in enumerate(found) if isinstance(one, Reject)]
    answers = [one.answer for one in found if isinstance(one, Answered)]
    if not refused:
        return answers, None
    rows = [
        {"index": at, **({"file": names[at]} if names else {}), "code": one.code.value, "reason": one.detail}
        for at, one in refused
    ]
    at, first = refused[0]
    which = f"image {at} of {len(found)}" if len(found) > 1 else "the image"
    name = f" ({printable_line(names[at])[:100]})" if names and names[at] else ""
    more = f"; and {len(refused) - 1} more" if len(refused) > 1 else ""
    text = f"{which}{name} is refused: {first.code.value}: {first.detail}{more}"
    return [], json_response({"error": text, "images": rows}, 400)
