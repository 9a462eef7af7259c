"""Serves an export as one would without this project: the SavedModel's signature in TensorFlow, behind a web framework.

python serve_contestant.py starlette|litserve EXPORT PORT
"""

import sys

import tensorflow as tf


def starlette(export: str, port: int) -> None:
    """Serves with Starlette and uvicorn; a photo is the body, each is answered in a thread."""
    import uvicorn
    from starlette.applications import Starlette
    from starlette.concurrency import run_in_threadpool
    from starlette.responses import JSONResponse
    from starlette.routing import Route

    signature = tf.saved_model.load(f"{export}/saved_model").signatures["serving_default"]

    def classify(photo: bytes) -> dict:
        found = signature(image_bytes=tf.constant([photo]))
        probabilities = found["probabilities"].numpy()[0]
        return {"label": found["label"].numpy()[0].decode(), "probability": float(probabilities.max())}

    async def predict(request):
        return JSONResponse(await run_in_threadpool(classify, await request.body()))

    app = Starlette(routes=[Route("/predict", predict, methods=["POST"])])
    uvicorn.run(app, port=port, log_level="warning")


def litserve(export: str, port: int) -> None:
    """Serves with LitServe; a photo is a file of a form, and what waits is answered together."""
    import litserve as ls

    class Classifier(ls.LitAPI):
        def setup(self, device):
            self.signature = tf.saved_model.load(f"{export}/saved_model").signatures["serving_default"]

        def decode_request(self, request):
            return request["content"].file.read()

        def batch(self, inputs):
            return list(inputs)

        def predict(self, photos):
            found = self.signature(image_bytes=tf.constant(photos))
            return list(zip(found["label"].numpy(), found["probabilities"].numpy(), strict=True))

        def unbatch(self, output):
            return output

        def encode_response(self, output):
            return {"label": output[0].decode(), "probability": float(output[1].max())}

    server = ls.LitServer(Classifier(max_batch_size=16, batch_timeout=0.002), accelerator="cpu")
    server.run(host="127.0.0.1", port=port, generate_client_file=False, log_level="warning")


if __name__ == "__main__":
    {"starlette": starlette, "litserve": litserve}[sys.argv[1]](sys.argv[2], int(sys.argv[3]))
