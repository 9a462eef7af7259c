"""Serves an export with LitServe: a photo is a file of a form, and what waits is answered together by TensorFlow.

python serve_litserve.py EXPORT PORT
"""

import sys

import litserve as ls
import tensorflow as tf


class Classifier(ls.LitAPI):
    """Answers photos by the SavedModel's signature."""

    def setup(self, device):
        self.signature = tf.saved_model.load(f"{sys.argv[1]}/saved_model").signatures["serving_default"]

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


if __name__ == "__main__":
    server = ls.LitServer(Classifier(max_batch_size=16, batch_timeout=0.002), accelerator="cpu")
    server.run(host="127.0.0.1", port=int(sys.argv[2]), generate_client_file=False, log_level="warning")
