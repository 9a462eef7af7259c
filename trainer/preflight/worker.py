"""Compiles a serialized HLO module for a TPU that is not there.

A script of its own: it runs in whichever Python has jax and libtpu, which may be another one than TensorFlow's, and a
compiler that aborts takes no more than this process along.

    python worker.py HLO_FILE TOPOLOGY CHIP_CONFIG OUTPUT_DIRECTORY

Writes result.json ({"memory": …, "cost": …, "versions": …} or {"error": …}) and the compiled program, optimized.txt.
Follows what jax.experimental.jax2tf.call_tf does with TensorFlow's HLO and jax.experimental.topologies with TPUs.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import pathlib
import re
import sys
from typing import Any

# XLA's own dialect has one operation left that StableHLO lacks. A copy of a result changes nothing that counts here.
_COPY = re.compile(r"mhlo\.copy (%\S+) : (tensor<[^>]*>)")
_MEMORY = ("argument", "output", "alias", "temp", "generated_code")


def compile_module(hlo: bytes, topology: str, chip_config: str) -> tuple[dict[str, Any], str]:
    """Returns memory and cost of the compiled program, and its text."""
    import numpy as np
    from jax._src import compiler
    from jax._src.interpreters import mlir
    from jax._src.lib import xla_client
    from jax._src.lib.mlir import ir
    from jax.experimental import topologies

    jax_library = sys.modules[type(xla_client.CompileOptions()).__module__]
    devices = topologies.get_topology_desc(topology, "tpu", chip_config_name=chip_config).devices
    with mlir.make_ir_context():
        module = ir.Module.parse(jax_library.mlir.hlo_to_stablehlo(hlo))
        text = module.operation.get_asm(enable_debug_info=True)  # the names of layers are debug information
        text = _COPY.sub(r"stablehlo.reshape \1 : (\2) -> \2", text)
        options = compiler.get_compile_options(
            num_replicas=len(devices), num_partitions=1, device_assignment=np.array([[d.id] for d in devices])
        )
        where = {"executable_devices": jax_library.DeviceList(tuple(devices)), "compile_options": options}
        client = devices[0].client
        module = ir.Module.parse(text)
        try:
            executable = client.compile(module, **where)
        except TypeError:  # jax 0.6 takes bytes
            executable = client.compile(mlir.module_to_bytecode(module), **where)
    sizes = executable.get_compiled_memory_stats()
    cost = executable.cost_analysis()
    cost = cost[0] if isinstance(cost, list) else cost
    result = {
        "memory": {name: getattr(sizes, f"{name}_size_in_bytes") for name in _MEMORY},
        "cost": {name: cost.get(name, 0.0) for name in ("flops", "bytes accessed", "transcendentals")},
    }
    return result, executable.hlo_modules()[0].to_string()


def main(hlo_file: str, topology: str, chip_config: str, output: str) -> None:
    directory = pathlib.Path(output)
    os.environ.update(
        TPU_SKIP_MDS_QUERY="1",  # else libtpu asks a metadata server for minutes
        TPU_WORKER_HOSTNAMES="localhost",
        TPU_WORKER_ID="0",
        TPU_LOG_DIR="disabled",
        ALLOW_MULTIPLE_LIBTPU_LOAD="1",  # nothing touches a chip
    )
    try:
        result, text = compile_module(pathlib.Path(hlo_file).read_bytes(), topology, chip_config)
        (directory / "optimized.txt").write_text(text)
    except Exception as error:  # whatever jax or libtpu raises, its message is the result
        result = {"error": f"{type(error).__name__}: {error}"}
    result["versions"] = {name: importlib.metadata.version(name) for name in ("jax", "jaxlib", "libtpu")}
    (directory / "result.json").write_text(json.dumps(result))


if __name__ == "__main__":
    main(*sys.argv[1:])
