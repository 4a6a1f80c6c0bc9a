"""Triton, as the gpu and maia targets speak it: tile programs to Triton source, interpreted, compiled without a device.

    emit.py        tile program -> a Triton module that stands alone
    elementwise.py how each elementwise operation is spelled
    library.py     functions that Triton lacks (tanh, pow, ...); the emitter copies those that a kernel uses
    harness.py     the module's text, run by Triton's interpreter over numpy, every pointer checked
    compile.py     the module's text, compiled in worker processes, with what the result needs and multiplies with
    ptx.py         matrix instructions read back from PTX, products from Triton's IR
    launch.py      warps and pipeline stages; roofline.py seconds at peak rates
    target.py      the Target that gpu and maia specialize

Only library.py, harness.py and worker.py import triton, so that text can be emitted where it is not installed.
"""
