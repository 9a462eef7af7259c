"""Sets up two logical CPUs for two replicas anywhere: a conftest imports this before TensorFlow first uses a device."""

import tensorflow as tf

tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
)
