"""llama.cpp's own HTTP server, which the package xllamacpp carries: ``python native_llama_server.py MODEL PORT``.

Run by the Python of ``CALLBOARD_LLAMA_PYTHON``, which has no callboard.
"""

from __future__ import annotations

import sys
import threading

import xllamacpp

params = xllamacpp.CommonParams()
params.model.path = sys.argv[1]
params.model_alias = {"tiny"}
params.hostnames = ["127.0.0.1"]
params.port = int(sys.argv[2])
params.n_ctx = 8192
params.n_parallel = 2
params.n_gpu_layers = 0
params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
params.endpoint_metrics = True
# Whole floats, so that a prompt computed at once gives what its tokens gave one by one.
params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED

server = xllamacpp.Server(params)
threading.Event().wait()
