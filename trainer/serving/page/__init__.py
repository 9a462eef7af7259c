"""Makes try.html of an export: one file to drop a photo on, offline, with the model inside. Free of TensorFlow."""
