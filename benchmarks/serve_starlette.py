"""Serves an export as one would without this project: TensorFlow behind Starlette, each photo answered in a thread.

python serve_starlette.py EXPORT PORT
"""

import sys

import tensorflow as tf
import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.responses import JSONResponse
from starlette.routing import Route


def main(export: str, port: int) -> None:
    """Serves until it is told to end."""
    signature = tf.saved_model.load(f"{export}/saved_model").signatures["serving_default"]

    def classify(photo: bytes) -> dict:
        found = signature(image_bytes=tf.constant([photo]))
        probabilities = found["probabilities"].numpy()[0]
        return {"label": found["label"].numpy()[0].decode(), "probability": float(probabilities.max())}

    async def predict(request):
        return JSONResponse(await run_in_threadpool(classify, await request.body()))

    app = Starlette(routes=[Route("/predict", predict, methods=["POST"])])
    uvicorn.run(app, port=port, log_level="warning")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
